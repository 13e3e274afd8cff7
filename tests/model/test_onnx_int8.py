"""`model.onnx_int8`, run by ONNX Runtime: near the float graph, and the same to the last bit in any company."""

from itertools import product

import numpy as np
import onnx
import pytest
from model_factories import make_graphs, make_network, weights_of
from onnx import numpy_helper

from model.bundle import ONNX
from model.graphs import Batch, open_onnx
from model.onnx_int8 import build_onnx_int8
from model.parity import state_shape

SIZES = [*product((1, 2, 3), (False, True))]
BOUND = 4.0
LENGTHS = (7, 1, 4, 7, 2)


def open_int8(num_layers, bidirectional):
    network = make_network(num_layers, bidirectional)
    return network, open_onnx(build_onnx_int8(network.size, weights_of(network), input_bound=BOUND))


def make_batch(network, lengths, *, seed=0, steps=None):
    """Sequences as the standardiser expects them, from states as an LSTM leaves them, with garbage in the padding."""
    random = np.random.default_rng(seed)
    shape = (len(lengths), steps or max(lengths), network.size.input_size)
    standardised = random.uniform(-BOUND, BOUND, shape)
    sequences = (network.mean.numpy() + network.std.numpy() * standardised).astype(np.float32)
    sequences[np.arange(shape[1]) >= np.array(lengths)[:, None]] = np.nan
    h0, c0 = random.uniform(-1, 1, (2, *state_shape(network.size, len(lengths)))).astype(np.float32)
    return Batch(sequences, np.array(lengths, np.int64), h0, 2 * c0)


def one_of(batch, row):
    steps = batch.lengths[row]
    state = (array[:, row : row + 1] for array in (batch.h0, batch.c0))
    return Batch(batch.sequences[row : row + 1, :steps], batch.lengths[row : row + 1], *state)


def row_of(results, row, steps):
    """What belongs to one sequence, without its padding."""
    taken = {name: values[:, row] if name in {"hn", "cn"} else values[row] for name, values in results.items()}
    return {name: values[:steps] if name.startswith("hidden_states") else values for name, values in taken.items()}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize(("num_layers", "bidirectional"), SIZES)
@pytest.mark.parametrize("lengths", [(1,), (1, 1), (9,), LENGTHS])
def test_every_output_is_near_the_float_graphs(num_layers, bidirectional, lengths):
    network, graph = open_int8(num_layers, bidirectional)
    batch = make_batch(network, lengths)
    expected = make_graphs(num_layers, bidirectional)[ONNX](batch)
    actual = graph(batch)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        assert actual[name].shape == values.shape
        assert np.abs(actual[name] - values).max() < 0.1, name
    assert np.abs(actual["probabilities"] - expected["probabilities"]).max() < 0.02


@pytest.mark.parametrize(("num_layers", "bidirectional"), SIZES)
def test_company_and_padding_change_no_bit_of_an_answer(num_layers, bidirectional):
    network, graph = open_int8(num_layers, bidirectional)
    batch = make_batch(network, LENGTHS, steps=10)
    together = graph(batch)
    for row, steps in enumerate(LENGTHS):
        assert_same(row_of(graph(one_of(batch, row)), 0, steps), row_of(together, row, steps))


@pytest.mark.parametrize(("num_layers", "bidirectional"), SIZES)
@pytest.mark.parametrize("factor", [1e3, 1e30, 0.0])
def test_a_mate_of_any_values_changes_no_bit_of_an_answer(num_layers, bidirectional, factor):
    network, graph = open_int8(num_layers, bidirectional)
    batch = make_batch(network, LENGTHS)
    expected = graph(batch)
    for mates in (batch.sequences[1:], batch.h0[:, 1:], batch.c0[:, 1:]):
        mates[:] *= np.float32(factor)
    actual = graph(batch)
    assert np.isfinite(actual["probabilities"]).all()
    assert_same(row_of(actual, 0, LENGTHS[0]), row_of(expected, 0, LENGTHS[0]))


def test_the_scale_holds_over_thousands_of_steps():
    network, graph = open_int8(2, False)
    batch = make_batch(network, (5000, 5000))
    expected = graph(batch)
    batch.sequences[1] *= 0
    assert_same(row_of(graph(batch), 0, 5000), row_of(expected, 0, 5000))


@pytest.mark.parametrize("num_layers", [1, 2])
def test_a_sequence_can_be_resumed_from_its_state_to_the_last_bit(num_layers):
    network, graph = open_int8(num_layers, False)
    batch = make_batch(network, (9, 9))
    whole = graph(batch)
    lengths = np.array([4, 4])
    first = graph(Batch(batch.sequences[:, :4], lengths, batch.h0, batch.c0))
    second = graph(Batch(batch.sequences[:, 4:], lengths + 1, first["hn"], first["cn"]))
    for name in ("probabilities", "hn", "cn"):
        np.testing.assert_array_equal(second[name], whole[name])


def test_the_initial_state_counts_as_in_the_float_graph():
    network, graph = open_int8(1, False)
    batch = make_batch(network, LENGTHS)
    from_zero = Batch(batch.sequences, batch.lengths, 0 * batch.h0, 0 * batch.c0)
    exact = make_graphs(1, False)[ONNX]
    effect = exact(batch)["probabilities"] - exact(from_zero)["probabilities"]
    assert np.abs(effect).max() > 0.05
    found = graph(batch)["probabilities"] - graph(from_zero)["probabilities"]
    np.testing.assert_allclose(found, effect, atol=0.03)


def test_values_beyond_the_bound_count_as_the_bound():
    network, graph = open_int8(1, False)
    batch = make_batch(network, (5, 5))
    standardised = (batch.sequences - network.mean.numpy()) / network.std.numpy()
    batch.sequences[0] = network.mean.numpy() + network.std.numpy() * 7 * standardised[0]
    batch.sequences[1] = network.mean.numpy() + network.std.numpy() * np.clip(7 * standardised[0], -BOUND, BOUND)
    for array in (batch.h0, batch.c0):
        array[:] = 0
    first, second = graph(batch)["probabilities"]
    np.testing.assert_allclose(first, second, atol=1e-6)


@pytest.mark.parametrize(("num_layers", "bidirectional"), SIZES)
def test_no_two_products_overflow_the_16_bits_of_processors_without_vnni(num_layers, bidirectional):
    network = make_network(num_layers, bidirectional)
    model = onnx.load_from_string(build_onnx_int8(network.size, weights_of(network), input_bound=BOUND))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    weights = [values for name, values in constants.items() if values.ndim == 3 and name[:2] in {"W_", "R_"}]
    assert len(weights) == 2 * num_layers
    assert all(values.dtype == np.int8 for values in weights)
    assert max(2 * 255 * int(np.abs(values.astype(int)).max()) for values in weights) < 2**15


def test_a_layer_whose_weights_are_all_zero_has_an_answer():
    network = make_network(1, False)
    weights = {name: 0 * values if "weight" in name else values for name, values in weights_of(network).items()}
    graph = open_onnx(build_onnx_int8(network.size, weights, input_bound=BOUND))
    assert np.isfinite(graph(make_batch(network, LENGTHS))["probabilities"]).all()
