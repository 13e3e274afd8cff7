"""`service.batcher` on a loop with a fake clock, in front of a backend whose answers show what it was asked."""

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from itertools import chain, pairwise
from time import perf_counter

import fake_clock
import numpy as np
import pytest
import uvloop
from fake_backend import EVERY_OUTPUT, HIDDEN_SIZE, LAYERS, POISON, STATE_SHAPE, FakeBackend, expected
from fake_clock import FakeClock, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from service.backends import Array, Batch
from service.batcher import SHORT_RUN_S, Batcher, QueueLimits
from service.errors import DeadlineExceeded, InternalError, QueueFull, ServiceError, TooLarge, Unavailable
from service.metrics import Metrics
from service.parts import Computed, Outputs
from service.policy import LONG_RUN_S, Cost, Limits
from service.tensors import Sequences, State
from service.timing import Timing

Answer = asyncio.Task[Outputs]


class Setup:
    """A batcher, its backend, and short words for what tests do with them."""

    def __init__(
        self,
        backend: FakeBackend | None = None,
        *,
        max_rows: int = 4,
        max_steps: int = 1000,
        max_delay_s: float = 0.0,
        queue_rows: int = 100,
        queue_steps: int = 10_000,
        cost: Cost | None = None,
        max_run_steps: int | None = None,
    ) -> None:
        self.backend = backend or FakeBackend()
        self.metrics = Metrics()
        self.batcher = Batcher(
            self.backend,
            STATE_SHAPE,
            limits=Limits(max_rows, max_steps, max_delay_s),
            queue_limits=QueueLimits(queue_rows, queue_steps),
            metrics=self.metrics.of_model("m", "1"),
            cost=cost,
            max_run_steps=max_run_steps,
        )

    def ask(self, *sequences: Array, timeout_s: float = 30.0, priority: int = 0) -> Answer:
        return asyncio.create_task(
            self.batcher.infer(
                request(*sequences), EVERY_OUTPUT, timeout_s=timeout_s, timing=Timing(), priority=priority
            )
        )

    async def ask_while_busy(self) -> Answer:
        """Keep the backend busy with a request whose value is 0, until its gate is opened."""
        self.backend.gate.close()
        answer = self.ask(row(0))
        await self.backend.gate.has_been_entered()
        return answer

    def waiting(self) -> float:
        (line,) = [line for line in self.metrics.render().decode().splitlines() if line.startswith("lstm_queue_size ")]
        return float(line.split()[1])


def row(value: float, length: int = 1) -> Array:
    """A sequence that counts on from `value`."""
    return np.arange(value, value + length, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)


def request(*sequences: Array, state: State | None = None) -> Sequences:
    return Sequences(np.concatenate(sequences), np.array([len(sequence) for sequence in sequences], np.int64), state)


def answers(outputs: Outputs, *sequences: Array) -> bool:
    """Whether these are the outputs for just these sequences, in this order, and nothing beyond them."""
    longest = max(len(sequence) for sequence in sequences)
    rows = [expected(sequence, longest=longest) for sequence in sequences]
    return outputs.keys() == EVERY_OUTPUT and all(
        np.array_equal(array, np.stack([one[name] for one in rows], axis=1 if name in {"hn", "cn"} else 0))
        for name, array in outputs.items()
    )


def test_an_idle_backend_starts_at_once() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        assert answers(await setup.ask(row(1)), row(1))
        assert setup.backend.firsts == [[1]]

    fake_clock.run(test)


def test_simultaneous_arrivals_share_a_batch() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        await asyncio.gather(*(setup.ask(row(value)) for value in (1, 2, 3)))
        assert setup.backend.firsts == [[1, 2, 3]]

    fake_clock.run(test)


def test_what_arrives_during_a_run_forms_the_next_batch() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        busy = await setup.ask_while_busy()
        later = []
        for value in (1, 2, 3):
            later.append(setup.ask(row(value)))
            await settle()
        assert setup.waiting() == 3
        setup.backend.gate.open()
        await asyncio.gather(busy, *later)
        assert setup.backend.firsts == [[0], [1, 2, 3]]

    fake_clock.run(test)


def test_arrivals_without_a_pause_do_not_put_off_an_idle_backends_start() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=100)
        arrived: list[Answer] = []

        def arrive() -> None:
            """One more in each turn of the loop, ahead of whatever the one before has set off."""
            if len(arrived) < 50:
                asyncio.get_running_loop().call_soon(arrive)
                arrived.append(setup.ask(row(len(arrived))))

        arrive()
        while len(arrived) < 50:
            await asyncio.sleep(0)
        await asyncio.gather(*arrived)
        assert len(setup.backend.firsts[0]) < 50

    fake_clock.run(test)


def test_the_delay_counts_from_the_oldest() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(max_delay_s=1.0)
        oldest = setup.ask(row(1))
        await clock.advance(0.5)
        later = setup.ask(row(2))
        await clock.advance(0.25)
        assert setup.backend.batches == []
        await clock.advance(0.25)
        await asyncio.gather(oldest, later)
        assert setup.backend.firsts == [[1, 2]]

    fake_clock.run(test)


def test_the_delay_counts_from_the_next_oldest_if_the_oldest_leaves() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(max_delay_s=1.0)
        oldest = setup.ask(row(1))
        await clock.advance(0.5)
        later = setup.ask(row(2))
        await settle()
        oldest.cancel()
        await clock.advance(0.5)
        assert setup.backend.batches == []
        await clock.advance(0.5)
        await later
        assert setup.backend.firsts == [[2]]

    fake_clock.run(test)


@pytest.mark.parametrize("limits", [{"max_rows": 3}, {"max_steps": 15}])
def test_a_full_batch_ends_the_delay(limits: dict[str, int]) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(**limits, max_delay_s=1.0)
        waiting = [setup.ask(row(1, 5)), setup.ask(row(2, 5))]
        await settle()
        await asyncio.gather(*waiting, setup.ask(row(3, 5)))
        assert setup.backend.firsts == [[1, 2, 3]]

    fake_clock.run(test)


def test_each_batch_has_a_delay_of_its_own() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(max_delay_s=1.0)
        for value in (1, 2):
            answer = setup.ask(row(value))
            await clock.advance(0.75)
            assert len(setup.backend.batches) == value - 1
            await clock.advance(0.25)
            await answer

    fake_clock.run(test)


def test_a_cancelled_request_is_dropped_before_compute_and_its_neighbours_are_answered() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        busy = await setup.ask_while_busy()
        one, cancelled, other = (setup.ask(row(value)) for value in (1, 2, 3))
        await settle()
        cancelled.cancel()
        setup.backend.gate.open()
        await busy
        assert answers(await one, row(1))
        assert answers(await other, row(3))
        assert setup.backend.firsts == [[0], [1, 3]]
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    fake_clock.run(test)


def test_a_request_that_is_cancelled_while_it_runs_leaves_its_neighbours_their_answers() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        setup.backend.gate.close()
        cancelled, other = setup.ask(row(1)), setup.ask(row(2))
        await setup.backend.gate.has_been_entered()
        cancelled.cancel()
        await settle()
        setup.backend.gate.open()
        assert answers(await other, row(2))
        assert answers(await setup.ask(row(3)), row(3))

    fake_clock.run(test)


def test_cancelling_a_split_request_drops_all_its_parts() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=2)
        busy = await setup.ask_while_busy()
        split = setup.ask(*(row(value) for value in range(1, 8)))
        await settle()
        split.cancel()
        setup.backend.gate.open()
        await busy
        assert answers(await setup.ask(row(9)), row(9))
        assert setup.backend.firsts == [[0], [9]]
        assert setup.waiting() == 0

    fake_clock.run(test)


@pytest.mark.parametrize("poisoned", range(5))
def test_a_request_that_the_model_fails_on_fails_alone(poisoned: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=8)
        values = [POISON if i == poisoned else float(i) for i in range(5)]
        results = await asyncio.gather(*(setup.ask(row(value)) for value in values), return_exceptions=True)
        for i, result in enumerate(results):
            if i == poisoned:
                assert isinstance(result, InternalError)
                assert "poison" not in str(result)
            else:
                assert isinstance(result, dict)
                assert answers(result, row(i))
        assert answers(await setup.ask(row(9)), row(9))

    fake_clock.run(test)
    assert "poison" in caplog.text


def test_halves_are_retried_without_those_that_have_left() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        setup.backend.gate.close()
        poisoned, cancelled, other = (setup.ask(row(value)) for value in (POISON, 1, 2))
        await setup.backend.gate.has_been_entered()
        cancelled.cancel()
        await settle()
        setup.backend.gate.open()
        with pytest.raises(InternalError):
            await poisoned
        assert answers(await other, row(2))
        assert setup.backend.firsts == [[POISON, 1, 2], [POISON], [2]]

    fake_clock.run(test)


def test_a_half_that_nobody_waits_for_holds_up_no_other() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        setup.backend.gate.close()
        *gone, poisoned, other = (setup.ask(row(value)) for value in (1, 2, POISON, 3))
        await setup.backend.gate.has_been_entered()
        for one in gone:
            one.cancel()
        await settle()
        setup.backend.gate.open()
        assert answers(await other, row(3))
        with pytest.raises(InternalError):
            await poisoned
        assert setup.backend.firsts == [[1, 2, POISON, 3], [POISON, 3], [POISON], [3]]

    fake_clock.run(test)


def test_a_half_that_waits_for_the_other_half_runs_out_of_time_too() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup()
        setup.backend.gate.close()
        poisoned, other = setup.ask(row(POISON)), setup.ask(row(1), timeout_s=5.0)
        await setup.backend.gate.has_been_entered()
        setup.backend.gate.open()
        setup.backend.gate.close()  # it let one pass
        await setup.backend.gate.has_been_entered()
        assert setup.backend.firsts == [[POISON, 1], [POISON]]
        await clock.advance(5.0)
        with pytest.raises(DeadlineExceeded):
            await other
        setup.backend.gate.open()
        with pytest.raises(InternalError):
            await poisoned
        assert answers(await setup.ask(row(2)), row(2))
        assert setup.backend.firsts == [[POISON, 1], [POISON], [2]]

    fake_clock.run(test)


def test_a_part_that_fails_fails_its_split_request_and_no_other() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=2)
        split, other = setup.ask(row(1), row(2), row(POISON), row(3), row(4)), setup.ask(row(5))
        with pytest.raises(InternalError):
            await split
        assert answers(await other, row(5))
        assert answers(await setup.ask(row(6)), row(6))
        assert setup.waiting() == 0

    fake_clock.run(test)


def test_the_rest_of_a_request_that_has_failed_is_not_computed() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1)
        with pytest.raises(InternalError):
            await setup.ask(row(POISON), *(row(value) for value in range(50)))
        await setup.ask(row(100))
        assert len(setup.backend.batches) < 50

    fake_clock.run(test)


class _Broken(FakeBackend):
    """Breaks its promise in the way that the test says, the first time."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault = fault

    def run(self, batch: Batch, outputs: list[str]) -> dict[str, Array]:
        results = super().run(batch, outputs)
        fault, self._fault = self._fault, ""
        if fault == "memory":
            raise MemoryError
        return {} if fault == "missing outputs" else results


@pytest.mark.parametrize("fault", ["memory", "missing outputs"])
def test_nothing_that_a_backend_does_wrong_ends_the_batcher(fault: str) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(_Broken(fault))
        with pytest.raises(InternalError):
            await setup.ask(row(1))
        assert answers(await setup.ask(row(2)), row(2))

    fake_clock.run(test)


def test_who_runs_out_of_time_while_waiting_is_answered_then_and_never_computed() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup()
        busy = await setup.ask_while_busy()
        waiting = setup.ask(row(1), timeout_s=5.0)
        await clock.advance(4.9)
        assert not waiting.done()
        await clock.advance(0.1)
        with pytest.raises(DeadlineExceeded):
            await waiting
        setup.backend.gate.open()
        await busy
        await setup.ask(row(2))
        assert setup.backend.firsts == [[0], [2]]

    fake_clock.run(test)


def test_who_runs_out_of_time_while_the_backend_hangs_is_answered() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup()
        hanging = await setup.ask_while_busy()
        await clock.advance(30.0)
        with pytest.raises(DeadlineExceeded):
            await hanging
        setup.backend.gate.open()
        assert answers(await setup.ask(row(1)), row(1))

    fake_clock.run(test)


def test_a_shorter_deadline_that_comes_later_is_kept_and_so_is_the_longer() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup()
        busy = await setup.ask_while_busy()
        long, short = setup.ask(row(1), timeout_s=20.0), setup.ask(row(2), timeout_s=3.0)
        await clock.advance(3.0)
        with pytest.raises(DeadlineExceeded):
            await short
        assert not long.done()
        await clock.advance(17.0)
        with pytest.raises(DeadlineExceeded):
            await long
        setup.backend.gate.open()
        await busy

    fake_clock.run(test)


def test_a_deadline_below_the_clocks_resolution_harms_nobody_else_under_uvloop() -> None:
    async def test() -> None:
        setup = Setup()
        busy = await setup.ask_while_busy()
        hurried, patient = setup.ask(row(1), timeout_s=1e-6), setup.ask(row(2))
        with pytest.raises(DeadlineExceeded):
            await hurried
        setup.backend.gate.open()
        assert {"probabilities"} <= (await patient).keys()
        await busy

    uvloop.run(test())


def test_all_parts_of_a_split_request_run_out_of_time_together() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(max_rows=2)
        busy = await setup.ask_while_busy()
        split = setup.ask(*(row(value) for value in range(1, 8)), timeout_s=5.0)
        await clock.advance(5.0)
        with pytest.raises(DeadlineExceeded):
            await split
        setup.backend.gate.open()
        await busy
        await setup.ask(row(9))
        assert setup.backend.firsts == [[0], [9]]

    fake_clock.run(test)


@pytest.mark.parametrize("limits", [{"queue_rows": 3}, {"queue_steps": 30}])
def test_a_full_queue_refuses_and_has_room_again_after_a_run(limits: dict[str, int]) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(**limits)
        busy = await setup.ask_while_busy()
        waiting = [setup.ask(row(value, 10)) for value in (1, 2, 3)]
        await settle()
        with pytest.raises(QueueFull, match="3 sequences of 30 time steps"):
            await setup.ask(row(4, 10))
        setup.backend.gate.open()
        await asyncio.gather(busy, *waiting)
        assert answers(await setup.ask(row(5, 10)), row(5, 10))

    fake_clock.run(test)


@pytest.mark.parametrize("limits", [{"queue_rows": 3}, {"queue_steps": 30}])
def test_a_full_queue_has_room_again_when_one_leaves(limits: dict[str, int]) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(**limits)
        busy = await setup.ask_while_busy()
        waiting = [setup.ask(row(value, 10)) for value in (1, 2, 3)]
        await settle()
        waiting.pop().cancel()
        await settle()
        waiting.append(setup.ask(row(4, 10)))
        await settle()
        setup.backend.gate.open()
        assert answers(await waiting[-1], row(4, 10))
        await asyncio.gather(busy, *waiting)

    fake_clock.run(test)


@pytest.mark.parametrize("limits", [{"queue_rows": 2}, {"queue_steps": 29}])
def test_a_request_that_could_never_wait_is_too_large(limits: dict[str, int]) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(**limits)
        with pytest.raises(TooLarge, match=f"3 sequences of 30 .* at most {min(limits.values())}|and 29 steps"):
            await setup.ask(*(row(value, 10) for value in (1, 2, 3)))
        assert setup.waiting() == 0

    fake_clock.run(test)


@pytest.mark.parametrize("limits", [{"max_rows": 2}, {"max_steps": 8}])
def test_a_request_larger_than_a_batch_is_split_and_joined_in_its_order(limits: dict[str, int]) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(**limits)
        sequences = [row(10 * i, length) for i, length in enumerate((3, 1, 8, 2, 5, 1, 3))]
        outputs = await setup.ask(*sequences)
        assert len(setup.backend.batches) > 1
        assert answers(outputs, *sequences)
        assert outputs["hidden_states"].shape == (7, 8, HIDDEN_SIZE)
        assert outputs["hn"].shape == (LAYERS, 7, HIDDEN_SIZE)

    fake_clock.run(test)


def test_a_run_computes_what_any_of_its_requests_wants_and_each_gets_its_own() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        wanted = [frozenset({"probabilities"}), frozenset({"hn", "hidden_states"})]
        results = await asyncio.gather(
            *(setup.batcher.infer(request(row(1)), names, timeout_s=1.0, timing=Timing()) for names in wanted)
        )
        assert [result.keys() for result in results] == wanted
        assert setup.backend.outputs == [("hidden_states", "hn", "probabilities")]

    fake_clock.run(test)


requests = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=12)
bounds = st.none() | st.integers(1, 20)  # of one run


@settings(max_examples=40, deadline=None)
@given(requests, st.sampled_from([0.0, 1.0]), bounds, st.data())
def test_every_answer_belongs_to_its_request(
    shapes: list[list[int]], delay_s: float, bound: int | None, data: st.DataObject
) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=4, max_steps=20, max_delay_s=delay_s, max_run_steps=bound)
        sent = []
        for number, lengths in enumerate(shapes):
            sequences = [row(100 * number + 10 * i, length) for i, length in enumerate(lengths)]
            if number in poisoned:
                sequences[-1] = row(POISON - lengths[-1] // 2, lengths[-1])
            sent.append((sequences, setup.ask(*sequences)))
            if number in pauses:
                await settle()
            if number in leaving:
                sent[-1][1].cancel()
        await settle()
        await setup.batcher.close()
        await asyncio.wait([answer for _, answer in sent])
        for number, (sequences, answer) in enumerate(sent):
            if answer.cancelled():
                assert number in leaving
            elif number in poisoned:
                assert isinstance(answer.exception(), InternalError)
            else:
                assert answers(answer.result(), *sequences)
        assert setup.waiting() == 0

    numbers = st.sets(st.integers(0, len(shapes) - 1))
    pauses, leaving, poisoned = data.draw(numbers), data.draw(numbers), data.draw(numbers)
    fake_clock.run(test)


def test_close_finishes_what_was_taken_and_then_refuses() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1)
        busy = await setup.ask_while_busy()
        waiting = [setup.ask(row(value)) for value in (1, 2)]
        await settle()
        closing = asyncio.create_task(setup.batcher.close())
        await settle()
        with pytest.raises(Unavailable):
            await setup.ask(row(3))
        assert not closing.done()
        setup.backend.gate.open()
        await closing
        assert all(answer.done() for answer in (busy, *waiting))
        assert answers(await waiting[1], row(2))
        with pytest.raises(Unavailable):
            await setup.ask(row(3))

    fake_clock.run(test)


def test_close_does_not_wait_for_a_delay() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_delay_s=60.0)
        waiting = setup.ask(row(1))
        await settle()
        await setup.batcher.close()
        assert answers(await waiting, row(1))

    fake_clock.run(test)


def test_closing_an_idle_batcher_is_done_at_once_and_may_be_repeated() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        await setup.batcher.close()
        await setup.batcher.close()

    fake_clock.run(test)


@pytest.mark.parametrize("rows", [1, 7])
def test_the_marks_follow_each_other_and_the_stages_sum_to_the_duration(rows: int) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=2)
        timing = Timing()
        sequences = request(*(row(value) for value in range(rows)))
        await setup.batcher.infer(sequences, EVERY_OUTPUT, timeout_s=1.0, timing=timing)
        timing.completed = timing.encoded = perf_counter()
        marks = [timing.received, timing.decoded, timing.dispatched, timing.prepared, timing.inferred, timing.completed]
        assert all(one <= next_ for one, next_ in pairwise(marks))
        assert timing.inferred >= setup.backend.finished[-1]
        assert math.isclose(sum(timing.stages_s()), timing.duration_s, abs_tol=1e-6)

    fake_clock.run(test)


def test_the_queue_gauge_returns_to_zero_whatever_happened() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(max_rows=2, queue_rows=6)
        busy = await setup.ask_while_busy()
        answered, poisoned, cancelled, late = (
            setup.ask(row(1)),
            setup.ask(row(POISON)),
            setup.ask(row(2), row(3), row(4)),
            setup.ask(row(5), timeout_s=1.0),
        )
        refused = setup.ask(row(6))
        await clock.advance(1.0)
        assert setup.waiting() == 6
        cancelled.cancel()
        setup.backend.gate.open()
        results = await asyncio.gather(busy, answered, poisoned, cancelled, late, refused, return_exceptions=True)
        kinds = [dict, dict, InternalError, asyncio.CancelledError, DeadlineExceeded, QueueFull]
        assert [type(result) for result in results] == kinds
        assert setup.waiting() == 0

    fake_clock.run(test)


def test_priority_1_goes_first_then_2_and_what_has_none_last() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1)
        busy = await setup.ask_while_busy()
        later = []
        for value, priority in ((1, 0), (2, 2), (3, 1), (4, 0), (5, 2), (6, 1), (7, 10**30)):
            later.append(setup.ask(row(value), priority=priority))
            await settle()
        setup.backend.gate.open()
        await asyncio.gather(busy, *later)
        assert setup.backend.firsts == [[0], [3], [6], [2], [5], [7], [1], [4]]

    fake_clock.run(test)


def test_the_delay_counts_from_the_oldest_wherever_it_stands_in_line() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(max_delay_s=2.0)
        first = setup.ask(row(1))
        await settle()
        await clock.advance(1.5)
        urgent = setup.ask(row(2), priority=1)
        await settle()
        await clock.advance(0.4)
        assert setup.backend.firsts == []
        await clock.advance(0.1)
        await asyncio.gather(first, urgent)
        assert setup.backend.firsts == [[2, 1]]

    fake_clock.run(test)


def test_each_sequence_begins_with_its_own_state_and_those_without_with_zeros() -> None:
    def state(value: float, rows: int) -> State:
        h0 = np.full((LAYERS, rows, HIDDEN_SIZE), value, np.float32) + np.arange(rows)[:, None].astype(np.float32)
        return State(h0, -h0)

    async def test(_: FakeClock) -> None:
        setup = Setup()
        resumed = request(row(1), row(2), state=state(10, 2))
        others = [request(row(3)), request(row(4), state=state(20, 1))]
        await asyncio.gather(
            *(setup.batcher.infer(one, EVERY_OUTPUT, timeout_s=1.0, timing=Timing()) for one in (resumed, *others))
        )
        (batch,) = setup.backend.batches
        assert batch.h0[0, :, 0].tolist() == [10, 11, 0, 20]
        np.testing.assert_array_equal(batch.c0, -batch.h0)

    fake_clock.run(test)


def test_a_request_that_is_split_takes_its_states_along() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=2)
        h0 = np.arange(5, dtype=np.float32)[None, :, None] * np.ones((LAYERS, 1, HIDDEN_SIZE), np.float32)
        sequences = request(*(row(value, int(value) + 1) for value in range(5)), state=State(h0, h0))
        await setup.batcher.infer(sequences, EVERY_OUTPUT, timeout_s=1.0, timing=Timing())
        for batch in setup.backend.batches:
            assert batch.h0[0, :, 0].tolist() == batch.sequences[:, 0, 0].tolist()

    fake_clock.run(test)


class _Noting(FakeBackend):
    """Notes in which thread each run happened."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[threading.Thread] = []

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        self.threads.append(threading.current_thread())
        return super().run(batch, outputs)


def short(rows: int, steps: int) -> float:  # noqa: ARG001
    return SHORT_RUN_S


def long(rows: int, steps: int) -> float:  # noqa: ARG001
    return math.nextafter(SHORT_RUN_S, 1)


def per_row(rows: int, steps: int) -> float:  # noqa: ARG001
    """Three rows are short, four are not."""
    return rows * SHORT_RUN_S / 3


class _Taker:
    """Waits for what it submitted, and notes what it is told, and in which order with others."""

    def __init__(self, said: list[object] | None = None, then: Callable[[], object] | None = None) -> None:
        self.said: list[object] = []
        self.order = [] if said is None else said
        self._then = then
        self.gave_up = False

    def done(self) -> bool:
        return self.gave_up or bool(self.said)

    def set_result(self, result: Computed) -> None:
        self._take(result.outputs)

    def set_exception(self, error: ServiceError) -> None:
        self._take(error)

    def _take(self, what: object) -> None:
        self.said.append(what)
        self.order.append(self)
        if self._then is not None:
            self._then()

    @property
    def outputs(self) -> Outputs:
        (what,) = self.said
        assert isinstance(what, dict)
        return what


def submit(setup: Setup, taker: _Taker, *sequences: Array, timeout_s: float = 30.0, priority: int = 0) -> bool:
    return setup.batcher.submit(request(*sequences), EVERY_OUTPUT, taker, timeout_s=timeout_s, priority=priority)


@pytest.mark.parametrize(("cost", "on_the_loop"), [(short, True), (long, False), (None, False)])
def test_a_run_that_is_expected_to_be_short_is_on_the_loop_and_any_other_in_a_thread(
    cost: Cost | None, on_the_loop: bool
) -> None:
    async def test(_: FakeClock) -> None:
        backend = _Noting()
        setup = Setup(backend, cost=cost)
        assert answers(await setup.ask(row(1)), row(1))
        assert [thread is threading.current_thread() for thread in backend.threads] == [on_the_loop]

    fake_clock.run(test)


def test_it_is_the_whole_run_that_must_be_short() -> None:
    async def test(_: FakeClock) -> None:
        backend = _Noting()
        setup = Setup(backend, max_rows=8, cost=per_row)
        for rows in (3, 4):
            await asyncio.gather(*(setup.ask(row(value)) for value in range(rows)))
        assert [len(batch.lengths) for batch in backend.batches] == [3, 4]
        assert [thread is threading.current_thread() for thread in backend.threads] == [True, False]

    fake_clock.run(test)


def test_a_long_run_does_not_hold_up_the_loop() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(cost=long)
        busy = await setup.ask_while_busy()
        for _ in range(100):
            await asyncio.sleep(0)
        assert not busy.done()
        setup.backend.gate.open()
        assert answers(await busy, row(0))

    fake_clock.run(test)


def test_short_runs_one_after_another_let_others_on_the_loop_get_between() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1, cost=short)
        waiting = [setup.ask(row(value)) for value in range(10)]
        seen = set()
        while not all(answer.done() for answer in waiting):
            seen.add(len(setup.backend.batches))
            await asyncio.sleep(0)
        assert len(seen) >= 10, "a turn of the loop after each run"

    fake_clock.run(test)


@pytest.mark.parametrize("cost", [short, long])
def test_what_is_submitted_is_told_at_once_and_without_a_task(cost: Cost) -> None:
    async def test(_: FakeClock) -> None:
        setup, order = Setup(cost=cost), []
        takers = [_Taker(order) for _ in range(3)]
        for value, taker in enumerate(takers):
            assert submit(setup, taker, row(value, 2), row(value, 1))
        answer = setup.ask(row(9))
        while not all(taker.done() for taker in takers):
            await asyncio.sleep(0)
        assert order == takers
        for value, taker in enumerate(takers):
            assert answers(taker.outputs, row(value, 2), row(value, 1))
        assert answers(await answer, row(9))
        assert setup.waiting() == 0

    fake_clock.run(test)


@pytest.mark.parametrize("limits", [{"max_rows": 2}, {"max_steps": 8}])
def test_what_must_be_split_is_not_taken_and_leaves_nothing_behind(limits: dict[str, int]) -> None:
    async def test(_: FakeClock) -> None:
        setup, taker = Setup(**limits), _Taker()
        assert not submit(setup, taker, row(1, 3), row(2, 3), row(3, 3))
        await settle()
        assert setup.waiting() == 0
        assert setup.backend.batches == []
        assert taker.said == []

    fake_clock.run(test)


def test_a_submission_that_is_given_up_is_never_computed_and_never_told() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        busy = await setup.ask_while_busy()
        stays, leaves = _Taker(), _Taker()
        submit(setup, stays, row(1))
        submit(setup, leaves, row(2))
        leaves.gave_up = True
        setup.backend.gate.open()
        await busy
        await setup.ask(row(3))
        assert setup.backend.firsts in ([[0], [1, 3]], [[0], [1], [3]])
        assert answers(stays.outputs, row(1))
        assert leaves.said == []
        assert setup.waiting() == 0

    fake_clock.run(test)


def test_a_submission_that_is_given_up_while_it_runs_leaves_its_neighbours_their_answers() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup()
        setup.backend.gate.close()
        stays, leaves = _Taker(), _Taker()
        submit(setup, leaves, row(1))
        submit(setup, stays, row(2))
        await setup.backend.gate.has_been_entered()
        leaves.gave_up = True
        setup.backend.gate.open()
        assert answers(await setup.ask(row(3)), row(3))
        assert answers(stays.outputs, row(2))
        assert leaves.said == []

    fake_clock.run(test)


def test_a_submission_that_runs_out_of_time_is_told_once() -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup()
        busy = await setup.ask_while_busy()
        late = _Taker()
        submit(setup, late, row(1), timeout_s=5.0)
        await clock.advance(4.9)
        assert late.said == []
        await clock.advance(0.1)
        setup.backend.gate.open()
        await busy
        await setup.ask(row(2))
        (error,) = late.said
        assert isinstance(error, DeadlineExceeded)
        assert setup.backend.firsts == [[0], [2]]

    fake_clock.run(test)


@pytest.mark.parametrize("cost", [short, long])
@pytest.mark.parametrize("poisoned", range(5))
def test_of_what_was_submitted_together_only_that_fails_which_the_model_fails_on(poisoned: int, cost: Cost) -> None:
    async def test(_: FakeClock) -> None:
        setup, takers = Setup(max_rows=8, cost=cost), [_Taker() for _ in range(5)]
        for value, taker in enumerate(takers):
            submit(setup, taker, row(POISON if value == poisoned else value))
        assert answers(await setup.ask(row(9)), row(9))
        for value, taker in enumerate(takers):
            if value == poisoned:
                assert [type(what) for what in taker.said] == [InternalError]
            else:
                assert answers(taker.outputs, row(value))
        assert setup.waiting() == 0

    fake_clock.run(test)


@pytest.mark.parametrize("cost", [short, long])
def test_what_is_submitted_when_an_answer_is_told_is_run_next(cost: Cost) -> None:
    async def test(_: FakeClock) -> None:
        setup, second = Setup(cost=cost), _Taker()
        first = _Taker(then=lambda: submit(setup, second, row(2)))
        submit(setup, first, row(1))
        while not second.done():
            await asyncio.sleep(0)
        assert setup.backend.firsts == [[1], [2]]
        assert answers(second.outputs, row(2))

    fake_clock.run(test)


@pytest.mark.parametrize("cost", [short, long])
@pytest.mark.parametrize("value", [1.0, POISON])
def test_who_fails_on_being_told_leaves_nobody_waiting(
    cost: Cost, value: float, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(_: FakeClock) -> None:
        setup, other = Setup(cost=cost), _Taker()
        submit(setup, _Taker(then=lambda: 1 // 0), row(value))
        submit(setup, other, row(2))
        assert answers(await setup.ask(row(3)), row(3))
        assert answers(other.outputs, row(2))
        assert answers(await setup.ask(row(4)), row(4))

    fake_clock.run(test)
    assert "ZeroDivisionError" in caplog.text


def test_who_fails_on_being_told_that_its_time_is_over_keeps_nobody_elses_from_ending() -> None:
    async def test(clock: FakeClock) -> None:
        setup, late = Setup(), _Taker()
        busy = await setup.ask_while_busy()
        submit(setup, _Taker(then=lambda: 1 // 0), row(1), timeout_s=5.0)
        submit(setup, late, row(2), timeout_s=5.0)
        later = setup.ask(row(3), timeout_s=6.0)
        await clock.advance(5.0)
        assert [type(what) for what in late.said] == [DeadlineExceeded]
        await clock.advance(1.0)
        with pytest.raises(DeadlineExceeded):
            await later
        setup.backend.gate.open()
        await busy

    fake_clock.run(test)


kinds = st.sampled_from([short, long, per_row])


@settings(max_examples=40, deadline=None)
@given(requests, kinds, bounds, st.data())
def test_every_answer_belongs_to_its_request_however_it_is_asked_for(
    shapes: list[list[int]], cost: Cost, bound: int | None, data: st.DataObject
) -> None:
    numbers = st.sets(st.integers(0, len(shapes) - 1))
    pauses, leaving, poisoned, submitted = (data.draw(numbers) for _ in range(4))

    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=4, max_steps=20, cost=cost, max_run_steps=bound)
        told: list[tuple[int, list[Array], _Taker]] = []
        asked: list[tuple[int, list[Array], Answer]] = []
        for number, lengths in enumerate(shapes):
            sequences = [row(100 * number + 10 * i, length) for i, length in enumerate(lengths)]
            if number in poisoned:
                sequences[-1] = row(POISON - lengths[-1] // 2, lengths[-1])
            taker = _Taker()
            if number in submitted and submit(setup, taker, *sequences):
                told.append((number, sequences, taker))
                taker.gave_up = number in leaving
            else:
                asked.append((number, sequences, setup.ask(*sequences)))
            if number in pauses:
                await settle()
        await settle()
        await setup.batcher.close()
        for number, sequences, taker in told:
            if number in leaving:
                assert taker.said == []
            elif number in poisoned:
                assert [type(what) for what in taker.said] == [InternalError]
            else:
                assert answers(taker.outputs, *sequences)
        for number, sequences, answer in asked:
            await asyncio.wait([answer])
            if number in poisoned:
                assert isinstance(answer.exception(), InternalError)
            else:
                assert answers(answer.result(), *sequences)
        assert setup.waiting() == 0

    fake_clock.run(test)


def shapes_of(backend: FakeBackend) -> list[tuple[int, int]]:
    """Sequences and steps of each run."""
    return [batch.sequences.shape[:2] for batch in backend.batches]


def test_what_is_longer_than_a_run_may_be_goes_on_in_the_next() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_run_steps=8)
        sequences = row(0, 11), row(100, 3), row(200, 7)
        assert answers(await setup.ask(*sequences), *sequences)
        assert shapes_of(setup.backend) == [(3, 2), (3, 2), (2, 4), (1, 3)], "the second ends in the second run"
        assert [batch.lengths.tolist() for batch in setup.backend.batches] == [[2, 2, 2], [2, 1, 2], [4, 3], [3]]

    fake_clock.run(test)


def test_a_run_is_of_one_step_if_no_more_may_be() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_run_steps=1)
        assert answers(await setup.ask(row(0, 2), row(5, 2)), row(0, 2), row(5, 2))
        assert shapes_of(setup.backend) == [(2, 1), (2, 1)]

    fake_clock.run(test)


@pytest.mark.parametrize("step_s", [LONG_RUN_S / 5, LONG_RUN_S, 3 * LONG_RUN_S])
def test_no_run_is_expected_to_take_longer_than_what_comes_meanwhile_should_wait(step_s: float) -> None:
    async def test(_: FakeClock) -> None:
        for bound in (1000, None):
            setup = Setup(max_run_steps=bound, cost=lambda _, steps: steps * step_s)
            assert answers(await setup.ask(row(0, 12)), row(0, 12))
            most = 12 if bound is None else max(1, int(LONG_RUN_S / step_s))
            assert {steps for _, steps in shapes_of(setup.backend)[:-1]} <= {most}
            assert shapes_of(setup.backend)[0] == (1, most)

    fake_clock.run(test)


def test_who_comes_while_a_long_one_is_computed_is_answered_before_it() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1, max_run_steps=4)
        setup.backend.gate.close()
        long_one = setup.ask(row(0, 40))
        await setup.backend.gate.has_been_entered()
        short_ones = [setup.ask(row(100 * number, 3)) for number in (1, 2)]
        await settle()
        setup.backend.gate.open()
        for number, answer in enumerate(short_ones, 1):
            assert answers(await answer, row(100 * number, 3))
        assert not long_one.done()
        assert answers(await long_one, row(0, 40))
        assert setup.backend.firsts[:5] == [[0], [100], [4], [200], [8]], "in turns"

    fake_clock.run(test)


def test_long_ones_of_one_length_are_computed_one_after_another() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1, max_run_steps=4)
        await asyncio.gather(*(setup.ask(row(value, 8)) for value in (0, 100, 200)))
        assert setup.backend.firsts == [[0], [4], [100], [104], [200], [204]]

    fake_clock.run(test)


def test_what_has_begun_does_not_wait_for_company() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_steps=8, max_run_steps=4, max_delay_s=1.0, cost=short)
        answer = setup.ask(row(0, 8))  # as much as one batch may hold
        await settle()
        assert answers(answer.result(), row(0, 8))

    fake_clock.run(test)


def test_a_long_one_and_those_that_keep_coming_take_turns() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1, max_run_steps=1)

        async def keep_asking() -> None:
            while not long_one.done():
                assert answers(await setup.ask(row(100)), row(100))

        long_one = setup.ask(row(0, 5))
        askers = [asyncio.create_task(keep_asking()) for _ in range(3)]
        assert answers(await long_one, row(0, 5))
        await asyncio.gather(*askers)
        order = [first for (first,) in setup.backend.firsts]
        assert order[: order.index(4) + 1] == [0, 100, 1, 100, 2, 100, 3, 100, 4]

    fake_clock.run(test)


def test_priority_holds_between_the_runs_of_one_request() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1, max_run_steps=1)
        setup.backend.gate.close()
        urgent = setup.ask(row(10, 3), priority=1)
        await setup.backend.gate.has_been_entered()
        usual = setup.ask(row(0, 2))
        await settle()
        setup.backend.gate.open()
        await asyncio.gather(urgent, usual)
        assert setup.backend.firsts == [[10], [11], [12], [0], [1]]

    fake_clock.run(test)


@pytest.mark.parametrize("leaves", ["gives up", "runs out of time"])
def test_the_rest_of_what_nobody_waits_for_is_not_computed(leaves: str) -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(max_rows=1, max_run_steps=1)
        setup.backend.gate.close()
        long_one = setup.ask(row(0, 50), timeout_s=1.0)
        await setup.backend.gate.has_been_entered()
        other = setup.ask(row(100))
        await settle()
        if leaves == "gives up":
            long_one.cancel()
        else:
            await clock.advance(1.0)
        setup.backend.gate.open()
        assert answers(await other, row(100))
        await settle()
        assert setup.backend.firsts == [[0], [100]]
        assert setup.waiting() == 0
        with pytest.raises((asyncio.CancelledError, DeadlineExceeded)):
            await long_one

    fake_clock.run(test)


@pytest.mark.parametrize("cost", [short, long])
def test_one_that_the_model_fails_on_late_leaves_the_others_what_they_had(cost: Cost) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_run_steps=6, cost=cost)
        good = [setup.ask(row(100 * number, 9)) for number in (1, 2)]
        poisoned = setup.ask(row(POISON - 5, 9))
        for number, answer in enumerate(good, 1):
            assert answers(await answer, row(100 * number, 9))
        with pytest.raises(InternalError):
            await poisoned
        firsts = list(chain.from_iterable(setup.backend.firsts))
        assert [firsts.count(began) for began in (100, 200, POISON - 5)] == [1, 1, 1], "none began anew"

    fake_clock.run(test)


def test_what_waits_for_its_next_run_counts_as_waiting() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1, max_run_steps=4, queue_steps=10)
        setup.backend.gate.close()
        long_one = setup.ask(row(0, 10))
        await setup.backend.gate.has_been_entered()
        other = setup.ask(row(100, 3))
        await settle()
        assert setup.waiting() == 1
        setup.backend.gate.open()
        setup.backend.gate.close()
        await setup.backend.gate.has_been_entered()
        assert setup.waiting() == 1
        with pytest.raises(QueueFull, match="1 sequences of 6 time steps"):
            await setup.ask(row(200, 5))
        setup.backend.gate.open()
        await asyncio.gather(long_one, other)
        assert setup.waiting() == 0

    fake_clock.run(test)


def test_what_is_between_the_runs_of_a_request_is_time_in_the_queue() -> None:
    class Slow(FakeBackend):
        def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
            time.sleep(0.02)
            return super().run(batch, outputs)

    async def test(_: FakeClock) -> None:
        setup = Setup(Slow(), max_rows=1, max_run_steps=1)
        timing, between = Timing(), Timing()
        await asyncio.gather(
            setup.batcher.infer(request(row(0, 2)), EVERY_OUTPUT, timeout_s=1.0, timing=timing),
            setup.batcher.infer(request(row(100)), EVERY_OUTPUT, timeout_s=1.0, timing=between),
        )
        assert setup.backend.firsts == [[0], [100], [1]]
        assert timing.prepared - timing.dispatched > 0
        assert timing.inferred - timing.prepared > 2 * 0.02
        assert timing.dispatched - timing.decoded > between.inferred - between.dispatched > 0.02

    fake_clock.run(test)


def test_each_run_is_counted_and_each_sequence_once() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_run_steps=4)
        await setup.ask(row(0, 3), row(100, 5))
        statistics = setup.metrics.statistics()["m", "1"]
        assert (statistics.inferences, statistics.executions) == (2, 3)
        lines = setup.metrics.render().decode().splitlines()
        for expected_line in (
            "lstm_batch_size_sum 5.0",
            "lstm_batch_padding_ratio_sum 0.25",
            "lstm_sequence_length_sum 8.0",
            "lstm_sequence_length_count 2.0",
        ):
            assert expected_line in lines

    fake_clock.run(test)


def test_states_are_kept_between_runs_though_nobody_asked_for_them() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_run_steps=4)
        wanted = frozenset({"probabilities"})
        outputs = await setup.batcher.infer(request(row(1, 9)), wanted, timeout_s=1.0, timing=Timing())
        assert outputs.keys() == wanted
        np.testing.assert_array_equal(outputs["probabilities"][0], expected(row(1, 9), longest=9)["probabilities"])
        assert setup.backend.outputs == [("cn", "hn", "probabilities")] * 2 + [("probabilities",)]

    fake_clock.run(test)


def test_closing_finishes_what_is_halfway() -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_run_steps=1)
        setup.backend.gate.close()
        answer = setup.ask(row(0, 4))
        await setup.backend.gate.has_been_entered()
        closing = asyncio.create_task(setup.batcher.close())
        await settle()
        setup.backend.gate.open()
        await closing
        assert answers(await answer, row(0, 4))

    fake_clock.run(test)
