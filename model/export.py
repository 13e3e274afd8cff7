"""From a trained network to the files of its bundle: both graphs, held against each other, int8, weights, examples."""

import io

import numpy as np
from numpy.typing import NDArray

from model.bundle import (
    EXAMPLES,
    ONNX,
    ONNX_INT8,
    OUTPUTS,
    TORCHSCRIPT,
    WEIGHTS,
    Example,
    Examples,
    Parity,
    Quantisation,
    lower_outputs,
)
from model.data import Dataset, Split
from model.evaluate import evaluate
from model.graphs import Graph, open_graphs, open_onnx
from model.network import LSTMClassifier
from model.onnx_graph import build_onnx
from model.onnx_int8 import build_onnx_int8
from model.parity import ExportError, check_parity
from model.torchscript import build_torchscript

MIN_EXAMPLES, MAX_EXAMPLES = 8, 16
MAX_EXAMPLE_VALUES = 200_000  # numbers in all of them: they are kept as text, and shown


def export(network: LSTMClassifier, *, seed: int) -> tuple[dict[str, bytes], dict[str, Graph], Parity]:
    """Export `network` to both formats and check them; return the files, both graphs as loaded from them, and parity.

    Raises `ExportError` when a graph differs from the network by more than `check_parity` allows.
    """
    weights = _weights(network)
    files = {
        ONNX: build_onnx(network.size, weights),
        TORCHSCRIPT: build_torchscript(network.size, weights),
        WEIGHTS: _npz(weights),
    }
    graphs = open_graphs(files, OUTPUTS + lower_outputs(network.size.num_layers))
    return files, graphs, check_parity(network, graphs, seed=seed)


def export_int8(network: LSTMClassifier, exact: Graph, *, train: Split, test: Split) -> tuple[bytes, Quantisation]:
    """Export `network` in 8 bits; return the file, and how it does on `test` beside `exact`, the graph in float32.

    Raises `ExportError` when ONNX Runtime cannot run it.
    """
    mean, std = network.mean.cpu().numpy(), network.std.cpu().numpy()
    bound = max(float(np.abs((sequence - mean) / std).max()) for sequence in train.sequences)
    bound = max(bound, 1.0)  # data without any spread would leave nothing between the bounds
    content = build_onnx_int8(network.size, _weights(network), input_bound=bound)
    try:
        comparison = evaluate({ONNX: exact, ONNX_INT8: open_onnx(content)}, test, network.size)
    except Exception as error:  # onnxruntime's exceptions share no class but Exception
        raise ExportError(f"{ONNX_INT8}: onnxruntime cannot run it: {error}") from error
    measured = Quantisation(
        accuracy=comparison.evaluations[ONNX_INT8].accuracy,
        max_difference=comparison.max_difference,
        input_bound=bound,
    )
    return content, measured


def examples_of(data: Dataset) -> Examples:
    """A few held-out sequences, the classes in turn, with the shortest decimals that are the same float32.

    Fewer of long ones; of a single one that is too long, the beginning.
    """
    targets = data.test.targets
    turns = np.empty(len(targets), np.int64)  # how many of its class come before each sequence
    for target in np.unique(targets):
        members = np.flatnonzero(targets == target)
        turns[members] = np.arange(len(members))
    count = min(max(len(data.labels), MIN_EXAMPLES), MAX_EXAMPLES)
    chosen = np.lexsort((targets, turns))[:count]
    values = np.cumsum([data.test.sequences[row].size for row in chosen])
    few = chosen[: max(1, int((values <= MAX_EXAMPLE_VALUES).sum()))]
    most = MAX_EXAMPLE_VALUES // data.input_size  # steps
    return Examples(
        examples=tuple(
            Example(label=data.labels[targets[row]], sequence=_decimals(data.test.sequences[row][:most])) for row in few
        )
    )


def example_file(data: Dataset) -> dict[str, bytes]:
    """The content of `examples.json`, by that name."""
    return {EXAMPLES: examples_of(data).model_dump_json().encode() + b"\n"}


def _decimals(sequence: NDArray[np.float32]) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(str(value)) for value in step) for step in sequence)


def _weights(network: LSTMClassifier) -> dict[str, NDArray[np.float32]]:
    return {name: value.cpu().numpy() for name, value in network.state_dict().items()}


def _npz(weights: dict[str, NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **weights)  # type: ignore[arg-type]  # mypy takes the names for allow_pickle
    return buffer.getvalue()
