import copy
import io

import numpy as np
import pytest
from model_factories import make_dataset, make_graphs, make_network, make_split, weights_of

from model import parity
from model.bundle import ONNX, ONNX_INT8, PARITY_TOLERANCE, TORCHSCRIPT, WEIGHTS, Examples
from model.data import Dataset, Split
from model.export import example_file, examples_of, export, export_int8
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
    with pytest.raises(ExportError, match=f"^{file}: differs by"):
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

    with pytest.raises(ExportError, match=f"{ONNX}: differs by .* in {output} "):
        check_parity(make_network(2, False), {ONNX: damaged}, seed=0)


@pytest.mark.parametrize(
    ("own", "off", "tolerance"),
    [(0.0, 0.9e-5, 1e-5), (2e-6, 1.1e-5, None), (1e-5, 3e-5, 4e-5), (1e-5, 5e-5, None), (1.0, 0.9e-3, 1e-3)],
)
def test_where_pytorch_itself_is_off_four_times_as_much_is_allowed(monkeypatch, own, off, tolerance):
    monkeypatch.setattr(parity, "_rounding", lambda *_: own)
    graph = make_graphs(2, False)[ONNX]

    def off_by(batch):
        return {name: values + np.float32(off) for name, values in graph(batch).items()}

    if tolerance is None:
        with pytest.raises(ExportError, match=f"PyTorch in float32 is off by {own:.2g}"):
            check_parity(make_network(2, False), {ONNX: off_by}, seed=0)
    else:
        assert check_parity(make_network(2, False), {ONNX: off_by}, seed=0).tolerance == tolerance


def test_pytorchs_own_rounding_is_small_and_not_none():
    network = make_network(2, True)
    exact = copy.deepcopy(network).double()
    batches = [*parity.parity_batches(network, np.random.default_rng(0))]
    assert 0 < parity._rounding(network, exact, batches, parity._lower_stacks(exact)) < PARITY_TOLERANCE


@pytest.mark.parametrize(("steps", "count", "shown"), [(10, 16, 10), (30_000, 2, 30_000), (90_000, 1, 66_666)])
def test_examples_are_few_of_long_sequences_and_the_beginning_of_a_single_one(steps, count, shown):
    sequences = tuple(np.ones((steps, 3), np.float32) for _ in range(32))
    split = Split(sequences, np.arange(32) % 16)
    data = Dataset("d", "s", "l", tuple(map(str, range(16))), split, split)
    examples = examples_of(data).examples
    assert (len(examples), {len(example.sequence) for example in examples}) == (count, {shown})


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
