"""`service.busy_poll`: after a lone request the loop does not sleep for a moment, unless another worker computes."""

import asyncio
import selectors
import socket
import time
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
import uvloop
from fake_backend import EVERY_OUTPUT, STATE_SHAPE, FakeBackend

from service import busy_poll
from service.batcher import Batcher, QueueLimits
from service.busy_poll import BusyPoll
from service.cores import Cores
from service.metrics import Metrics
from service.policy import Limits
from service.tensors import Sequences
from service.timing import Timing


class _Selector(selectors.DefaultSelector):
    """Counts how often the loop looks at its sockets without being ready to sleep."""

    polled = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.polled += timeout == 0
        return super().select(timeout)


def run(test: Callable[[_Selector], Awaitable[None]]) -> None:
    selector = _Selector()
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
        runner.run(test(selector))  # type: ignore[arg-type]  # every test is a coroutine


@pytest.fixture
def moment_s(monkeypatch: pytest.MonkeyPatch) -> float:
    """A moment that is long enough to be told from none on a busy machine."""
    monkeypatch.setattr(busy_poll, "_DURATION_S", 0.05)
    return 0.05


def neighbours() -> tuple[Cores, Cores]:
    """The same cores as seen by worker 0 and by worker 1."""
    mine, others = Cores(2, 2), Cores(2, 2)
    others._computed_s = mine._computed_s
    others.become_worker(1)
    return mine, others


def test_the_loop_polls_for_a_moment_and_then_sleeps(moment_s: float) -> None:
    async def test(selector: _Selector) -> None:
        poll = BusyPoll(Cores(1, 2))
        poll.begin()
        before = selector.polled
        await asyncio.sleep(moment_s / 2)
        assert selector.polled - before > 50
        await asyncio.sleep(moment_s)
        before = selector.polled
        await asyncio.sleep(moment_s)
        assert selector.polled - before < 5

    run(test)


def test_what_comes_while_it_polls_is_handled_at_once(moment_s: float) -> None:
    async def test(_: _Selector) -> None:
        poll, loop, fell_due = BusyPoll(Cores(1, 2)), asyncio.get_running_loop(), asyncio.Event()
        mine, other = socket.socketpair()
        with mine, other:
            mine.setblocking(False)
            poll.begin()
            loop.call_later(moment_s / 10, fell_due.set)
            other.send(b"x")
            assert await loop.sock_recv(mine, 1) == b"x"
            await fell_due.wait()
        assert poll._polls, "sockets and timers were seen to between"

    run(test)


def test_uvloop_does_not_sleep_either(moment_s: float) -> None:
    async def test() -> float:
        BusyPoll(Cores(1, 2)).begin()
        before_s = time.thread_time()
        await asyncio.sleep(moment_s / 2)
        return time.thread_time() - before_s

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(test()) > moment_s / 10  # others use this machine too


@pytest.mark.usefixtures("moment_s")
def test_nobody_polls_while_another_worker_computes() -> None:
    async def test(_: _Selector) -> None:
        mine, others = neighbours()
        poll = BusyPoll(mine)
        poll.begin()
        assert poll._polls
        others.take()
        poll.begin()
        await asyncio.sleep(0)
        assert not poll._polls
        poll.begin()
        assert not poll._polls

    run(test)


@pytest.mark.usefixtures("moment_s")
@pytest.mark.parametrize(("requests", "polls"), [(1, True), (2, False)])
def test_a_batcher_polls_after_a_request_that_was_alone(requests: int, polls: bool) -> None:
    async def test(_: _Selector) -> None:
        mine, others = neighbours()
        rests: list[bool] = []

        class Watched(FakeBackend):
            def run(self, *arguments):  # type: ignore[no-untyped-def]
                rests.append(others.all_rest_but_for(0))
                return super().run(*arguments)

        batcher = Batcher(
            Watched(),
            STATE_SHAPE,
            limits=Limits(4, 100),
            queue_limits=QueueLimits(9, 900),
            metrics=Metrics().of_model("m", "1"),
            cores=mine,
        )
        one = Sequences(np.ones((1, 2), np.float32), np.array([1]))
        asked = (batcher.infer(one, EVERY_OUTPUT, timeout_s=30, timing=Timing()) for _ in range(requests))
        await asyncio.gather(*asked)
        assert batcher._busy_poll is not None
        assert batcher._busy_poll._polls == polls
        assert rests == [False], "the other worker sees that this one computes"
        await asyncio.sleep(0.02)
        assert others.all_rest_but_for(0), "and that it does no longer"
        await batcher.close()

    run(test)
