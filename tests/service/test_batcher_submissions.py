"""`Batcher.submit`, and where a run happens: on the loop if it is short, else in the backend's thread."""

import asyncio
import threading
from collections.abc import Sequence

import fake_clock
import pytest
from batching import Answer, Setup, Taker, answers, bounds, long, requests, row, short, submit
from fake_backend import POISON, FakeBackend
from fake_clock import FakeClock, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from service.backends import Array, Batch
from service.batcher import SHORT_RUN_S
from service.errors import DeadlineExceeded, InternalError
from service.policy import Cost


class _Noting(FakeBackend):
    """Notes in which thread each run happened."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[threading.Thread] = []

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        self.threads.append(threading.current_thread())
        return super().run(batch, outputs)


def per_row(rows: int, steps: int) -> float:  # noqa: ARG001
    """Three rows are short, four are not."""
    return rows * SHORT_RUN_S / 3


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
        takers = [Taker(order) for _ in range(3)]
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
        setup, taker = Setup(**limits), Taker()
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
        stays, leaves = Taker(), Taker()
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
        stays, leaves = Taker(), Taker()
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
        late = Taker()
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
        setup, takers = Setup(max_rows=8, cost=cost), [Taker() for _ in range(5)]
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
        setup, second = Setup(cost=cost), Taker()
        first = Taker(then=lambda: submit(setup, second, row(2)))
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
        setup, other = Setup(cost=cost), Taker()
        submit(setup, Taker(then=lambda: 1 // 0), row(value))
        submit(setup, other, row(2))
        assert answers(await setup.ask(row(3)), row(3))
        assert answers(other.outputs, row(2))
        assert answers(await setup.ask(row(4)), row(4))

    fake_clock.run(test)
    assert "ZeroDivisionError" in caplog.text


def test_who_fails_on_being_told_that_its_time_is_over_keeps_nobody_elses_from_ending() -> None:
    async def test(clock: FakeClock) -> None:
        setup, late = Setup(), Taker()
        busy = await setup.ask_while_busy()
        submit(setup, Taker(then=lambda: 1 // 0), row(1), timeout_s=5.0)
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
        told: list[tuple[int, list[Array], Taker]] = []
        asked: list[tuple[int, list[Array], Answer]] = []
        for number, lengths in enumerate(shapes):
            sequences = [row(100 * number + 10 * i, length) for i, length in enumerate(lengths)]
            if number in poisoned:
                sequences[-1] = row(POISON - lengths[-1] // 2, lengths[-1])
            taker = Taker()
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
