"""The runtimes behind one protocol: a file each, imported when it is chosen, since torch may not be installed."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from model.bundle import Bundle
from service.cores import Cores

Array = NDArray[np.float32]
RuntimeName = Literal["onnx", "torchscript"]
BackendName = Literal["onnx", "torchscript", "auto"]
DeviceName = Literal["cpu", "cuda"]
Precision = Literal["float32", "int8"]

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
    """One loaded graph. `run` is called from one thread at a time."""

    @property
    def name(self) -> BackendName:
        """Which runtime this is, or `auto` if it is whichever is faster for a batch."""

    @property
    def device(self) -> DeviceName:
        """Where it computes."""

    @property
    def precision(self) -> Precision:
        """In which it computes: that of the runtime, unless the bundle lacks it."""

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph; return `outputs`, names out of `Manifest.outputs`, each with B and T as in `batch`.

        They are C-contiguous, and zero in the padding.
        """


# Graph outputs (L*D, B, H); in all others the batch comes first.
STATES = frozenset({"hn", "cn"})


def has_steps(name: str, ndim: int) -> bool:
    """Whether graph output `name` is (B, T, D*H)."""
    return ndim == 3 and name not in STATES


def index_of(
    name: str, ndim: int, rows: slice | NDArray[np.int64], steps: slice
) -> tuple[slice | NDArray[np.int64], ...]:
    """The index of `rows` in graph output `name`, and of `steps` if it has steps."""
    if name in STATES:
        return slice(None), rows  # (L*D, B, H)
    return (rows, steps) if has_steps(name, ndim) else (rows,)  # (B, T, D*H) or (B, K)


@dataclass(frozen=True, slots=True)
class Runtime:
    """Which runtimes may compute, and where. Of several, each batch is computed by the one that suits it.

    `threads` are those of one run, `lone_threads` those of one while nothing else is computed on `cores`, which the
    workers share. `spins`: whether `threads` find a core each, so that they need not sleep within a run.
    """

    backends: tuple[RuntimeName, ...]
    device: DeviceName
    threads: int
    precision: Precision = "float32"
    cores: Cores = field(default_factory=lambda: Cores(1, 1), compare=False)
    lone_threads: int = 1
    spins: bool = False

    @property
    def backend(self) -> BackendName:
        """The one runtime, or `auto` if there is a choice."""
        return "auto" if len(self.backends) > 1 else self.backends[0]


def import_runtimes(backend: BackendName, precision: Precision) -> None:
    """Import what `choose_runtime` and `load_backend` will need, which takes a second, and start nothing."""
    if backend != "torchscript":
        importlib.import_module("service.backends.onnx")
    if backend != "onnx" and precision != "int8" and importlib.util.find_spec("torch") is not None:
        importlib.import_module("service.backends.torchscript")


def choose_runtime(
    backend: Literal["auto", "onnx", "torchscript"],
    device: Literal["auto", "cpu", "cuda"],
    *,
    threads: int,
    precision: Precision = "float32",
) -> Runtime:
    """Settle what `auto` means here, and log why; raise `BackendError` if what was asked for is not to be had."""
    if precision == "int8":
        if backend == "torchscript" or device == "cuda":
            raise BackendError("precision int8 needs backend onnx and device cpu, or auto: nothing else computes in it")
        logger.info("precision int8: onnx on the cpu, which alone computes in it")
        return Runtime(("onnx",), "cpu", threads, precision)
    has_torch = importlib.util.find_spec("torch") is not None
    if backend == "torchscript" and not has_torch:
        raise BackendError("backend torchscript needs torch, which is not installed: pip install 'lstm-serve[torch]'")
    if backend == "auto":
        backends: tuple[RuntimeName, ...] = ("onnx", "torchscript") if has_torch else ("onnx",)
        why = "both, whichever is faster for a batch" if has_torch else "onnx, since torch is not installed"
        logger.info("backend auto: %s", why)
    else:
        backends = (backend,)
    if device == "cpu":
        return Runtime(backends, "cpu", threads)
    missing = {name: reason for name in backends if (reason := _cuda_missing(name))}
    reasons = "; ".join(sorted(set(missing.values())))
    if len(missing) < len(backends):
        if device == "auto":
            logger.info("device auto: cuda, which the runtime offers")
        return Runtime(tuple(name for name in backends if name not in missing), "cuda", threads)
    if device == "cuda":
        raise BackendError(f"device cuda was asked for and cannot be used: {reasons}")
    logger.info("device auto: cpu, since %s", reasons)
    return Runtime(backends, "cpu", threads)


def _cuda_missing(backend: RuntimeName) -> str:
    """Why `backend` cannot use CUDA here; empty if it can."""
    if backend == "onnx":
        from service.backends import onnx

        return onnx.cuda_missing()
    from service.backends import torchscript

    return torchscript.cuda_missing()


def load_backend(bundle: Bundle, name: RuntimeName, runtime: Runtime) -> Backend:
    """Load `bundle`'s graph into one of `runtime`'s backends.

    Raises `BundleError` if it is refused, `BackendError` if the device is. Torch is imported if, and only if, `name` is
    TorchScript.
    """
    if name == "onnx":
        from service.backends.onnx import OnnxBackend

        return OnnxBackend(bundle, runtime)
    from service.backends.torchscript import TorchScriptBackend

    return TorchScriptBackend(bundle, runtime)
