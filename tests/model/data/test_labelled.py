import numpy as np
import pytest

from model.data import DataError
from model.data.labelled import MAX_CLASSES, Halves, LabelledSequences, assemble, sort_labels


def labelled(labels, sequences=None):
    if sequences is None:
        sequences = [np.full((3, 2), i, dtype=np.float64) for i in range(len(labels))]
    return LabelledSequences(tuple(sequences), tuple(labels), tuple(f"x.csv, line {i + 2}" for i in range(len(labels))))


def assembled(train, test=None, seed=0):
    return assemble(Halves("x", train, test), source="here", licence="none", seed=seed)


def one_bad_sequence(bad):
    good = np.zeros((3, 2))
    return labelled("aabb", [good, good, bad, good])


def test_targets_are_positions_in_the_sorted_labels_and_values_are_float32():
    dataset = assembled(labelled(["10", "9", "9", "10"]), labelled(["9", "10"]))
    assert dataset.labels == ("9", "10")
    assert dataset.train.targets.tolist() == [1, 0, 0, 1]
    assert dataset.test.targets.tolist() == [0, 1]
    assert dataset.train.targets.dtype == np.int64
    assert dataset.train.sequences[1].dtype == np.float32
    assert dataset.train.sequences[1].tolist() == [[1, 1]] * 3
    assert (dataset.name, dataset.source, dataset.licence, dataset.input_size) == ("x", "here", "none", 2)


def test_without_a_test_half_a_fifth_is_held_out_by_the_seed():
    everything = labelled("ab" * 20)
    dataset = assembled(everything, seed=3)
    assert (len(dataset.train), len(dataset.test)) == (32, 8)
    held_out = [sequence[0, 0] for sequence in dataset.test.sequences]
    assert held_out == [sequence[0, 0] for sequence in assembled(everything, seed=3).test.sequences]
    assert held_out != [sequence[0, 0] for sequence in assembled(everything, seed=4).test.sequences]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["10", "9", "1"], ("1", "9", "10")),
        (["2.5", "-1", "1e1"], ("-1", "2.5", "1e1")),
        (["10", "9", "b"], ("10", "9", "b")),
        (["nan", "2", "10"], ("10", "2", "nan")),
    ],
)
def test_labels_sort_as_numbers_only_when_all_are_finite_numbers(labels, expected):
    assert sort_labels(labels) == expected


def test_a_missing_value_is_refused_with_sequence_step_and_feature():
    with pytest.raises(DataError, match=r"x\.csv, line 4: step 2, feature 1 \(from 0\): got nan"):
        assembled(one_bad_sequence(np.array([[0, 0], [0, 0], [0, np.nan]])))


@pytest.mark.parametrize("value", [np.inf, -np.inf, 1e39])
def test_a_value_that_is_infinite_in_float32_is_refused_as_it_was_written(value):
    with pytest.raises(DataError, match=rf"line 4: step 0, feature 0 .*got {str(value).replace('+', '.')}"):
        assembled(one_bad_sequence(np.array([[value, 0]])))


def test_a_missing_value_in_the_test_half_is_refused_too():
    with pytest.raises(DataError, match="got nan"):
        assembled(labelled("aabb"), one_bad_sequence(np.full((1, 2), np.nan)))


def test_an_empty_sequence_is_refused():
    with pytest.raises(DataError, match=r"line 4: got an empty sequence of shape \(0, 2\)"):
        assembled(one_bad_sequence(np.zeros((0, 2))))


def test_a_sequence_with_another_feature_count_is_refused():
    with pytest.raises(DataError, match="line 4: got 3 features, the first sequence has 2"):
        assembled(one_bad_sequence(np.zeros((3, 3))))


def test_no_sequences_are_refused_in_either_half():
    with pytest.raises(DataError, match="got no training sequences"):
        assembled(labelled([]))
    with pytest.raises(DataError, match="got no test sequences"):
        assembled(labelled("aabb"), labelled([]))


def test_a_single_class_is_refused():
    with pytest.raises(DataError, match=r"got 1 class \('a'\), allowed is two or more"):
        assembled(labelled("aaa"))


def test_a_class_with_one_training_example_is_refused_with_its_place():
    with pytest.raises(DataError, match="line 4: class 'b' has a single training example"):
        assembled(labelled("aabaa"))


def test_a_test_label_that_training_never_saw_is_refused():
    with pytest.raises(DataError, match=r"line 3: test label 'c' is not in the training set; allowed: \['a', 'b'\]"):
        assembled(labelled("aabb"), labelled("ac"))


def test_more_classes_than_a_manifest_can_hold_are_refused():
    labels = [str(i) for i in range(MAX_CLASSES)] * 2
    assert len(assembled(labelled(labels)).labels) == MAX_CLASSES
    with pytest.raises(DataError, match="got 1001 classes, allowed are 1000 at most"):
        assembled(labelled([*labels, "more", "more"]))
