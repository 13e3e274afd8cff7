"""Backends for tests of what stands in front of one."""

import asyncio
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from service.backends import Array, Backend, BackendName, Batch, DeviceName, Precision

POISON = -666.0
LAYERS, HIDDEN_SIZE = 2, 3
STATE_SHAPE = (LAYERS, HIDDEN_SIZE)
EVERY_OUTPUT = frozenset({"probabilities", "hidden_states", "hn", "cn"})
_WAIT_S = 10


@dataclass
class Gate:
    """Holds a thread until the test opens it."""

    is_open: threading.Event = field(default_factory=threading.Event)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self.is_open.set()

    def close(self) -> None:
        self.is_open.clear()

    def open(self) -> None:
        self.is_open.set()

    def go_through(self) -> None:
        """In the thread: wait until it is open."""
        self.entered.release()
        assert self.is_open.wait(_WAIT_S), "the test never opened the gate"

    async def has_been_entered(self) -> None:
        """In the test: wait, in real time, until the thread has come to the gate once more."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=_WAIT_S), "no thread came to the gate"


class FakeBackend:
    """Outputs derive from each row's own steps and state alone; a step that begins with `POISON` fails its batch."""

    name: BackendName = "onnx"
    device: DeviceName = "cpu"
    precision: Precision = "float32"

    def __init__(self) -> None:
        self.gate = Gate()
        self.batches: list[Batch] = []
        self.outputs: list[tuple[str, ...]] = []
        self.finished: list[float] = []  # on `perf_counter`

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        self.batches.append(batch)
        self.outputs.append(tuple(outputs))
        self.gate.go_through()
        self.finished.append(perf_counter())
        if (batch.sequences[:, :, 0] == POISON).any():
            raise RuntimeError("poison")
        rows = [
            expected(row[:length], longest=batch.sequences.shape[1], h0=batch.h0[:, i], c0=batch.c0[:, i])
            for i, (row, length) in enumerate(zip(batch.sequences, batch.lengths.tolist(), strict=True))
        ]
        return {name: np.stack([row[name] for row in rows], axis=1 if name in {"hn", "cn"} else 0) for name in outputs}

    @property
    def firsts(self) -> list[list[float]]:
        """The first value of each row of each batch: who ran with whom."""
        return [batch.sequences[:, 0, 0].tolist() for batch in self.batches]


BEGINNING = np.zeros(STATE_SHAPE, np.float32)


class SlowBackend(FakeBackend):
    """One that takes its time for each run."""

    RUN_S = 0.02

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        time.sleep(self.RUN_S)
        return super().run(batch, outputs)


def expected(sequence: Array, *, longest: int, h0: Array = BEGINNING, c0: Array = BEGINNING) -> dict[str, Array]:
    """What `FakeBackend` gives for one `sequence` (T, F) in a batch whose longest has `longest` steps.

    It goes on from the states (L, H) that it gave for what came before: `hn` has the sum so far, `cn` how it began, how
    many steps there were and the sum of all values.
    """
    began, count, total = c0[0].tolist()
    if not count:
        began = sequence[0, 0]
    hidden_states = np.zeros((longest, HIDDEN_SIZE), np.float32)
    hidden_states[: len(sequence)] = h0[0, 0] + np.cumsum(sequence[:, :1], axis=0) + np.arange(HIDDEN_SIZE)
    hn = (np.arange(LAYERS)[:, None] + hidden_states[len(sequence) - 1]).astype(np.float32)
    cn = -hn
    cn[0] = began, count + len(sequence), total + sequence.sum()
    return {
        "probabilities": np.array([began, sequence[-1, 0], *cn[0, 1:]], np.float32),
        "hidden_states": hidden_states,
        "hn": hn,
        "cn": cn,
    }


class CountingBackend:
    """A real backend that keeps the batches it ran, behind a gate that closes by itself after `hangs_after` runs."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.device = backend.device
        self.precision = backend.precision
        self.gate = Gate()
        self.batches: list[Batch] = []
        self.outputs: list[tuple[str, ...]] = []
        self.hangs_after: int | None = None

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        if len(self.batches) == self.hangs_after:
            self.gate.close()
        self.batches.append(batch)
        self.outputs.append(tuple(outputs))
        self.gate.go_through()
        return self._backend.run(batch, outputs)
