"""Dynamic batching: requests of one model wait here and are run together.

    infer ──split──▶ waiting ──select──▶ one run at a time, in a thread ──▶ futures ──join──▶ infer

What runs next, and when, is `service.policy`'s; this file waits and wakes. It is work-conserving: an idle backend
starts at once, and what arrives during a run forms the next batch. All state belongs to the event loop's thread, all
time is the loop's clock (monotonic), and only `_compute` happens elsewhere.
"""

import asyncio
import logging
import math
from bisect import insort
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from service import policy
from service.backends import Array, Backend, Batch
from service.errors import DeadlineExceeded, InternalError, QueueFull, TooLarge, Unavailable
from service.metrics import ModelMetrics
from service.policy import Limits
from service.tensors import Sequences, join_states, pad
from service.timing import Timing

# Graph outputs (L*D, B, H); in all others the batch comes first.
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
    place: float  # in line: 1 goes before 2, what came without a priority is last
    enqueued_s: float
    deadline_s: float
    future: asyncio.Future["_Done"]

    @property
    def rows(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, slots=True)
class _Done:
    """A part's own rows of its own outputs, and the marks of the run that computed them."""

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
        metrics: ModelMetrics,
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
        self._worker: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()
        self._deadline_timer: asyncio.Handle | None = None
        self._watched_s = math.inf  # when it is due: uvloop's timers of less than a millisecond do not say
        self._closed = False

    async def infer(
        self, sequences: Sequences, outputs: frozenset[str], *, timeout_s: float, timing: Timing, priority: int = 0
    ) -> Outputs:
        """Run `sequences` and return `outputs` by name, rows in their order, T the longest of them, zero beyond each.

        `priority` 1 goes first, 2 next, and so on; 0, which is none, goes last.
        Raises `QueueFull`, `TooLarge`, `Unavailable`, `DeadlineExceeded`, or `InternalError` if the runtime fails on
        just these. Cancelling it drops what has not begun to run. Fills the marks of `timing` up to `inferred`.
        """
        timing.decoded = perf_counter()
        rows = policy.split(sequences.lengths, self._limits)
        pieces = [sequences] if len(rows) == 1 else [sequences.take(r) for r in rows]
        parts = self._enqueue(pieces, outputs, timeout_s, place=priority or math.inf)
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
        self._changed.set()
        if self._worker is not None:
            await asyncio.wait([self._worker])
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._thread.shutdown(wait=False)

    def _enqueue(
        self, pieces: Sequence[Sequences], outputs: frozenset[str], timeout_s: float, *, place: float
    ) -> list[_Part]:
        self._admit(sum(len(piece) for piece in pieces), sum(len(piece.values) for piece in pieces))
        now_s = self._loop.time()
        parts = [
            _Part(piece, piece.longest, outputs, place, now_s, now_s + timeout_s, self._loop.create_future())
            for piece in pieces
        ]
        for part in parts:
            insort(self._waiting, part, key=lambda waiting: waiting.place)  # behind those of the same place
        self._changed.set()
        if self._worker is None or self._worker.done():
            # It starts when all that is ready on the loop has been handled: simultaneous arrivals share a batch.
            self._worker = self._loop.create_task(self._work())
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
        if not self._has_room(rows, steps):
            self._purge()
        if not self._has_room(rows, steps):
            waiting = f"{self._waiting_rows} sequences of {self._waiting_steps} time steps together are waiting"
            raise QueueFull(f"{waiting}, at most {limits.max_rows} and {limits.max_steps} may; try again")
        self._count_waiting(rows, steps)

    def _has_room(self, rows: int, steps: int) -> bool:
        limits = self._queue_limits
        return self._waiting_rows + rows <= limits.max_rows and self._waiting_steps + steps <= limits.max_steps

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

    async def _work(self) -> None:
        """Run batch after batch until none waits."""
        while True:
            self._purge()
            if not self._waiting:
                return
            delay_s = 0.0 if self._closed else policy.starts_in_s(self._waiting, self._loop.time(), self._limits)
            if delay_s > 0:
                await self._change_within(delay_s)
                continue
            self._running = [self._waiting[position] for position in policy.select(self._waiting, self._limits)]
            self._leave_queue(self._running)
            await self._attempt(self._running)
            self._running = []

    async def _change_within(self, delay_s: float) -> None:
        """Wait for an arrival or for `close`, at most `delay_s`."""
        self._changed.clear()
        timer = self._loop.call_later(delay_s, self._changed.set)
        await self._changed.wait()
        timer.cancel()

    async def _attempt(self, parts: Sequence[_Part]) -> None:
        """Run `parts` together; if that fails, run each half, until the part at fault is alone."""
        parts = [part for part in parts if not part.future.done()]
        if not parts:
            return
        try:
            done = await self._loop.run_in_executor(self._thread, self._compute, parts, perf_counter())
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
        for part, result in zip(parts, done, strict=True):
            if not part.future.done():
                part.future.set_result(result)

    def _compute(self, parts: Sequence[_Part], dispatched: float) -> list[_Done]:
        """Pad, run, and share out, in the backend's thread."""
        sequences, lengths = pad([part.sequences for part in parts])
        state = join_states([part.sequences for part in parts], self._state_shape)
        outputs = sorted(frozenset[str]().union(*(part.outputs for part in parts)))
        prepared = perf_counter()
        results = self._backend.run(Batch(sequences, lengths, state.h0, state.c0), outputs)
        inferred = perf_counter()
        self._metrics.ran(lengths)
        done, start = [], 0
        for part in parts:
            done.append(_Done(_share(results, part, start), dispatched, prepared, inferred))
            start += part.rows
        return done

    def _watch_deadline(self, deadline_s: float) -> None:
        """See to it that `_expire` runs at `deadline_s` or before: one timer for all requests."""
        if self._deadline_timer is not None:
            if self._watched_s <= deadline_s:
                return
            self._deadline_timer.cancel()
        self._watched_s = deadline_s
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
    return {name: outputs[name][_place(name, outputs[name].ndim, rows, part.longest)] for name in part.outputs}


def _join(rows: Sequence[NDArray[np.int64]], parts: Sequence[Outputs]) -> Outputs:
    """Put the parts of a split request together: row i of a part belongs at `rows[part][i]`."""
    joined = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        shape = np.max([array.shape for array in arrays], axis=0)
        shape[1 if name in _STATES else 0] = sum(len(part_rows) for part_rows in rows)
        joined[name] = np.zeros(shape, np.float32)
        for part_rows, array in zip(rows, arrays, strict=True):
            joined[name][_place(name, array.ndim, part_rows, array.shape[1])] = array
    return joined


def _place(
    name: str, ndim: int, rows: slice | NDArray[np.int64], longest: int
) -> tuple[slice | NDArray[np.int64], ...]:
    """The index of `rows` in graph output `name`, and of the first `longest` steps if it has steps."""
    if name in _STATES:
        return slice(None), rows  # (L*D, B, H)
    return (rows, slice(longest)) if ndim == 3 else (rows,)  # (B, T, D*H) or (B, K)
