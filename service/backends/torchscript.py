"""TorchScript on the CPU, or on CUDA with cuDNN. The only file of the service that imports torch."""

import io
import warnings
from collections.abc import Sequence
from typing import Final

import torch

from model.bundle import TORCHSCRIPT, Bundle, BundleError
from service.backends import Array, Batch, DeviceName, Runtime


class TorchScriptBackend:
    """The frozen module of `model.pt`. `run` may be called from any one thread at a time."""

    name: Final = "torchscript"
    precision: Final = "float32"

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self.device: DeviceName = runtime.device
        self._outputs = bundle.manifest.outputs
        self._threads = runtime.threads
        content = io.BytesIO(bundle.read(TORCHSCRIPT))  # loading runs code: only what the manifest's hash vouches for
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript itself; constraints.txt pins torch
                self._module = torch.jit.load(content, map_location=runtime.device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError) as error:
            raise BundleError(f"{bundle.folder / TORCHSCRIPT}: torch refuses it: {error}") from error

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the module; return `outputs` by name."""
        # Each thread that computes has a number of its own, and in a worker that was forked the event loop's keeps the
        # host's: twice as slow, with a core spinning. To set it takes 0.1 us.
        torch.set_num_threads(self._threads)
        inputs = (batch.sequences, batch.lengths, batch.h0, batch.c0)
        with torch.inference_mode():
            results = self._module(*(torch.from_numpy(array).to(self.device) for array in inputs))
            by_name = dict(zip(self._outputs, results, strict=True))
            return {name: by_name[name].cpu().numpy() for name in outputs}


def cuda_missing() -> str:
    """Why this torch cannot use CUDA here; empty if it can."""
    if torch.version.cuda is None:
        return "this torch is a CPU build"
    return "" if torch.cuda.is_available() else "torch finds no CUDA device"
