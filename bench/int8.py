"""What the graph in int8 brings, and why it is not the one that ONNX Runtime's own tool makes: `python -m bench int8`.

ONNX Runtime's DynamicQuantizeLSTM scales the activations of a run by their range over the whole batch. In a graph that
leaves that range to the batch an answer depends on the sequences that happen to share it, and one with large values
spoils those of the others. The published graph, `model.onnx_int8`, gives every batch the same range.
"""

import io
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from bench.graphs import Graph, open_onnx, pad
from bench.models import MEDIUM, make_model
from bench.workload import SCENARIOS, Sequences, mixed_sequences, requests_of
from model.bundle import ONNX, ONNX_INT8, WEIGHTS, Bundle, open_bundle

BATCH_SIZES: Final = (1, 8, 32)
MATE_SCALES: Final = (1, 10, 100, 1000)
_RUNS: Final = 10


def main() -> int:
    """Print how long a sequence takes in either precision, and what a batch-mate of large values does to others."""
    with tempfile.TemporaryDirectory() as folder:
        _compare_speed(make_model(Path(folder), MEDIUM))
        training = [sys.executable, "-m", "model", "train", "JapaneseVowels", "--repository", folder]
        subprocess.run(training, check=True, stdout=subprocess.DEVNULL)
        _compare_answers(open_bundle(Path(folder) / "JapaneseVowels" / "1"))
    return 0


def quantise_by_tool(content: bytes) -> bytes:
    """What ONNX Runtime's own tool makes of a graph: the weights of every LSTM in 8 bits, a scale for each row."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.disable(logging.WARNING)  # it advises on the root logger to prepare graphs, which ours need not
    try:
        with tempfile.TemporaryDirectory() as folder:
            exact, rounded = Path(folder, "exact.onnx"), Path(folder, "rounded.onnx")
            exact.write_bytes(content)
            quantize_dynamic(
                exact, rounded, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["LSTM"]
            )
            return rounded.read_bytes()
    finally:
        logging.disable(logging.NOTSET)


def quantise(bundle: Bundle) -> bytes:
    """The graph in int8 that `bundle` would have if it had been trained on values of up to 4 standard deviations."""
    from model.network import NetworkSize
    from model.onnx_int8 import build_onnx_int8

    made = bundle.manifest
    size = NetworkSize(made.input_size, made.hidden_size, made.num_layers, made.bidirectional, len(made.labels))
    with np.load(io.BytesIO(bundle.read(WEIGHTS))) as weights:
        return build_onnx_int8(size, dict(weights), input_bound=4)


def _compare_speed(bundle: Bundle) -> None:
    graphs = [open_onnx(content) for content in (bundle.read(ONNX), quantise(bundle))]
    sequences = requests_of(SCENARIOS["S3"], MEDIUM)[0]
    print(f"{MEDIUM.name}: µs a sequence, best of {_RUNS} runs\n{'batch':>6} {'float32':>9} {'int8':>9}")
    for size in BATCH_SIZES:
        exact_us, rounded_us = (_best_us(graph, bundle, sequences[:size]) for graph in graphs)
        print(f"{size:>6} {exact_us:>9.0f} {rounded_us:>9.0f}")


def _best_us(graph: Graph, bundle: Bundle, sequences: Sequences) -> float:
    padded, times_s = pad(bundle, sequences), []
    for _ in range(_RUNS):
        started = time.perf_counter()
        graph(padded)
        times_s.append(time.perf_counter() - started)
    return min(times_s) / len(sequences) * 1e6


def _compare_answers(bundle: Bundle) -> None:
    content, held_out = bundle.read(ONNX), mixed_sequences("vowels")
    exact = open_onnx(content)
    graphs = {"published": open_onnx(bundle.read(ONNX_INT8)), "by the tool": open_onnx(quantise_by_tool(content))}
    right = np.concatenate([exact(pad(bundle, (sequence,))) for sequence in held_out])  # (N, K)
    print(f"\nJapaneseVowels, {len(held_out)} held-out sequences in int8, each beside one whose values are multiplied")
    print(f"{'by':>6} {'graph':>12} {'largest change of a probability':>32} {'other class':>12}")
    for scale in MATE_SCALES:
        mate = held_out[0] * np.float32(scale)
        for name, graph in graphs.items():
            found = np.concatenate([graph(pad(bundle, (sequence, mate)))[:1] for sequence in held_out])
            changed = int((found.argmax(axis=1) != right.argmax(axis=1)).sum())
            print(f"{scale:>6} {name:>12} {np.abs(found - right).max():>32.3f} {changed:>12}")
