"""Both runtimes on CUDA, at batch sizes 1 to 4096, against the bare cuDNN call: `python -m bench gpu`.

Not run yet: no machine with a GPU could be had. The service's own backends are measured, copies to the device and back
included, beside `torch.nn.LSTM` (which is cuDNN) on data that already lies on the device: the ratio is what all around
the LSTM costs. onnxruntime-gpu has to be installed in place of onnxruntime for the ONNX column.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from bench.models import MODELS, ModelSize, ensure_model
from model.bundle import Bundle
from service.backends import Backend, BackendError, Batch, Runtime, RuntimeName, load_backend

BATCH_SIZES: Final = tuple(4**power for power in range(7))  # 1 to 4096
RUNTIMES: Final[tuple[RuntimeName, ...]] = ("onnx", "torchscript")
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
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {cudnn}")
    with tempfile.TemporaryDirectory() as folder:
        for model in MODELS.values():
            _measure_model(ensure_model(Path(folder), model), model)
    return 0


def _measure_model(bundle: Bundle, model: ModelSize) -> None:
    calls: dict[str, Callable[[int], Callable[[], object]]] = {"cuDNN": partial(_bare_call, model)}
    for name in RUNTIMES:
        try:
            backend = load_backend(bundle, name, Runtime((name,), "cuda", threads=1))
        except BackendError as error:
            print(f"{name}: {error}")
            continue
        calls[name] = partial(_service_call, backend, model)
    print(
        f"\n{model.name}: median ms of a batch, and times the bare call\n{'batch':>6}",
        *(f"{name:>20}" for name in calls),
    )
    for size in BATCH_SIZES:
        times_ms = {name: _median_ms(make(size)) for name, make in calls.items()}
        cells = (f"{value:>10.3f} ({value / times_ms['cuDNN']:>6.2f})" for value in times_ms.values())
        print(f"{size:>6}", *(f"{cell:>20}" for cell in cells))


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


def _service_call(backend: Backend, model: ModelSize, size: int) -> Callable[[], object]:
    """One run of the service's backend: from arrays of the host to probabilities of the host."""
    state = np.zeros((model.num_layers, size, model.hidden_size), np.float32)  # (L, B, H)
    sequences = np.random.default_rng(0).standard_normal((size, model.steps, model.input_size), np.float32)
    batch = Batch(sequences, np.full(size, model.steps, np.int64), state, state)
    return lambda: backend.run(batch, ("probabilities",))


def _median_ms(call: Callable[[], object]) -> float:
    for _ in range(_WARM_UP_RUNS):
        call()
    times_s = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        call()
        times_s.append(time.perf_counter() - started)
    return statistics.median(times_s) * 1e3
