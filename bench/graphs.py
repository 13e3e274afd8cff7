"""The exported graphs in process: what answers are checked against, and what the limit is measured on.

As plain as the runtimes allow, and on purpose not the service's own backends: what the service does better or worse
than this is what the benchmark is to show.
"""

import io
import os
import warnings
from collections.abc import Callable
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.workload import Sequences
from model.bundle import ONNX, TORCHSCRIPT, Bundle

Array = NDArray[np.float32]
RuntimeName = Literal["onnx", "torchscript"]
Graph = Callable[["Padded"], Array]  # probabilities (B, K)
RUNTIMES: Final[tuple[RuntimeName, ...]] = ("onnx", "torchscript")

Padded = tuple[Array, NDArray[np.int64], Array]  # sequences (B, T, F), lengths (B), a zero state (L, B, H)


def pad(bundle: Bundle, sequences: Sequences) -> Padded:
    """One batch of `sequences`, padded on the right to the longest."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int64)
    batch = np.zeros((len(sequences), lengths.max(), sequences[0].shape[1]), np.float32)
    for row, sequence in zip(batch, sequences, strict=True):
        row[: len(sequence)] = sequence
    size = bundle.manifest
    return batch, lengths, np.zeros((size.num_layers, len(sequences), size.hidden_size), np.float32)


def open_graph(bundle: Bundle, runtime: RuntimeName) -> Graph:
    """Load one of `bundle`'s graphs, to run on one thread."""
    return open_onnx(bundle.read(ONNX)) if runtime == "onnx" else _open_torchscript(bundle)


def open_onnx(content: bytes) -> Graph:
    """Load an ONNX graph, to run on one thread."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(padded: Padded) -> Array:
        batch, lengths, state = padded
        inputs = {"sequences": batch, "lengths": lengths, "h0": state, "c0": state}
        return np.asarray(session.run(["probabilities"], inputs)[0])

    return run


def _open_torchscript(bundle: Bundle) -> Graph:
    import torch

    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself
        module = torch.jit.load(io.BytesIO(bundle.read(TORCHSCRIPT)))  # type: ignore[no-untyped-call]  # torch's

    def run(padded: Padded) -> Array:
        batch, lengths, state = map(torch.from_numpy, padded)
        with torch.inference_mode():
            probabilities: Array = module(batch, lengths, state, state)[0].numpy()
        return probabilities

    return run
