"""`service.trace` and what the engine makes of it, against a loop over `torch.nn.LSTMCell`."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from model.bundle import WEIGHTS, Bundle, BundleError, Manifest, open_bundle, publish
from service.backends import Array, Runtime
from service.batcher import QueueLimits
from service.engine import Engine, EngineLimits, Query, load
from service.metrics import Metrics
from service.policy import Limits
from service.tensors import Sequences, TraceLevel
from service.timing import Timing
from service.trace import Tracer, softmax

KINDS = ("tiny", "stacked", "bidirectional", "both")
LENGTHS = (5, 1, 8, 3)
GATES = ("input_gate", "forget_gate", "cell_candidate", "output_gate")
ONNX = Runtime(("onnx",), "cpu", 1)
LIMITS = EngineLimits(Limits(64, 10_000), QueueLimits(1000, 100_000), 1000, 1_000_000)

Weights = dict[str, torch.Tensor]
Expected = dict[str, np.ndarray[Any, Any]]


def make_sequences(lengths: tuple[int, ...] = LENGTHS) -> Sequences:
    values = np.random.default_rng(5).normal(size=(sum(lengths), 3)).astype(np.float32)
    return Sequences(values, np.array(lengths, np.int64))


def trace(
    bundle: Bundle, level: TraceLevel, *, runtime: Runtime = ONNX, sequences: Sequences | None = None
) -> list[Expected]:
    """The traces that the engine answers `make_sequences()` with: arrays by layer name, in the answer's order."""

    async def ask() -> list[Expected]:
        engine = Engine(load(bundle, runtime, LIMITS), limits=LIMITS, metrics=Metrics())
        query = Query(sequences or make_sequences(), timeout_s=30, trace=level)
        prediction = await engine.predict(query, Timing())
        await engine.close()
        assert prediction.traces is not None
        return [{layer.name: layer.values for layer in layers} for layers in prediction.traces]

    return asyncio.run(ask())


def run_cells(weights: Weights, manifest: Manifest, sequence: Array) -> Expected:
    """Everything that a trace shows of `sequence` (T, F), one step of one cell after another."""
    arrays = {"input_sequence": sequence, "standardised": (sequence - weights["mean"].numpy()) / weights["std"].numpy()}
    inputs, final = torch.from_numpy(arrays["standardised"]), []
    for layer in range(manifest.num_layers):
        suffix = f"_{layer}" if manifest.num_layers > 1 else ""
        sides = [run_direction(weights, manifest, layer, side, inputs) for side in range(manifest.num_directions)]
        for name in ("lstm", *GATES, "cell_state"):
            arrays[name + suffix] = torch.cat([side[name] for side in sides], dim=1).numpy()
        final = [sides[0]["lstm"][-1], *(side["lstm"][0] for side in sides[1:])]
        inputs = torch.cat([side["lstm"] for side in sides], dim=1)
    last_hidden = torch.cat(final)
    logits = weights["linear.weight"] @ last_hidden + weights["linear.bias"]
    arrays |= {"last_hidden": last_hidden.numpy(), "linear": logits.numpy(), "softmax": logits.softmax(0).numpy()}
    return arrays


def run_direction(weights: Weights, manifest: Manifest, layer: int, side: int, inputs: torch.Tensor) -> Weights:
    suffix = f"_l{layer}" + "_reverse" * side
    cell = nn.LSTMCell(inputs.shape[1], manifest.hidden_size).requires_grad_(False)
    cell.load_state_dict({name: weights[f"lstm.{name}{suffix}"] for name in cell.state_dict()})
    h = c = torch.zeros(manifest.hidden_size)
    steps = []
    for x in inputs.flip(0) if side else inputs:
        # LSTMCell keeps its gates to itself; they are its documentation's formula, and the cell proves them.
        i, f, g, o = (cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh).chunk(4)
        h, c = cell(x, (h, c))
        assert torch.allclose(h, o.sigmoid() * c.tanh(), atol=1e-6)
        steps.append((h, i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid(), c))
    arrays = [torch.stack(column) for column in zip(*steps, strict=True)]
    names = ("lstm", *GATES, "cell_state")
    return {name: array.flip(0) if side else array for name, array in zip(names, arrays, strict=True)}


def expect(bundle: Bundle, sequence: Array) -> Expected:
    with np.load(bundle.folder / WEIGHTS) as file:
        weights = {name: torch.from_numpy(file[name]) for name in file.files}
    arrays = run_cells(weights, bundle.manifest, sequence)
    prefixes = [run_cells(weights, bundle.manifest, sequence[: end + 1]) for end in range(len(sequence))]
    return {**arrays, "step_probabilities": np.stack([prefix["softmax"] for prefix in prefixes])}


def expected_shapes(manifest: Manifest, steps: int, *, gates: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes in the order of the public contract, written out."""
    width, classes = manifest.hidden_size * (2 if manifest.bidirectional else 1), len(manifest.labels)
    shapes: list[tuple[str, tuple[int, ...]]] = [("input_sequence", (steps, 3)), ("standardised", (steps, 3))]
    for suffix in ("",) if manifest.num_layers == 1 else ("_0", "_1"):
        shapes.append((f"lstm{suffix}", (steps, width)))
        if gates:
            shapes += [(name + suffix, (steps, width)) for name in (*GATES, "cell_state")]
    shapes += [("last_hidden", (width,)), ("linear", (classes,)), ("softmax", (classes,))]
    return [*shapes, ("step_probabilities", (steps, classes))] if gates else shapes


@pytest.mark.parametrize("backend", ["onnx", "torchscript"])
@pytest.mark.parametrize("level", ["layers", "gates"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_is_what_a_loop_over_cells_computes(
    repository: Path, kind: str, level: TraceLevel, backend: str
) -> None:
    bundle = open_bundle(repository / kind / "1")
    traces = trace(bundle, level, runtime=Runtime((backend,), "cpu", 1))
    assert len(traces) == len(LENGTHS)
    for sequence, layers in zip(make_sequences(), traces, strict=True):
        shapes = [(name, values.shape) for name, values in layers.items()]
        assert shapes == expected_shapes(bundle.manifest, len(sequence), gates=level == "gates")
        expected = expect(bundle, sequence)
        for name, values in layers.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("level", ["layers", "gates"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_size_is_the_true_count_of_numbers(repository: Path, kind: str, level: TraceLevel) -> None:
    bundle = open_bundle(repository / kind / "1")
    count = sum(values.size for layers in trace(bundle, level) for values in layers.values())
    assert Tracer(bundle).size(make_sequences(), level) == count


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_step_of_step_probabilities_is_the_answer(repository: Path, kind: str) -> None:
    for layers in trace(open_bundle(repository / kind / "1"), "gates"):
        np.testing.assert_allclose(layers["step_probabilities"][-1], layers["softmax"], rtol=0, atol=1e-6)


def test_softmax_does_not_overflow() -> None:
    logits = np.array([[1000.0, 1000.0, -1000.0], [-1e30, 0.0, 1e30], [0.0, 0.0, 0.0]], np.float32)
    third = 1 / 3
    assert softmax(logits) == pytest.approx(np.array([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0], [third, third, third]]))


def test_gates_do_not_overflow_on_huge_inputs(repository: Path) -> None:
    bundle = open_bundle(repository / "tiny" / "1")
    sequence = np.array([[1e30, -1e30, 1e30], [-1e30, 1e30, 1e30]], np.float32)
    row = {
        "hidden_states": np.zeros((2, 4), np.float32),
        "last_hidden": np.zeros(4, np.float32),
        "logits": np.zeros(3, np.float32),
        "probabilities": np.zeros(3, np.float32),
    }
    for layer in Tracer(bundle).trace(sequence, row, "gates", state=None, ends=None)[2:]:
        assert np.abs(layer.values).max() <= 2


@pytest.mark.parametrize("content", [b"", b"garbage", b"PK\x03\x04 cut off"])
def test_weights_that_cannot_be_read_are_refused_by_the_files_name(
    repository: Path, tmp_path: Path, content: bytes
) -> None:
    good = open_bundle(repository / "tiny" / "1")
    files = {name: good.read(name) for name in good.manifest.files} | {WEIGHTS: content}
    bundle = publish(
        tmp_path,
        "tiny",
        files,
        lambda version, hashes: good.manifest.model_copy(update={"version": version, "files": hashes}),
    )
    with pytest.raises(BundleError, match=WEIGHTS):
        Tracer(bundle)


@pytest.mark.parametrize("kind", KINDS)
def test_in_int8_a_trace_is_that_of_the_run_that_answered_and_near_the_loop_over_cells(
    repository: Path, kind: str
) -> None:
    bundle = open_bundle(repository / kind / "1")
    mean, std = (np.array(values, np.float32) for values in vars(bundle.manifest.standardisation).values())
    drawn = make_sequences()
    sequences = Sequences(mean + std * drawn.values, drawn.lengths)
    traces = trace(bundle, "gates", sequences=sequences, runtime=Runtime(("onnx",), "cpu", 1, "int8"))
    for sequence, layers in zip(sequences, traces, strict=True):
        expected = expect(bundle, sequence)
        for name, values in layers.items():
            assert values.shape == expected[name].shape
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=0.05, err_msg=name)
        assert np.abs(layers["softmax"] - expected["softmax"]).max() > 1e-6
        np.testing.assert_allclose(layers["step_probabilities"][-1], layers["softmax"], rtol=0, atol=1e-6)
        np.testing.assert_allclose(softmax(layers["linear"]), layers["softmax"], rtol=0, atol=1e-6)
