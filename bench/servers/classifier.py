"""The model behind every server but ours: ONNX Runtime on one thread, which pads what it is given.

Only numpy and onnxruntime are imported here, since each server runs this in an environment of its own.
"""

import os
import struct
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # onnxruntime >= 1.29 calls home when it is imported

import onnxruntime as ort

MAX_BATCH_SIZE: Final = 64  # requests in one batch
INSTANCES: Final = 2
_COUNT: Final = struct.Struct("<I")

Array = NDArray[np.float32]


class Classifier:
    """`model.onnx` of the bundle in `BENCH_MODEL`. Servers fork and spawn as they like: the environment reaches all."""

    def __init__(self) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(os.environ["BENCH_MODEL"], options, providers=["CPUExecutionProvider"])
        state = next(value for value in self._session.get_inputs() if value.name == "h0")
        self._layers, self._hidden_size = state.shape[0], state.shape[2]

    def probabilities(self, batch: Array) -> Array:
        """`(B, K)` of sequences `(B, T, F)` of one length."""
        return self._run(batch, np.full(len(batch), batch.shape[1], np.int64))

    def classify(self, sequences: Sequence[Array]) -> Array:
        """`(B, K)` of sequences `(T, F)` of any lengths."""
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        padded = np.zeros((len(sequences), lengths.max(), sequences[0].shape[1]), np.float32)
        for row, sequence in zip(padded, sequences, strict=True):
            row[: len(sequence)] = sequence
        return self._run(padded, lengths)

    def classify_requests(self, requests: Sequence[Array]) -> list[Array]:
        """The probabilities `(B_i, K)` of each of several requests `(B_i, T_i, F)`, in one run."""
        sizes = [len(request) for request in requests]
        if len({request.shape[1] for request in requests}) == 1:
            results = self.probabilities(np.concatenate(requests))
        else:
            results = self.classify([sequence for request in requests for sequence in request])
        return np.split(results, np.cumsum(sizes)[:-1])

    def _run(self, batch: Array, lengths: NDArray[np.int64]) -> Array:
        state = np.zeros((self._layers, len(batch), self._hidden_size), np.float32)
        inputs = {"sequences": batch, "lengths": lengths, "h0": state, "c0": state}
        (result,) = self._session.run(["probabilities"], inputs)
        return np.asarray(result)


def from_raw(body: bytes) -> Array:
    """The sequences `(B, T, F)` of a raw body: uint32 B, then the values. F is `BENCH_FEATURES`, T what is left."""
    (count,) = _COUNT.unpack_from(body)
    features = int(os.environ["BENCH_FEATURES"])
    return np.frombuffer(body, "<f4", offset=_COUNT.size).reshape(count, -1, features)


def to_raw(probabilities: Array) -> bytes:
    """A raw answer: uint32 B, then the probabilities."""
    return _COUNT.pack(len(probabilities)) + probabilities.tobytes()
