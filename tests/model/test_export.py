import io

import numpy as np
import pytest
from model_factories import make_dataset, make_graphs, make_network, make_split, weights_of

from model.bundle import ONNX, ONNX_INT8, TORCHSCRIPT, WEIGHTS, Examples
from model.export import example_file, export, export_int8
from model.graphs import Batch, open_onnx
from model.onnx_graph import build_onnx
from model.parity import ExportError, check_parity, largest_difference
from model.torchscript import build_torchscript

BUILDERS = {"build_onnx": (build_onnx, ONNX), "build_torchscript": (build_torchscript, TORCHSCRIPT)}


@pytest.mark.parametrize("builder", BUILDERS)
@pytest.mark.parametrize("weight", ["mean", "lstm.bias_hh_l0", "lstm.weight_hh_l1", "linear.bias"])
def test_a_graph_with_one_weight_off_by_a_thousandth_is_refused_by_name(monkeypatch, builder, weight):
    build, file = BUILDERS[builder]

    def build_wrongly(size, weights):
        wrong = {name: value.copy() for name, value in weights.items()}
        wrong[weight].flat[0] += 1e-3
        return build(size, wrong)

    monkeypatch.setattr(f"model.export.{builder}", build_wrongly)
    with pytest.raises(ExportError, match=f"^{file}: .* differs by"):
        export(make_network(2, False), seed=0)


@pytest.mark.parametrize("output", ["probabilities", "hn", "cn", "hidden_states", "hidden_states_0"])
@pytest.mark.parametrize("damage", ["shift", "nan", "shape", "missing"])
def test_any_output_that_differs_is_an_error(output, damage):
    graph = make_graphs(2, False)[ONNX]

    def damaged(batch):
        results = graph(batch)
        values = results.pop(output)
        changes = {
            "shift": values + 2e-5 * np.maximum(abs(values), 1),
            "nan": values * np.nan,
            "shape": values[..., :1],
        }
        return results | {output: changes[damage].astype(np.float32)} if damage in changes else results

    with pytest.raises(ExportError, match=f"{ONNX}: {output} differs"):
        check_parity(make_network(2, False), {ONNX: damaged}, seed=0)


def test_a_difference_is_absolute_up_to_one_and_relative_above():
    assert largest_difference(np.array([0.5, 0.0]), np.array([0.25, 0.0])) == 0.25
    assert largest_difference(np.array([101.0]), np.array([100.0])) == 0.01
    assert largest_difference(np.array([100.0, 0.5]), np.array([100.0, 0.25])) == 0.0025


def test_the_weights_are_filed_under_their_pytorch_names():
    network = make_network(1, True)
    files, _, _ = export(network, seed=0)
    with np.load(io.BytesIO(files[WEIGHTS])) as archive:
        filed = dict(archive)
    expected = weights_of(network)
    assert filed.keys() == expected.keys() >= {"mean", "std", "lstm.weight_ih_l0_reverse", "linear.bias"}
    for name, values in expected.items():
        assert filed[name].dtype == np.float32
        np.testing.assert_array_equal(filed[name], values)


def test_the_examples_cover_every_class_and_are_exactly_the_held_out_sequences():
    data = make_dataset(test=make_split(30, num_classes=3), labels=("a", "b", "c"))
    (content,) = example_file(data).values()
    examples = Examples.model_validate_json(content).examples
    assert len(examples) == 8
    assert {example.label for example in examples} == {"a", "b", "c"}
    held_out = {(data.labels[t], s.tobytes()) for s, t in zip(data.test.sequences, data.test.targets, strict=True)}
    assert {(e.label, np.array(e.sequence, np.float32).tobytes()) for e in examples} <= held_out


def test_what_is_said_of_int8_is_what_a_count_over_the_held_out_sequences_gives():
    network, data = make_network(2, True), make_dataset(*(make_split(40, num_classes=3, input_size=3),) * 2)
    exact = make_graphs(2, True)[ONNX]
    content, measured = export_int8(network, exact, train=data.train, test=data.test)
    rounded = open_onnx(content)
    changes, right = [], 0
    for sequence, target in zip(data.test.sequences, data.test.targets, strict=True):
        state = np.zeros((4, 1, 4), np.float32)
        batch = Batch(sequence[None], np.array([len(sequence)]), state, state)
        found = rounded(batch)["probabilities"][0]
        changes.append(np.abs(found - exact(batch)["probabilities"][0]).max())
        right += found.argmax() == target
    assert measured.accuracy == right / 40
    assert measured.max_difference == pytest.approx(max(changes), abs=1e-6)
    standardised = [(sequence - network.mean.numpy()) / network.std.numpy() for sequence in data.train.sequences]
    assert measured.input_bound == pytest.approx(max(np.abs(values).max() for values in standardised))


def test_a_graph_in_8_bits_that_onnxruntime_refuses_is_an_error_that_says_so(monkeypatch):
    monkeypatch.setattr("model.export.build_onnx_int8", lambda *_, **__: b"garbage")
    split = make_split(4, num_classes=3, input_size=3)
    with pytest.raises(ExportError, match=f"^{ONNX_INT8}: onnxruntime cannot run it: "):
        export_int8(make_network(1, False), make_graphs(1, False)[ONNX], train=split, test=split)
