"""Who takes which connection, and what a stop does to the listening socket; as processes, all of it is in test_main."""

import asyncio
import errno
import select
import socket
from collections.abc import Awaitable, Callable
from copy import copy
from itertools import pairwise

import fake_clock
import pytest
from fake_clock import FakeClock, settle

from service.acceptor import Acceptor, take_no_more
from service.readiness import Readiness, WorkerState

_WAIT_S = 1e-3  # how long a worker lets another go first


class Counted(asyncio.Protocol):
    """A connection that counts itself out, as the service's protocol does."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def connection_lost(self, _: Exception | None) -> None:
        self._readiness.connections -= 1


class Worker:
    """One of the workers that share a listening socket; all of them are on one loop here."""

    def __init__(self, listener: socket.socket, readiness: Readiness, index: int) -> None:
        self.readiness = copy(readiness)  # another view of the same memory
        self.readiness.become_worker(index)
        self._listener = listener.dup()
        self._acceptor = Acceptor(self._listener, lambda: Counted(self.readiness), self.readiness)

    def start(self) -> None:
        self._acceptor.start()
        self.readiness.set(WorkerState.SERVING)

    async def stop(self) -> None:
        """Stop, if it has started and not stopped yet."""
        if self._listener.fileno() >= 0 and self.readiness.state is not WorkerState.STARTING:
            self._acceptor.stop()
            await self._acceptor.settled()
        self._listener.close()

    @property
    def connections(self) -> int:
        return self.readiness.connections


class Setup:
    """Some workers, and clients that connect to them."""

    def __init__(self, workers: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        readiness = Readiness(workers)
        self.workers = [Worker(self.listener, readiness, index) for index in range(workers)]
        self.clients: list[socket.socket] = []

    @property
    def counts(self) -> list[int]:
        return [worker.connections for worker in self.workers]

    def connect(self, count: int) -> None:
        address = self.listener.getsockname()
        self.clients += [socket.create_connection(address, timeout=10) for _ in range(count)]

    async def all_taken(self, clock: FakeClock | None = None) -> None:
        """Wait until each client's connection is a worker's, and none of those that left is; time goes by."""
        for _ in range(1000):
            if sum(self.counts) == len(self.clients):
                return
            await settle()
            if clock is not None:
                await clock.advance(_WAIT_S)
        raise AssertionError(f"{self.counts} of {len(self.clients)}")

    async def close(self) -> None:
        for worker in self.workers:
            await worker.stop()
        for client in self.clients:
            client.close()
        self.clients.clear()
        await self.all_taken()
        self.listener.close()


def run(workers: int, test: Callable[[Setup, FakeClock], Awaitable[None]]) -> None:
    async def body(clock: FakeClock) -> None:
        setup = Setup(workers)
        await test(setup, clock)
        await setup.close()

    fake_clock.run(body)


def test_one_worker_takes_all_that_come_at_once() -> None:
    async def test(setup: Setup, _: FakeClock) -> None:
        setup.workers[0].start()
        setup.connect(50)
        await setup.all_taken()
        assert setup.counts == [50]

    run(1, test)


def test_a_turn_of_the_loop_takes_several_but_requests_get_between() -> None:
    async def test(setup: Setup, _: FakeClock) -> None:
        setup.workers[0].start()
        setup.connect(20)
        seen = [0]
        while seen[-1] < 20:
            await asyncio.sleep(0)
            seen += setup.counts
        assert [after - before for before, after in pairwise(seen) if after > before] == [16, 4]

    run(1, test)


def test_a_connection_that_cannot_be_served_is_closed_and_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise OSError(errno.ENOTCONN, "the client has left")

    async def test(setup: Setup, _: FakeClock) -> None:
        setup.workers[0].start()
        monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fail)
        setup.connect(1)
        while not select.select(setup.clients, [], [], 0)[0]:  # its end
            await settle()
        assert setup.counts == [0]
        monkeypatch.undo()

    run(1, test)


def test_connections_are_spread_evenly_however_they_were_before() -> None:
    def is_even(setup: Setup) -> bool:
        return max(setup.counts) - min(setup.counts) <= 2 + max(setup.counts) // 8

    async def test(setup: Setup, clock: FakeClock) -> None:
        first, *others = setup.workers
        first.start()
        setup.connect(24)
        await setup.all_taken()
        assert setup.counts == [24, 0, 0], "those that do not serve yet get none, and nobody waits for them"
        for other in others:
            other.start()
        for _ in range(6):
            setup.connect(8)
            await setup.all_taken(clock)
        assert is_even(setup)
        for client in setup.clients[:24]:
            client.close()
        del setup.clients[:24]
        await setup.all_taken()
        assert not is_even(setup), "those of the first one have left"
        for _ in range(4):
            setup.connect(8)
            await setup.all_taken(clock)
        assert is_even(setup)

    run(3, test)


def test_who_has_more_waits_a_moment_for_another_and_then_takes_it_itself() -> None:
    async def test(setup: Setup, clock: FakeClock) -> None:
        busy, asleep = setup.workers
        busy.start()
        setup.connect(9)
        await setup.all_taken()
        asleep.readiness.set(WorkerState.SERVING)  # but it takes nothing: it computes
        setup.connect(1)
        await settle()
        assert setup.counts == [9, 0]
        await clock.advance(_WAIT_S)
        await setup.all_taken()
        assert setup.counts == [10, 0]
        setup.connect(1)  # and from then on it lets the other go first again
        await settle()
        asleep.start()
        await setup.all_taken()
        assert setup.counts == [10, 1]

    run(2, test)


def test_nobody_waits_for_a_worker_that_drains() -> None:
    async def test(setup: Setup, _: FakeClock) -> None:
        for worker in setup.workers:
            worker.start()
        setup.workers[1].readiness.set(WorkerState.DRAINING)
        await setup.workers[1].stop()
        setup.connect(20)
        await setup.all_taken()
        assert setup.counts == [20, 0]

    run(2, test)


@pytest.mark.parametrize("waits", [False, True])
def test_a_stop_takes_what_has_connected_before_it(waits: bool) -> None:
    async def test(setup: Setup, _: FakeClock) -> None:
        worker, asleep = setup.workers
        worker.start()
        setup.connect(5)
        await setup.all_taken()
        if waits:
            asleep.readiness.set(WorkerState.SERVING)
            setup.connect(1)
            await settle()
            assert worker.connections == 5, "it lets the other one go first"
            asleep.readiness.set(WorkerState.STARTING)
        setup.connect(7)
        await worker.stop()
        assert worker.connections == len(setup.clients) >= 12

    run(2, test)


def test_a_connection_that_comes_too_late_is_refused_and_not_reset() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname(), timeout=10), socket.socket() as late:
        take_no_more(listener)
        late.setblocking(False)
        assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        listener.setblocking(False)
        listener.accept()[0].close()  # it came before
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.close()
        assert select.select([], [late], [], 10)[1] == [late]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
