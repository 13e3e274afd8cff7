"""Batches that take more than one run: who goes on when, and what is answered, counted and timed."""

import asyncio
from itertools import chain

import fake_clock
import numpy as np
import pytest
from batching import Setup, answers, long, request, row, shapes_of, short
from fake_backend import EVERY_OUTPUT, POISON, SlowBackend, expected
from fake_clock import FakeClock, settle

from service.errors import DeadlineExceeded, InternalError, QueueFull
from service.policy import LONG_RUN_S, Cost
from service.timing import Timing


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


@pytest.mark.parametrize(("steps", "goes_first"), [(3, True), (4, False), (5, False)])
def test_only_who_needs_less_than_what_is_left_of_it_goes_before_what_has_begun(steps: int, goes_first: bool) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(max_rows=1, max_run_steps=6)
        setup.backend.gate.close()
        begun = setup.ask(row(0, 10))
        await setup.backend.gate.has_been_entered()
        other = setup.ask(row(100, steps))
        await settle()
        setup.backend.gate.open()
        await asyncio.gather(begun, other)
        assert setup.backend.firsts == ([[0], [100], [6]] if goes_first else [[0], [6], [100]])

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
        assert order[: order.index(4) + 1] == [0, 100, 1, 100, 2, 100, 3, 4]

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
    async def test(_: FakeClock) -> None:
        setup = Setup(SlowBackend(), max_rows=1, max_run_steps=1)
        timing, between = Timing(), Timing()
        await asyncio.gather(
            setup.batcher.infer(request(row(0, 3)), EVERY_OUTPUT, timeout_s=1.0, timing=timing),
            setup.batcher.infer(request(row(100)), EVERY_OUTPUT, timeout_s=1.0, timing=between),
        )
        assert setup.backend.firsts == [[0], [100], [1], [2]]
        assert timing.prepared - timing.dispatched > 0
        assert timing.inferred - timing.prepared > 3 * SlowBackend.RUN_S
        assert timing.dispatched - timing.decoded > between.inferred - between.dispatched > SlowBackend.RUN_S

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
