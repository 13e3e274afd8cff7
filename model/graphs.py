"""Run the exported graphs: numpy in, numpy out, whichever runtime reads the file. For parity and evaluation alone.

The service has its own backends; this is the offline half's way to hold what it publishes against the data.
"""

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from model.bundle import INPUTS, ONNX, TORCHSCRIPT
from model.torchscript import torchscript_deprecated

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of a graph: `sequences` `(B, T, F)`, `lengths` `(B)` int64, `h0` and `c0` `(L*D, B, H)`, float32."""

    sequences: NDArray[np.float32]
    lengths: NDArray[np.int64]
    h0: NDArray[np.float32]
    c0: NDArray[np.float32]

    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The inputs in the graphs' order."""
        return (self.sequences, self.lengths, self.h0, self.c0)


Graph = Callable[[Batch], Arrays]


def open_graphs(files: Mapping[str, bytes], outputs: tuple[str, ...]) -> dict[str, Graph]:
    """Load both exported graphs from their `files`' content; each returns its `outputs` by name."""
    return {ONNX: open_onnx(files[ONNX]), TORCHSCRIPT: open_torchscript(files[TORCHSCRIPT], outputs)}


def import_onnxruntime() -> ModuleType:
    """Import ONNX Runtime, which since 1.29 reports its use over the network unless it is told not to before."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return cast(ModuleType, onnxruntime)


def open_onnx(content: bytes) -> Graph:
    """Load a graph into ONNX Runtime on the CPU."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # its own default ignores the container's quota
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(batch: Batch) -> Arrays:
        feed = dict(zip(INPUTS, batch.arrays(), strict=True))
        return dict(zip(names, session.run(None, feed), strict=True))

    return run


def open_torchscript(content: bytes, outputs: tuple[str, ...]) -> Graph:
    """Load a graph into PyTorch on the CPU; it returns a list in the order of `outputs`."""
    with torchscript_deprecated():
        module = torch.jit.load(io.BytesIO(content), map_location="cpu")  # type: ignore[no-untyped-call]  # torch's

    def run(batch: Batch) -> Arrays:
        with torch.inference_mode():
            results = module(*(torch.from_numpy(array) for array in batch.arrays()))
        return dict(zip(outputs, (result.numpy() for result in results), strict=True))

    return run
