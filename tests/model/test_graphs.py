"""What both exported graphs promise, as properties: parity, padding, carried state, own lengths."""

import io

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_factories import make_graphs, make_network, weights_of

from model.bundle import INPUTS, ONNX, OUTPUTS, PARITY_TOLERANCE, TORCHSCRIPT, lower_outputs
from model.graphs import Batch, open_onnx
from model.onnx_graph import IR_VERSION, OPSET, build_onnx
from model.parity import check_parity, eager, largest_difference, parity_batches, state_shape
from model.torchscript import build_torchscript, torchscript_deprecated

BOTH = pytest.mark.parametrize("file", [ONNX, TORCHSCRIPT])
SHAPES = pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (1, True), (2, False), (2, True)])
seeds = st.integers(0, 2**32 - 1)


def draw_batch(network, random, batch_size, steps):
    size = network.size
    sequences = random.standard_normal((batch_size, steps, size.input_size), np.float32)
    lengths = random.integers(1, steps, batch_size, endpoint=True)
    h0, c0 = random.standard_normal((2, *state_shape(size, batch_size)), np.float32)
    return Batch(sequences, lengths, h0, c0)


def assert_equal(actual, expected, *, names=None):
    for name in names or expected:
        assert largest_difference(actual[name], expected[name]) <= PARITY_TOLERANCE, name


@SHAPES
def test_both_graphs_agree_with_eager_pytorch_over_the_whole_grid(num_layers, bidirectional):
    parity = check_parity(make_network(num_layers, bidirectional), make_graphs(num_layers, bidirectional), seed=0)
    assert set(parity.max_difference) == {ONNX, TORCHSCRIPT}
    assert max(parity.max_difference.values()) <= parity.tolerance == 1e-5


def test_the_grid_has_batches_and_sequences_of_one_and_ragged_ones_from_a_zero_and_from_a_carried_state():
    batches = [*parity_batches(make_network(1, False), np.random.default_rng(0))]
    assert {1, 2} <= {len(batch.lengths) for batch in batches}
    assert {1, 2} <= {batch.sequences.shape[1] for batch in batches}
    assert any(len(set(batch.lengths)) > 2 for batch in batches)
    assert {bool(batch.h0.any()) for batch in batches} == {True, False}
    assert any(np.isnan(batch.sequences).any() for batch in batches)


@BOTH
@SHAPES
@settings(max_examples=15, deadline=None)
@given(
    seed=seeds,
    batch_size=st.integers(1, 4),
    steps=st.integers(1, 8),
    more=st.integers(0, 5),
    garbage=st.sampled_from([0.0, -7.0, 3e38, np.inf, np.nan]),
)
def test_padding_never_changes_a_result(*, file, num_layers, bidirectional, seed, batch_size, steps, more, garbage):
    network, graph = make_network(num_layers, bidirectional), make_graphs(num_layers, bidirectional)[file]
    batch = draw_batch(network, np.random.default_rng(seed), batch_size, steps)
    wider = np.full((batch_size, steps + more, network.size.input_size), np.float32(garbage))
    for row, length in enumerate(batch.lengths):
        wider[row, :length] = batch.sequences[row, :length]
    padded = graph(Batch(wider, batch.lengths, batch.h0, batch.c0))
    for row, length in enumerate(batch.lengths):
        state = np.s_[:, row : row + 1]
        one = np.s_[row : row + 1]
        alone = graph(Batch(batch.sequences[one, :length], batch.lengths[one], batch.h0[state], batch.c0[state]))
        for name, values in alone.items():
            if name in {"hn", "cn"}:
                assert_equal({name: padded[name][state]}, {name: values})
            elif name.startswith("hidden_states"):
                assert_equal({name: padded[name][one, :length]}, {name: values})
                assert not padded[name][row, length:].any(), "zero in the padding"
            else:
                assert_equal({name: padded[name][one]}, {name: values})


@BOTH
@pytest.mark.parametrize("num_layers", [1, 2])
@settings(max_examples=15, deadline=None)
@given(seeds, st.integers(2, 9), st.data())
def test_in_one_direction_two_chunks_with_carried_state_are_one_whole(file, num_layers, seed, steps, data):
    network, graph = make_network(num_layers, False), make_graphs(num_layers, False)[file]
    batch = draw_batch(network, np.random.default_rng(seed), 3, steps)
    cut = data.draw(st.integers(1, steps - 1))
    full = np.full(3, steps)
    whole = graph(Batch(batch.sequences, full, batch.h0, batch.c0))
    first = graph(Batch(batch.sequences[:, :cut], np.full(3, cut), batch.h0, batch.c0))
    second = graph(Batch(batch.sequences[:, cut:], full - cut, first["hn"], first["cn"]))
    assert_equal(second, whole, names=["probabilities", "logits", "last_hidden", "hn", "cn"])
    states = np.concatenate([first["hidden_states"], second["hidden_states"]], axis=1)
    assert_equal({"hidden_states": states}, whole, names=["hidden_states"])


@SHAPES
def test_the_outputs_come_in_the_order_of_the_manifest(num_layers, bidirectional):
    names = OUTPUTS + lower_outputs(num_layers)
    network = make_network(num_layers, bidirectional)
    batch = draw_batch(network, np.random.default_rng(0), 2, 3)
    for graph in make_graphs(num_layers, bidirectional).values():
        assert tuple(graph(batch)) == names
    assert set(eager(network, batch)) == set(names)


def test_the_onnx_graph_names_its_free_axes_and_keeps_to_old_versions():
    network = make_network(2, True)
    model = onnx.load_from_string(build_onnx(network.size, weights_of(network)))

    def shapes(values):
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    state = [4, "batch", 4]
    assert (model.opset_import[0].version, model.ir_version) == (OPSET, IR_VERSION) == (17, 8)
    assert shapes(model.graph.input) == dict(zip(INPUTS, (["batch", "time", 3], ["batch"], state, state), strict=True))
    assert shapes(model.graph.output) == {
        "probabilities": ["batch", 3],
        "logits": ["batch", 3],
        "last_hidden": ["batch", 8],
        "hidden_states": ["batch", "time", 8],
        "hn": state,
        "cn": state,
        "hidden_states_0": ["batch", "time", 8],
    }


def test_the_onnx_graph_of_one_layer_and_direction_takes_no_step_that_only_others_need():
    network = make_network(1, False)
    model = onnx.load_from_string(build_onnx(network.size, weights_of(network)))
    steps = ["Sub", "Transpose", "Cast", "LSTM", "Transpose", "Reshape", "Reshape", "Gemm", "Softmax"]
    assert [node.op_type for node in model.graph.node] == steps


@pytest.mark.parametrize(("mean", "std"), [(1e5, 1.0), (0.0, 1e-20), (0.0, 1e20)])
def test_where_a_feature_lies_and_how_far_it_reaches_costs_no_precision(mean, std):
    network = make_network(2, True)
    weights = weights_of(network) | {"mean": np.full(3, mean, np.float32), "std": np.full(3, std, np.float32)}
    graph = open_onnx(build_onnx(network.size, weights))
    usual = draw_batch(network, np.random.default_rng(0), 4, 6)
    moved = (np.float32(mean) + np.float32(std) * usual.sequences).astype(np.float32)
    standardised = (moved - np.float32(mean)) / np.float32(std)  # what float32 has kept of them
    assert len(np.unique(standardised)) > 4 * 6
    plain = weights | {"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32)}
    expected = open_onnx(build_onnx(network.size, plain))(Batch(standardised, usual.lengths, usual.h0, usual.c0))
    assert_equal(graph(Batch(moved, usual.lengths, usual.h0, usual.c0)), expected)


def test_the_torchscript_file_holds_no_path_of_the_machine_that_made_it():
    network = make_network(1, False)
    content = build_torchscript(network.size, weights_of(network))
    assert b"torchscript.py" not in content
    with torchscript_deprecated():
        assert isinstance(torch.jit.load(io.BytesIO(content)), torch.jit.ScriptModule)


def test_the_same_weights_give_the_same_onnx_file():
    network = make_network(2, False)
    assert build_onnx(network.size, weights_of(network)) == build_onnx(network.size, weights_of(network))
