"""Both runtimes on CUDA, at batch sizes 1 to 4096, against the bare cuDNN call: `python -m bench gpu`.

The service's own backends are measured, copies to the device and back included, beside `torch.nn.LSTM` (which is cuDNN)
on data that already lies on the device: the ratio is what all around the LSTM costs. Both compute in float32, as the
service does, not in TF32. onnxruntime-gpu has to be installed in place of onnxruntime for the ONNX column.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from bench.models import MODELS, ModelSize, make_model
from model.bundle import Bundle
from service.backends import Backend, BackendError, Batch, Runtime, RuntimeName, load_backend

BATCH_SIZES: Final = tuple(4**power for power in range(7))  # 1 to 4096
RUNTIMES: Final[tuple[RuntimeName, ...]] = ("onnx", "torchscript")
_OUTPUTS: Final = ("probabilities",)
_WARM_UP_RUNS: Final = 5
_RUNS: Final = 30


def main() -> int:
    """Print a table for each model; return 1, saying why, where there is no CUDA."""
    try:
        import torch
    except ImportError:
        print("python -m bench gpu needs torch: pip install 'lstm-serve[torch]'", file=sys.stderr)
        return 1
    if not torch.cuda.is_available():
        print("python -m bench gpu needs a CUDA GPU, and torch finds none here", file=sys.stderr)
        return 1
    torch.backends.cudnn.allow_tf32 = False  # of the bare call; the service's backends see to it themselves
    import onnxruntime as ort

    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's
    print(f"{torch.cuda.get_device_name()}, onnxruntime {ort.__version__}, torch {torch.__version__}, cuDNN {cudnn}")
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS.values():
            _measure_model(make_model(Path(folder), model), model)
    return 0


def _measure_model(bundle: Bundle, model: ModelSize) -> None:
    backends: dict[RuntimeName, Backend] = {}
    for name in RUNTIMES:
        try:
            backends[name] = load_backend(bundle, name, Runtime((name,), "cuda", threads=1))
        except BackendError as error:
            print(f"{name}: {error}")
    on_cpu = load_backend(bundle, "onnx", Runtime(("onnx",), "cpu", threads=len(os.sched_getaffinity(0))))
    print(
        f"\n{model.name}, {model.steps} steps: median ms of a batch, times the bare call, largest difference to the CPU"
    )
    print(f"{'batch':>6} {'cuDNN':>9}", *(f"{name:>28}" for name in backends))
    for size in BATCH_SIZES:
        bare_ms = _median_ms(_bare_call(model, size))
        batch = _random_batch(model, size)
        expected = on_cpu.run(batch, _OUTPUTS)["probabilities"]
        cells = []
        for backend in backends.values():
            difference = np.abs(backend.run(batch, _OUTPUTS)["probabilities"] - expected).max()
            took_ms = _median_ms(partial(backend.run, batch, _OUTPUTS))
            cells.append(f"{took_ms:>10.3f} ({took_ms / bare_ms:>5.2f}) {difference:>9.0e}")
        print(f"{size:>6} {bare_ms:>9.3f}", *cells)


def _bare_call(model: ModelSize, size: int) -> Callable[[], object]:
    """One `torch.nn.LSTM` call on the device, until it is done."""
    import torch

    lstm = torch.nn.LSTM(model.input_size, model.hidden_size, model.num_layers, batch_first=True).cuda().eval()
    sequences = torch.randn(size, model.steps, model.input_size, device="cuda")  # (B, T, F)

    def call() -> None:
        with torch.inference_mode():
            lstm(sequences)
        torch.cuda.synchronize()

    return call


def _random_batch(model: ModelSize, size: int) -> Batch:
    """Sequences in the host's memory, all of full length: what the service's backends take."""
    state = np.zeros((model.num_layers, size, model.hidden_size), np.float32)  # (L, B, H)
    sequences = np.random.default_rng(0).standard_normal((size, model.steps, model.input_size), np.float32)
    return Batch(sequences, np.full(size, model.steps, np.int64), state, state)


def _median_ms(call: Callable[[], object]) -> float:
    for _ in range(_WARM_UP_RUNS):
        call()
    times_s = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - started)
    return statistics.median(times_s) * 1e3
