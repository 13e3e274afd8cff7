"""`service.batcher` on a loop with a fake clock, in front of a backend whose answers show what it was asked."""

import asyncio
import math
from itertools import pairwise
from time import perf_counter

import fake_clock
import numpy as np
import pytest
import uvloop
from batching import Answer, Setup, answers, bounds, request, requests, row
from fake_backend import EVERY_OUTPUT, HIDDEN_SIZE, LAYERS, POISON, FakeBackend, SlowBackend
from fake_clock import FakeClock, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from service import policy
from service.backends import Array, Batch
from service.errors import DeadlineExceeded, InternalError, QueueFull, TooLarge, Unavailable
from service.tensors import State
from service.timing import Timing


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


@pytest.mark.parametrize("bound", [None, 1])
def test_a_split_request_shows_what_all_of_its_runs_took(bound: int | None) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(SlowBackend(), max_rows=1, max_run_steps=bound)
        timing = Timing()
        sequences = request(*(row(value, 2) for value in range(3)))
        await setup.batcher.infer(sequences, EVERY_OUTPUT, timeout_s=1.0, timing=timing)
        assert len(setup.backend.batches) == (3 if bound is None else 6)
        assert timing.inferred - timing.prepared > SlowBackend.RUN_S * len(setup.backend.batches)
        assert timing.decoded < timing.dispatched < timing.prepared

    fake_clock.run(test)


def test_a_run_of_several_parts_of_one_request_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "split", lambda lengths, *_: [np.array([place]) for place in range(len(lengths))])

    async def test(_: FakeClock) -> None:
        setup = Setup(SlowBackend())
        timing = Timing()
        sequences = request(*(row(value) for value in range(3)))
        await setup.batcher.infer(sequences, EVERY_OUTPUT, timeout_s=1.0, timing=timing)
        assert len(setup.backend.batches) == 1
        assert timing.decoded < timing.dispatched

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
