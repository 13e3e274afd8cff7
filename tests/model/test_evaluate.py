import numpy as np
import pytest
from model_factories import make_dataset, make_graphs, make_network, make_split, publish_made_up
from sklearn.metrics import confusion_matrix, f1_score

from model.data import DataError
from model.evaluate import BATCH_SIZE, evaluate, held_out_for, predict, score
from model.graphs import Batch


def test_figures_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    targets, predictions = random.integers(0, 5, (2, 200))
    evaluation = score(targets, predictions, num_classes=5)
    assert evaluation.accuracy == pytest.approx((targets == predictions).mean())
    assert evaluation.macro_f1 == pytest.approx(f1_score(targets, predictions, average="macro"))
    np.testing.assert_array_equal(evaluation.confusion_matrix, confusion_matrix(targets, predictions))


def test_a_class_that_does_not_occur_does_not_count_in_macro_f1():
    targets = np.array([0, 0, 1])
    assert score(targets, targets, num_classes=3).macro_f1 == 1.0


def test_a_class_that_is_never_found_counts_as_zero():
    assert score(np.array([0, 1]), np.array([0, 0]), num_classes=2).macro_f1 == pytest.approx(1 / 3)


def test_predictions_come_in_the_order_of_the_sequences():
    network, graph = make_network(1, False), make_graphs(1, False)["model.onnx"]
    split = make_split(BATCH_SIZE + 9, num_classes=3, input_size=3)
    together = predict(graph, split, network.size)
    state = np.zeros((1, 1, 4), np.float32)
    for sequence, probabilities in zip(split.sequences, together, strict=True):
        alone = graph(Batch(sequence[None], np.array([len(sequence)]), state, state))["probabilities"][0]
        np.testing.assert_allclose(probabilities, alone, atol=1e-6)


def test_graphs_that_agree_are_said_to():
    comparison = evaluate(
        make_graphs(1, False), make_split(20, num_classes=3, input_size=3), make_network(1, False).size
    )
    assert comparison.disagreements == 0
    assert comparison.max_difference < 1e-5


def test_sequences_that_two_graphs_class_differently_are_counted():
    def always(winner):
        return lambda batch: {"probabilities": np.eye(3, dtype=np.float32)[np.full(len(batch.lengths), winner)]}

    split = make_split(10, num_classes=3, input_size=3)
    comparison = evaluate({"a": always(0), "b": always(1)}, split, make_network(1, False).size)
    assert (comparison.disagreements, comparison.sequences, comparison.max_difference) == (10, 10, 1.0)
    assert (comparison.evaluations["a"].accuracy, comparison.evaluations["b"].accuracy) == (0.4, 0.3)


def test_labels_are_matched_by_name_not_by_position(tmp_path):
    manifest = publish_made_up(tmp_path).manifest
    data = make_dataset(labels=("yes", "no"))
    np.testing.assert_array_equal(held_out_for(manifest, data).targets, 1 - data.test.targets)


def test_a_label_that_the_model_does_not_know_is_named(tmp_path):
    manifest = publish_made_up(tmp_path).manifest
    with pytest.raises(DataError, match="label 'perhaps' is unknown to made-up; its labels are no, yes"):
        held_out_for(manifest, make_dataset(labels=("no", "perhaps")))


def test_another_number_of_features_is_an_error(tmp_path):
    manifest = publish_made_up(tmp_path).manifest
    data = make_dataset(train=make_split(4, input_size=5), test=make_split(4, input_size=5))
    with pytest.raises(DataError, match="has 5 features a step, made-up was trained on 2"):
        held_out_for(manifest, data)
