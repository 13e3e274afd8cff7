"""Dynamic batching: requests of one model wait here and are run together.

    infer ──split──▶ waiting ──select──▶ one run at a time ──▶ futures ──join──▶ infer
                        ▲                       │
                        └───── what has more ───┘

What runs next, how much of it, and when, is `service.policy`'s; this file waits and wakes. It is work-conserving: an
idle backend starts at once, and what arrives during a run forms the next batch. What has more steps than a run waits
for another, unless its client is gone. All state belongs to the event loop's thread, all time is the loop's clock
(monotonic). A run that takes long happens in a thread, and `compute` is all that does.
"""

import asyncio
import logging
import math
from bisect import insort
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from time import perf_counter

from service import policy
from service.backends import Backend
from service.busy_poll import BusyPoll
from service.cores import Cores
from service.errors import DeadlineExceeded, InternalError, QueueFull, ServiceError, TooLarge, Unavailable
from service.metrics import ModelMetrics
from service.parts import Computed, Outputs, Part, Progress, Waiter, compute, join
from service.policy import Cost, Limits
from service.tensors import Sequences
from service.timing import Timing

# A run that is expected to be over within this holds up the event loop less than a thread would: waking it and getting
# the interpreter's lock back costs 50 us on an idle loop, and up to the switch interval of 5 ms on a busy one.
SHORT_RUN_S = 2e-3

# A waiter may be anyone's code: one that fails must not end the batcher, and leave all others waiting.
_NOT_TOLD = "what waits for an answer failed to take it"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """What may wait, in sequences and in time steps: many small or few long ones must both stay bounded."""

    max_rows: int
    max_steps: int


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
        cost: Cost | None = None,
        cores: Cores | None = None,
        max_run_steps: int | None = None,
    ) -> None:
        """Batch for `backend`, whose initial states are `(L*D, B, H)` with `state_shape` = (L*D, H).

        `max_run_steps` bounds a run as `policy.steps_at_once` does; without it all of a batch's steps are one run.
        `cost` says what a run is expected to take. Without it none is short enough for the event loop's thread.
        `cores`: where the other workers, and other models' batchers in this one, see that it computes.
        """
        self._backend = backend
        self._state_shape = state_shape
        self._limits = limits
        self._queue_limits = queue_limits
        self._metrics = metrics
        self._cost = cost
        self._max_run_steps = max_run_steps
        self._cores = cores or Cores(1, 1)
        self._busy_poll = BusyPoll(self._cores) if self._cores.number > 1 else None
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backend")
        self._waiting: list[Part] = []
        self._waiting_rows = 0
        self._waiting_steps = 0
        self._running: list[Part] = []
        self._began_s = 0.0
        self._retries: list[list[Part]] = []  # halves of a batch that failed; they go before all that waits
        self._was_between = False  # the last run, between two of what has begun
        self._next_step: asyncio.Handle | None = None
        self._delay_timer: asyncio.Handle | None = None
        self._deadline_timer: asyncio.Handle | None = None
        self._watched_s = math.inf  # when it is due: uvloop's timers of less than a millisecond do not say
        self._closed: asyncio.Future[None] | None = None  # done when all is finished

    async def infer(
        self, sequences: Sequences, outputs: frozenset[str], *, timeout_s: float, timing: Timing, priority: int = 0
    ) -> Outputs:
        """Run `sequences` and return `outputs` by name, rows in their order, T the longest of them, zero beyond each.

        `priority` 1 goes first, 2 next, and so on; 0, which is none, goes last.
        Raises `QueueFull`, `TooLarge`, `Unavailable`, `DeadlineExceeded`, or `InternalError` if the runtime fails on
        just these. Cancelling it drops what is not running. Fills the marks of `timing` up to `inferred`.
        """
        timing.decoded = perf_counter()
        self._refuse_if_too_much(sequences)  # before it is looked at row by row
        rows = policy.split(sequences.lengths, self._limits, self._cost)
        pieces = [sequences] if len(rows) == 1 else [sequences.take(r) for r in rows]
        futures: list[asyncio.Future[Computed]] = [self._loop.create_future() for _ in pieces]
        now_s = self._loop.time()
        for number, piece in enumerate(pieces):  # no variable may hold a future, see below
            self._enqueue(piece, futures[number], outputs, now_s=now_s, timeout_s=timeout_s, priority=priority)
        try:
            done = await asyncio.gather(*futures)
        finally:
            while futures:  # none stays: an error's traceback has this frame, and would have the error through it
                futures.pop().cancel()  # if it is not done: this request is given up
        timing.ran({run for part in done for run in part.runs})
        return done[0].outputs if len(done) == 1 else join(rows, [part.outputs for part in done])

    def submit(
        self, sequences: Sequences, outputs: frozenset[str], waiter: Waiter, *, timeout_s: float, priority: int = 0
    ) -> bool:
        """Do as `infer` does, and tell `waiter`; return whether that is possible: not for what must be split."""
        self._refuse_if_too_much(sequences)
        stays_whole = policy.stays_whole(len(sequences), sequences.longest, self._limits, self._cost)
        if not stays_whole and len(policy.split(sequences.lengths, self._limits, self._cost)) > 1:
            return False
        self._enqueue(sequences, waiter, outputs, now_s=self._loop.time(), timeout_s=timeout_s, priority=priority)
        return True

    @property
    def run_s(self) -> float:
        """How long the run in the backend's thread has taken; 0 if there is none."""
        return self._loop.time() - self._began_s if self._running else 0.0

    async def close(self) -> None:
        """Take no more, finish what was taken, release the thread."""
        if self._closed is None:
            self._closed = self._loop.create_future()
            self._wake()
        await asyncio.shield(self._closed)
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._thread.shutdown(wait=False)

    def _enqueue(
        self,
        piece: Sequences,
        waiter: Waiter,
        outputs: frozenset[str],
        *,
        now_s: float,
        timeout_s: float,
        priority: int,
    ) -> None:
        deadline_s = now_s + timeout_s
        place = priority or math.inf
        rows, steps = len(piece.lengths), len(piece.values)
        self._line_up(Part(piece, rows, steps, piece.longest, outputs, place, now_s, deadline_s, waiter))
        self._wake()
        self._watch_deadline(deadline_s)

    def _line_up(self, part: Part) -> None:
        self._count_waiting(part.rows, part.steps)
        if not self._waiting or (self._waiting[-1].place <= part.place and not part.has_begun):
            self._waiting.append(part)
        else:  # behind those of the same place, but what has begun before those that have not
            insort(self._waiting, part, key=lambda waiting: (waiting.place, not waiting.has_begun))

    def refuse_if_full(self) -> None:
        """Raise `QueueFull` if not even one more step may wait: a request need not be read to know that."""
        if not self._has_room(1, 1):
            self._purge()
            if not self._has_room(1, 1):
                raise self._queue_full()

    def _refuse_if_too_much(self, sequences: Sequences) -> None:
        rows, steps = len(sequences.lengths), len(sequences.values)
        if self._closed is not None:
            raise Unavailable("the model is being unloaded")
        if self._has_room(rows, steps):
            return
        limits = self._queue_limits
        if rows > limits.max_rows or steps > limits.max_steps:
            allowed = f"at most {limits.max_rows} sequences and {limits.max_steps} steps"
            raise TooLarge(f"{rows} sequences of {steps} time steps together in one request, {allowed} may wait")
        self._purge()
        if not self._has_room(rows, steps):
            raise self._queue_full()

    def _queue_full(self) -> QueueFull:
        limits = self._queue_limits
        waiting = f"{self._waiting_rows} sequences of {self._waiting_steps} time steps together are waiting"
        return QueueFull(f"{waiting}, at most {limits.max_rows} and {limits.max_steps} may; try again")

    def _has_room(self, rows: int, steps: int) -> bool:
        limits = self._queue_limits
        return self._waiting_rows + rows <= limits.max_rows and self._waiting_steps + steps <= limits.max_steps

    def _count_waiting(self, rows: int, steps: int) -> None:
        self._waiting_rows += rows
        self._waiting_steps += steps
        self._metrics.queue_changed(rows)

    def _leave_queue(self, parts: Sequence[Part]) -> None:
        if not parts:
            return
        if len(parts) == len(self._waiting):
            self._waiting = []
            self._count_waiting(-self._waiting_rows, -self._waiting_steps)
        else:
            gone = set(parts)
            self._waiting = [part for part in self._waiting if part not in gone]
            self._count_waiting(-sum([part.rows for part in parts]), -sum([part.steps for part in parts]))

    def _purge(self) -> None:
        """Drop what was cancelled or ran out of time while it waited: it costs no compute."""
        self._leave_queue([part for part in self._waiting if part.waiter.done()])

    def _wake(self) -> None:
        """Take a step when all that is ready on the loop has been handled: simultaneous arrivals share a batch."""
        if self._delay_timer is not None:
            self._delay_timer.cancel()
            self._delay_timer = None
        if self._next_step is None and not self._running:
            self._next_step = self._loop.call_soon(self._step)

    def _step(self) -> None:
        """Begin the next run, or see to it that it begins in time; nothing runs now."""
        self._next_step = None
        parts: list[Part] = []
        while self._retries and not parts:
            parts = [part for part in self._retries.pop() if not part.waiter.done()]
        self._running = parts or self._choose()
        if self._running:
            self._run(self._running)
        elif self._closed is not None and not self._closed.done():
            self._closed.set_result(None)

    def _choose(self) -> list[Part]:
        """Take the next batch out of the queue. It is empty if none is due, and then a timer is set."""
        self._purge()
        if not self._waiting:
            return []
        delay_s = 0.0 if self._closed else policy.starts_in_s(self._waiting, self._loop.time(), self._limits)
        if delay_s > 0:
            self._delay_timer = self._loop.call_later(delay_s, self._wake)
            return []
        batch = self._between() or policy.select(self._waiting, self._limits, self._cost)
        parts = [self._waiting[position] for position in batch]
        self._leave_queue(parts)
        return parts

    def _between(self) -> list[int]:
        """The positions of those who go before what has begun; it is their turn every other time."""
        positions: list[int] = []
        if self._max_run_steps is not None and self._waiting[0].has_begun and not self._was_between:
            positions = policy.select_between(self._waiting, self._limits, self._max_run_steps, self._cost)
        self._was_between = bool(positions)
        return positions

    def _run(self, parts: list[Part]) -> None:
        """Compute `parts` here if that takes no longer than handing them over, else in the backend's thread."""
        dispatched = perf_counter()
        self._cores.take()
        rows, steps = sum([part.rows for part in parts]), max([part.longest for part in parts])
        if self._max_run_steps is not None:
            steps = policy.steps_at_once(rows, steps, self._max_run_steps, self._cost)
        if self._cost is not None and self._cost(rows, steps) <= SHORT_RUN_S:
            try:
                done = compute(parts, steps, self._backend, self._state_shape, dispatched)
            except Exception as error:
                self._failed(parts, error)
            else:
                self._ran(parts, steps, done)
            return
        self._began_s = self._loop.time()
        self._thread.submit(self._compute_elsewhere, parts, steps, dispatched)

    def _compute_elsewhere(self, parts: list[Part], steps: int, dispatched: float) -> None:
        """In the backend's thread. What came of it is handed over here: a future that is waited for takes longer."""
        try:
            done = compute(parts, steps, self._backend, self._state_shape, dispatched)
        except BaseException as error:  # whatever it is, somebody waits for it
            self._loop.call_soon_threadsafe(self._failed, parts, error)
        else:
            self._loop.call_soon_threadsafe(self._ran, parts, steps, done)

    def _ran(self, parts: list[Part], steps: int, done: list[Computed | Progress]) -> None:
        """Answer what is computed; what has more waits again."""
        self._metrics.ran(
            [
                part.sequences.lengths if part.longest <= steps else part.sequences.lengths.clip(max=steps)
                for part in parts
            ],
            [part.lengths for part in parts if part.longest <= steps],
        )
        for part, result in zip(parts, done, strict=True):
            if part.waiter.done():
                continue
            if isinstance(result, Progress):
                part.go_on(result)
                self._line_up(part)
                continue
            try:
                part.waiter.set_result(result)
            except Exception:
                logger.exception(_NOT_TOLD)
        self._finish()

    def _failed(self, parts: list[Part], error: BaseException) -> None:
        """Have each half run by itself, until the part at fault is alone."""
        if len(parts) > 1:
            logger.warning("a batch of %d requests failed, retrying its halves: %s", len(parts), error)
            self._retries += (parts[len(parts) // 2 :], parts[: len(parts) // 2])
        else:
            logger.error("the model failed on one request", exc_info=error)
            if not parts[0].waiter.done():
                _refuse(parts[0], InternalError("the model failed on this request"))
        self._finish()

    def _finish(self) -> None:
        self._cores.give_back()
        if self._busy_poll is not None and len(self._running) == 1 and not self._waiting:
            self._busy_poll.begin()
        self._running = []
        self._wake()

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
        parts = chain(self._waiting, chain.from_iterable(self._retries), self._running)
        pending = [part for part in parts if not part.waiter.done()]
        for part in pending:
            if part.deadline_s <= now_s:
                _refuse(part, DeadlineExceeded("the request's time ran out before it was computed"))
        alive = [part.deadline_s for part in pending if part.deadline_s > now_s]
        if alive:
            self._watch_deadline(min(alive))


def _refuse(part: Part, error: ServiceError) -> None:
    try:
        part.waiter.set_exception(error)
    except Exception:
        logger.exception(_NOT_TOLD)
