"""Readiness: what a worker says of itself is seen by all of them."""

import os
from copy import copy

import pytest

from service.readiness import Readiness, WorkerState

# Python 3.12 warns of any fork beside threads; this child only writes one byte.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def in_child(readiness: Readiness, index: int, state: WorkerState) -> None:
    """Let worker `index`, a forked process, come to `state` and end."""
    if (process_id := os.fork()) == 0:
        try:
            readiness.become_worker(index)
            readiness.set(state)
        finally:
            os._exit(0)
    os.waitpid(process_id, 0)


def test_it_is_ready_when_every_worker_serves() -> None:
    readiness = Readiness(2)
    assert not readiness.ready
    in_child(readiness, 0, WorkerState.SERVING)
    assert not readiness.ready
    assert (readiness.has_served(0), readiness.has_served(1)) == (True, False)
    in_child(readiness, 1, WorkerState.SERVING)
    assert readiness.ready


def test_one_draining_worker_makes_all_not_ready() -> None:
    readiness = Readiness(2)
    in_child(readiness, 1, WorkerState.SERVING)
    readiness.become_worker(0)
    readiness.set(WorkerState.SERVING)
    in_child(readiness, 1, WorkerState.DRAINING)
    assert not readiness.ready
    assert readiness.state is WorkerState.SERVING
    assert readiness.has_served(1)


def test_a_worker_that_follows_a_drained_one_is_not_draining() -> None:
    readiness = Readiness(1)
    in_child(readiness, 0, WorkerState.DRAINING)
    readiness.become_worker(0)
    assert readiness.state is WorkerState.SERVING
    assert readiness.ready


def test_a_worker_that_follows_one_that_never_served_has_not_served_either() -> None:
    readiness = Readiness(1)
    readiness.become_worker(0)
    assert readiness.state is WorkerState.STARTING
    assert not readiness.has_served(0)


def test_all_drain_when_the_last_worker_was_told_to_stop() -> None:
    readiness = Readiness(2)
    in_child(readiness, 1, WorkerState.DRAINING)
    readiness.set(WorkerState.SERVING)
    assert not readiness.all_drain
    readiness.set(WorkerState.DRAINING)
    assert readiness.all_drain


def test_a_worker_hangs_if_it_says_so_and_the_service_is_then_not_live() -> None:
    readiness = Readiness(2)
    in_child(readiness, 0, WorkerState.SERVING)
    in_child(readiness, 1, WorkerState.HANGING)
    assert [readiness.hangs(index, timeout_s=60) for index in (0, 1)] == [False, True]
    assert not readiness.live
    assert not readiness.ready
    readiness.become_worker(1)
    assert readiness.live
    assert readiness.ready


def test_a_worker_that_serves_hangs_if_it_has_been_silent_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr("service.readiness.monotonic", lambda: now_s)
    readiness = Readiness(1)
    readiness.set(WorkerState.SERVING)
    now_s += 100
    assert not readiness.hangs(0, timeout_s=60), "it has not begun to beat"
    readiness.beat()
    now_s += 60
    assert not readiness.hangs(0, timeout_s=60)
    now_s += 1
    assert readiness.hangs(0, timeout_s=60)
    readiness.set(WorkerState.DRAINING)
    assert not readiness.hangs(0, timeout_s=60), "its stop is timed by the parent"
    readiness.set(WorkerState.SERVING)
    readiness.become_worker(0)
    assert not readiness.hangs(0, timeout_s=60), "another process has taken its place"


def beside(*counts: int, states: tuple[WorkerState, ...] | None = None) -> Readiness:
    """What the first of some workers with these numbers of connections sees."""
    readiness = Readiness(len(counts))
    for index, (count, state) in enumerate(zip(counts, states or (WorkerState.SERVING,) * len(counts), strict=True)):
        readiness.become_worker(index)
        readiness.connections = count
        readiness.set(state)
    first = copy(readiness)
    first._mine = 0  # to become it would forget its connections
    return first


@pytest.mark.parametrize(
    ("counts", "has_more"),
    [
        ((0,), False),
        ((1000,), False),
        ((0, 0), False),
        ((1, 0), False),
        ((2, 0), True),
        ((5, 4), False),
        ((6, 4), True),
        ((0, 9), False),
        ((101, 100), False),
        ((113, 100), False),
        ((114, 100), True),
        ((6, 6, 4), True),
        ((6, 9, 9), False),
    ],
)
def test_one_has_more_than_others_if_it_is_clearly_more(counts: tuple[int, ...], has_more: bool) -> None:
    assert beside(*counts).has_more_connections_than_others == has_more


@pytest.mark.parametrize("state", [WorkerState.STARTING, WorkerState.DRAINING])
def test_who_does_not_serve_has_no_part_in_the_comparison(state: WorkerState) -> None:
    assert beside(9, 0).has_more_connections_than_others
    assert not beside(9, 0, states=(WorkerState.SERVING, state)).has_more_connections_than_others


def test_a_worker_that_follows_a_dead_one_has_none_of_its_connections() -> None:
    readiness = Readiness(2)
    readiness.connections = 3
    if (process_id := os.fork()) == 0:
        try:
            readiness.become_worker(1)
            readiness.set(WorkerState.SERVING)
            readiness.connections = 70_000
        finally:
            os._exit(0)
    os.waitpid(process_id, 0)
    other = copy(readiness)
    other._mine = 1
    assert (readiness.connections, other.connections) == (3, 70_000)
    other.become_worker(1)
    assert (readiness.connections, other.connections) == (3, 0)
    assert other.state is WorkerState.SERVING
