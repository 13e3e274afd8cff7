"""TorchScript on the CPU, or on CUDA with cuDNN. The only file of the service that imports torch."""

import io
import warnings
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch

from model.bundle import TORCHSCRIPT, Bundle, BundleError
from service.backends import Array, Batch, DeviceName, Runtime

# Of values that are read where they came in: the module only reads its inputs.
warnings.filterwarnings("ignore", "The given NumPy array is not writable", UserWarning)


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
        if runtime.device == "cuda":
            torch.backends.cudnn.allow_tf32 = False  # on by default, and it changes probabilities by 2e-4
            _flatten_weights(self._module, bundle.manifest.hidden_size)

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the module; return `outputs` by name."""
        # Each thread that computes has a number of its own, and in a worker that was forked the event loop's keeps the
        # host's: twice as slow, with a core spinning. To set it takes 0.1 us.
        torch.set_num_threads(self._threads)
        inputs = (batch.sequences, batch.lengths, batch.h0, batch.c0)
        with torch.inference_mode():
            results = self._module(*(torch.from_numpy(array).to(self.device) for array in inputs))
            by_name = dict(zip(self._outputs, results, strict=True))
            return {name: _plain(by_name[name].cpu().numpy()) for name in outputs}


def _plain(output: Array) -> Array:
    """States `(B, T, D*H)` come with time first in memory, and with -0.0 in their padding: make them as ONNX's are."""
    return np.add(output, 0.0, order="C") if output.ndim == 3 else output


def _flatten_weights(module: torch.jit.ScriptModule, hidden_size: int) -> None:
    """Lay each LSTM's weights out in one piece of memory, as cuDNN takes them: else every call copies them together.

    `nn.LSTM.flatten_parameters` does it for parameters; in a frozen module they are constants of the graph.
    """
    lstm = torch.backends.cudnn.rnn.get_cudnn_mode("LSTM")  # type: ignore[no-untyped-call]  # torch's
    graph: Any = module.graph
    for node in graph.findAllNodes("aten::lstm"):
        constants = list(node.inputs())[2].node().inputs()
        weights = [constant.toIValue() for constant in constants]  # (4*H, F), (4*H, H), (4*H), (4*H)
        with torch.no_grad():
            torch._cudnn_rnn_flatten_weight(  # noqa: SLF001  # as nn.LSTM does
                weights, len(weights), weights[0].shape[1], lstm, hidden_size, 0, 1, False, False
            )


def cuda_missing() -> str:
    """Why this torch cannot use CUDA here; empty if it can."""
    if torch.version.cuda is None:
        return "this torch is a CPU build"
    return "" if torch.cuda.is_available() else "torch finds no CUDA device"
