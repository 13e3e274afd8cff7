"""The runtimes behind one protocol: a file each, imported when it is chosen, since torch may not be installed."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle

Array = NDArray[np.float32]
BackendName = Literal["onnx", "torchscript"]
DeviceName = Literal["cpu", "cuda"]

logger = logging.getLogger(__name__)


class BackendError(RuntimeError):
    """A runtime or device that was asked for and cannot be had. The service does not start without it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What a graph takes. Padding beyond a sequence's length may hold anything finite; it never changes a result."""

    sequences: Array  # (B, T, F)
    lengths: NDArray[np.int64]  # (B), each 1 to T
    h0: Array  # (L*D, B, H)
    c0: Array  # (L*D, B, H)


class Backend(Protocol):
    """One loaded graph. `run` is called from one thread at a time, not the event loop's."""

    @property
    def name(self) -> BackendName:
        """Which runtime this is."""

    @property
    def device(self) -> DeviceName:
        """Where it computes."""

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph; return `outputs`, names out of `Manifest.outputs`, each with B and T as in `batch`."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """Which runtime computes, and where."""

    backend: BackendName
    device: DeviceName
    threads: int


def choose_runtime(
    backend: Literal["auto", "onnx", "torchscript"], device: Literal["auto", "cpu", "cuda"], *, threads: int
) -> Runtime:
    """Settle what `auto` means here, and log why; raise `BackendError` if what was asked for is not to be had."""
    if backend == "auto":
        backend = "onnx"
        logger.info("backend auto: onnx, which every installation has")
    if backend == "torchscript" and importlib.util.find_spec("torch") is None:
        raise BackendError("backend torchscript needs torch, which is not installed: pip install 'lstm-serve[torch]'")
    missing = _cuda_missing(backend) if device != "cpu" else ""
    if device == "cuda" and missing:
        raise BackendError(f"device cuda was asked for and cannot be used: {missing}")
    if device == "auto":
        device = "cpu" if missing else "cuda"
        logger.info("device auto: %s", f"cpu, since {missing}" if missing else "cuda, which the runtime offers")
    return Runtime(backend, device, threads)


def _cuda_missing(backend: BackendName) -> str:
    """Why `backend` cannot use CUDA here; empty if it can."""
    if backend == "onnx":
        from service.backends import onnx

        return onnx.cuda_missing()
    from service.backends import torchscript

    return torchscript.cuda_missing()


def load_backend(bundle: Bundle, runtime: Runtime) -> Backend:
    """Load `bundle`'s graph into `runtime`; raise `BundleError` if it is refused, `BackendError` if the device is.

    Torch is imported if, and only if, TorchScript is what was chosen.
    """
    if runtime.backend == "onnx":
        from service.backends.onnx import OnnxBackend

        return OnnxBackend(bundle, runtime)
    from service.backends.torchscript import TorchScriptBackend

    return TorchScriptBackend(bundle, runtime)
