"""ONNX Runtime on the CPU, or on CUDA with I/O binding. The only file of the service that imports onnxruntime."""

import ctypes
import logging
import os
from collections.abc import Sequence
from typing import Any, Final

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime >= 1.29 calls home when it is imported

import onnxruntime as ort

from model.bundle import ONNX, ONNX_INT8, Bundle, BundleError
from service.backends import Array, BackendError, Batch, DeviceName, Precision, Runtime
from service.backends.onnx_guard import check_graph

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Unless told otherwise CUDA computes in TF32, which changes probabilities by 2e-4; float32 is what was asked for.
_PROVIDER_OPTIONS: Final[dict[DeviceName, dict[str, str]]] = {"cpu": {}, "cuda": {"use_tf32": "0"}}

logger = logging.getLogger(__name__)


class OnnxBackend:
    """A session over `model.onnx` or `model.int8.onnx`. `run` may be called from any one thread at a time."""

    name: Final = "onnx"

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self.device: DeviceName = runtime.device
        provider = _PROVIDERS[runtime.device]
        providers = [(provider, _PROVIDER_OPTIONS[runtime.device])]
        self.precision: Precision = _precision(bundle, runtime)
        file = ONNX_INT8 if self.precision == "int8" else ONNX
        content = bundle.read(file)
        try:
            check_graph(content)
        except ValueError as error:
            raise BundleError(f"{bundle.folder / file}: no graph of ours: {error}") from error
        try:
            self._session = ort.InferenceSession(content, _session_options(runtime), providers=providers)
        except Exception as error:  # onnxruntime's exceptions share no class but Exception
            raise BundleError(f"{bundle.folder / file}: onnxruntime refuses it: {error}") from error
        # Without its libraries or a device, CUDA is left out with no more than a warning.
        if provider not in self._session.get_providers():
            raise BackendError(f"device cuda was asked for and onnxruntime could not start its {provider}")

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph; return `outputs` by name."""
        inputs = {"sequences": batch.sequences, "lengths": batch.lengths, "h0": batch.h0, "c0": batch.c0}
        results = self._session.run(outputs, inputs) if self.device == "cpu" else self._run_bound(inputs, outputs)
        return dict(zip(outputs, results, strict=True))

    def _run_bound(self, inputs: dict[str, Any], outputs: Sequence[str]) -> list[Any]:
        """Copy each input to the device once and each output back once; nothing else crosses."""
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, self.device, 0))
        for name in outputs:
            binding.bind_output(name, self.device)
        self._session.run_with_iobinding(binding)
        results: list[Any] = binding.copy_outputs_to_cpu()
        return results


def _precision(bundle: Bundle, runtime: Runtime) -> Precision:
    if runtime.precision == "int8" and bundle.manifest.int8 is None:
        where = f"{bundle.manifest.name}/{bundle.manifest.version}"
        logger.warning("%s has no %s and is served in float32: train it again for int8", where, ONNX_INT8)
        return "float32"
    return runtime.precision


def _session_options(runtime: Runtime) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = runtime.threads
    options.inter_op_num_threads = 1
    # The steps of an LSTM are too short to sleep between: with two threads a run took 960 us, and 460 where they spin.
    # Between runs they sleep, since the event loop needs their cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if runtime.spins else "0")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.log_severity_level = 3
    return options


def cuda_missing() -> str:
    """Why this onnxruntime cannot use CUDA here; empty if it can."""
    if _PROVIDERS["cuda"] not in ort.get_available_providers():
        return "this onnxruntime is the CPU build; lstm-serve[gpu] brings the other"
    count = ctypes.c_int()
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the NVIDIA driver (libcuda.so.1) is not installed"
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "the NVIDIA driver finds no device"
    ort.preload_dlls()  # CUDA and cuDNN may lie in site-packages, where the loader does not look
    return ""
