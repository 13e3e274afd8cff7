import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from model.data import load
from model.data.reference import load_reference


@pytest.fixture(scope="module")
def dataset():
    return load_reference()


def stacked(split):
    return np.stack(split.sequences), split.targets


def held_out_accuracy(classifier, statistic, dataset):
    X, y = stacked(dataset.train)
    X_test, y_test = stacked(dataset.test)
    return classifier.fit(statistic(X), y).score(statistic(X_test), y_test)


def step_averages(X):
    return X.mean(axis=1)


def sorted_values(X):
    """What each channel took on, with the time at which it did forgotten."""
    return np.sort(X, axis=1).reshape(len(X), -1)


def flattened(X):
    return X.reshape(len(X), -1)


def test_it_has_the_shapes_of_the_design(dataset):
    assert len(dataset.labels) == 3
    assert dataset.input_size == 5
    assert (len(dataset.train), len(dataset.test)) == (100, 1000)
    for split in (dataset.train, dataset.test):
        assert {sequence.shape for sequence in split.sequences} == {(10, 5)}
        assert {sequence.dtype for sequence in split.sequences} == {np.dtype(np.float32)}
        counts = np.bincount(split.targets, minlength=3)
        assert counts.max() - counts.min() <= 1


def test_it_is_always_the_same_data_whatever_the_seed(dataset):
    for other in (load("reference", seed=1), load("reference", seed=2)):
        assert np.array_equal(stacked(other.train)[0], stacked(dataset.train)[0])
        assert np.array_equal(other.test.targets, dataset.test.targets)


def test_the_held_out_sequences_are_a_fresh_draw(dataset):
    train = {sequence.tobytes() for sequence in dataset.train.sequences}
    assert not any(sequence.tobytes() in train for sequence in dataset.test.sequences)


def test_labels_are_sorted_like_those_of_every_data_set(dataset):
    assert list(dataset.labels) == sorted(dataset.labels)


@pytest.mark.parametrize("statistic", [step_averages, sorted_values])
@pytest.mark.parametrize(
    "classifier", [LogisticRegression(max_iter=1000), RandomForestClassifier(n_estimators=100, random_state=0)]
)
def test_whoever_forgets_the_order_of_the_steps_stays_at_chance(classifier, statistic, dataset):
    # Standard deviation of a guesser on 1000 sequences: 0.015.
    assert abs(held_out_accuracy(classifier, statistic, dataset) - 1 / 3) < 0.06


def test_the_same_classifier_does_better_once_it_sees_the_order(dataset):
    forest = RandomForestClassifier(n_estimators=100, random_state=0)
    assert held_out_accuracy(forest, flattened, dataset) > 0.5


def test_a_matched_filter_that_knows_the_orders_is_right_nearly_always(dataset):
    """The classes can be told apart: an upper bound that needs no training."""
    X, y = stacked(dataset.test)
    orders = {"falling": [4, 3, 2, 1, 0], "rising": [0, 1, 2, 3, 4], "zigzag": [2, 0, 4, 1, 3]}
    scores = np.stack(
        [
            np.max([X[:, np.arange(5) + start, orders[label]].sum(axis=1) for start in range(6)], axis=0)
            for label in dataset.labels
        ]
    )
    assert (scores.argmax(axis=0) == y).mean() > 0.99
