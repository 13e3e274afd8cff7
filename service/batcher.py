"""Dynamic batching: requests of one model wait here and are run together.

    infer ──split──▶ waiting ──select──▶ one run at a time, in a thread ──▶ futures ──join──▶ infer

What runs next, and when, is `service.policy`'s; this file waits and wakes. It is work-conserving: an idle backend
starts at once, and what arrives during a run forms the next batch. All state belongs to the event loop's thread,
all time is the loop's clock (monotonic), and the only thing that happens elsewhere is `Backend.run`.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from service import policy
from service.backends import Array, Backend, Batch
from service.errors import DeadlineExceeded, InternalError, QueueFull, TooLarge, Unavailable
from service.metrics import Metrics
from service.policy import Limits
from service.tensors import Sequences, pad
from service.timing import Timing

# Graph outputs whose second axis is the batch; in all others it is the first.
_STATES = frozenset({"hn", "cn"})

Outputs = dict[str, Array]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait, in sequences and in time steps: many small or few long ones must both stay bounded."""

    max_rows: int
    max_steps: int


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some sequences of one request that are run together. Satisfies `policy.Waiting`."""

    sequences: Sequences
    longest: int
    outputs: frozenset[str]
    enqueued_s: float
    deadline_s: float
    future: asyncio.Future["_Done"]

    @property
    def rows(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, slots=True)
class _Run:
    """One model run: all outputs that any of its parts wants, and its marks on `perf_counter`."""

    outputs: Outputs
    lengths: NDArray[np.int64]
    prepared: float
    inferred: float


@dataclass(frozen=True, slots=True)
class _Done:
    """A part's share of a run: its own rows of its own outputs."""

    outputs: Outputs
    dispatched: float
    prepared: float
    inferred: float


class Batcher:
    """The queue in front of one backend."""

    def __init__(
        self,
        backend: Backend,
        state_shape: tuple[int, int],
        *,
        limits: Limits,
        queue_limits: QueueLimits,
        metrics: Metrics,
    ) -> None:
        """Batch for `backend`, whose initial states are `(L*D, B, H)` with `state_shape` = (L*D, H)."""
        self._backend = backend
        self._state_shape = state_shape
        self._limits = limits
        self._queue_limits = queue_limits
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backend")
        self._waiting: list[_Part] = []
        self._waiting_rows = 0
        self._waiting_steps = 0
        self._running: list[_Part] = []
        self._run: asyncio.Task[None] | None = None
        self._wake_handle: asyncio.Handle | None = None
        self._deadline_timer: asyncio.TimerHandle | None = None
        self._closed = False

    async def infer(
        self, sequences: Sequences, outputs: frozenset[str], *, timeout_s: float, timing: Timing
    ) -> Outputs:
        """Run `sequences` and return `outputs` by name, rows in their order, T the longest of them, zero beyond each.

        Raises `QueueFull`, `TooLarge`, `Unavailable`, `DeadlineExceeded`, or `InternalError` if the runtime fails on
        just these. Cancelling it drops what has not begun to run. Fills the marks of `timing` up to `inferred`.
        """
        timing.decoded = perf_counter()
        rows = policy.split(sequences.lengths, self._limits)
        parts = self._enqueue([sequences] if len(rows) == 1 else [sequences.take(r) for r in rows], outputs, timeout_s)
        try:
            done = [await parts[0].future] if len(parts) == 1 else await asyncio.gather(*(p.future for p in parts))
        finally:
            for part in parts:
                part.future.cancel()  # of those that are not done: this request is given up
        last = max(done, key=lambda part: part.inferred)
        timing.dispatched, timing.prepared, timing.inferred = last.dispatched, last.prepared, last.inferred
        return done[0].outputs if len(done) == 1 else _join(rows, [part.outputs for part in done])

    async def close(self) -> None:
        """Take no more, finish what was taken, release the thread."""
        self._closed = True
        self._wake()
        while self._run is not None:
            await asyncio.wait([self._run])
        self._thread.shutdown(wait=False)

    def _enqueue(self, pieces: Sequence[Sequences], outputs: frozenset[str], timeout_s: float) -> list[_Part]:
        self._admit(sum(len(piece) for piece in pieces), sum(len(piece.values) for piece in pieces))
        now_s = self._loop.time()
        parts = [
            _Part(piece, piece.longest, outputs, now_s, now_s + timeout_s, self._loop.create_future())
            for piece in pieces
        ]
        self._waiting += parts
        if self._run is None:
            self._wake_soon()
        self._watch_deadline(now_s + timeout_s)
        return parts

    def _admit(self, rows: int, steps: int) -> None:
        """Count a request into the queue, or refuse it."""
        limits = self._queue_limits
        if self._closed:
            raise Unavailable("the model is being unloaded")
        if rows > limits.max_rows or steps > limits.max_steps:
            allowed = f"at most {limits.max_rows} sequences and {limits.max_steps} steps"
            raise TooLarge(f"{rows} sequences of {steps} time steps together in one request, {allowed} may wait")
        if self._waiting_rows + rows > limits.max_rows or self._waiting_steps + steps > limits.max_steps:
            self._purge()
        if self._waiting_rows + rows > limits.max_rows or self._waiting_steps + steps > limits.max_steps:
            raise QueueFull(f"{self._waiting_rows} sequences are waiting, at most {limits.max_rows} may; try again")
        self._count_waiting(rows, steps)

    def _count_waiting(self, rows: int, steps: int) -> None:
        self._waiting_rows += rows
        self._waiting_steps += steps
        self._metrics.queue_changed(rows)

    def _leave_queue(self, parts: Sequence[_Part]) -> None:
        if parts:
            gone = set(parts)
            self._waiting = [part for part in self._waiting if part not in gone]
            self._count_waiting(-sum(part.rows for part in parts), -sum(len(part.sequences.values) for part in parts))

    def _purge(self) -> None:
        """Drop what was cancelled or ran out of time while it waited: it costs no compute."""
        self._leave_queue([part for part in self._waiting if part.future.done()])

    def _wake_soon(self) -> None:
        """Wake after all that is ready on the loop has been handled, so that simultaneous arrivals share a batch."""
        if self._wake_handle is not None:
            self._wake_handle.cancel()
        self._wake_handle = self._loop.call_soon(self._wake)

    def _wake(self) -> None:
        """Start the next run if there is something to run, nothing runs, and the delay is over."""
        if self._wake_handle is not None:
            self._wake_handle.cancel()
            self._wake_handle = None
        self._purge()
        if self._run is not None or not self._waiting:
            return
        delay_s = 0.0 if self._closed else policy.starts_in_s(self._waiting, self._loop.time(), self._limits)
        if delay_s > 0:
            self._wake_handle = self._loop.call_later(delay_s, self._wake)
            return
        self._running = [self._waiting[position] for position in policy.select(self._waiting, self._limits)]
        self._leave_queue(self._running)
        self._run = self._loop.create_task(self._execute())

    async def _execute(self) -> None:
        try:
            await self._attempt(self._running)
        finally:
            self._running = []
            self._run = None
            self._wake()

    async def _attempt(self, parts: Sequence[_Part]) -> None:
        """Run `parts` together; if that fails, run each half, until the part at fault is alone."""
        dispatched = perf_counter()
        try:
            run = await self._loop.run_in_executor(self._thread, self._compute, parts)
        except Exception as error:
            if len(parts) > 1:
                logger.warning("a batch of %d requests failed, retrying its halves: %s", len(parts), error)
                await self._attempt(parts[: len(parts) // 2])
                await self._attempt(parts[len(parts) // 2 :])
                return
            logger.exception("the model failed on one request")
            if not parts[0].future.done():
                parts[0].future.set_exception(InternalError("the model failed on this request"))
            return
        self._metrics.ran(run.lengths)
        start = 0
        for part in parts:
            if not part.future.done():
                outputs = _share(run.outputs, part, start)
                part.future.set_result(_Done(outputs, dispatched, run.prepared, run.inferred))
            start += part.rows

    def _compute(self, parts: Sequence[_Part]) -> _Run:
        """Pad and run, in the backend's thread."""
        sequences, lengths = pad([part.sequences for part in parts])
        layers, hidden_size = self._state_shape
        zeros = np.zeros((layers, len(lengths), hidden_size), np.float32)
        outputs = sorted(frozenset[str]().union(*(part.outputs for part in parts)))
        prepared = perf_counter()
        results = self._backend.run(Batch(sequences, lengths, zeros, zeros), outputs)
        return _Run(results, lengths, prepared, perf_counter())

    def _watch_deadline(self, deadline_s: float) -> None:
        """See to it that `_expire` runs at `deadline_s` or before: one timer for all requests."""
        if self._deadline_timer is not None:
            if self._deadline_timer.when() <= deadline_s:
                return
            self._deadline_timer.cancel()
        self._deadline_timer = self._loop.call_at(deadline_s, self._expire)

    def _expire(self) -> None:
        """Answer all whose time is over, those in a run that hangs among them."""
        self._deadline_timer = None
        now_s = self._loop.time()
        pending = [part for part in (*self._waiting, *self._running) if not part.future.done()]
        for part in pending:
            if part.deadline_s <= now_s:
                part.future.set_exception(DeadlineExceeded("the request's time ran out before it was computed"))
        alive = [part.deadline_s for part in pending if part.deadline_s > now_s]
        if alive:
            self._watch_deadline(min(alive))


def _share(outputs: Outputs, part: _Part, start: int) -> Outputs:
    """Views of a part's rows of a run's outputs, cut to its own longest sequence."""
    rows = slice(start, start + part.rows)
    share = {}
    for name in part.outputs:
        array = outputs[name]
        if name in _STATES:
            share[name] = array[:, rows]
        else:
            share[name] = array[rows, : part.longest] if array.ndim == 3 else array[rows]
    return share


def _join(rows: Sequence[NDArray[np.int64]], parts: Sequence[Outputs]) -> Outputs:
    """Put the parts of a split request together: row i of a part belongs at `rows[part][i]`."""
    total = sum(len(part_rows) for part_rows in rows)
    joined = {}
    for name, first in parts[0].items():
        longest = max(part[name].shape[1] for part in parts)
        if name in _STATES:
            shape: tuple[int, ...] = (first.shape[0], total, first.shape[2])
        else:
            shape = (total, longest, first.shape[2]) if first.ndim == 3 else (total, *first.shape[1:])
        array = np.zeros(shape, np.float32)
        for part_rows, part in zip(rows, parts, strict=True):
            if name in _STATES:
                array[:, part_rows] = part[name]
            elif first.ndim == 3:
                array[part_rows, : part[name].shape[1]] = part[name]
            else:
                array[part_rows] = part[name]
        joined[name] = array
    return joined
