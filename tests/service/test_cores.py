"""`service.cores`: what a worker computes is seen by the others."""

import mmap
import os
import signal
from collections.abc import Callable

import pytest
from workers_here import run_two_workers

from service import cores
from service.cores import Cores

# Python 3.12 warns of any fork beside threads; this child does no more than what it is here for.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, in its one item."""
    now_s = [1000.0]
    monkeypatch.setattr(cores, "monotonic", lambda: now_s[0])
    return now_s


def in_child(shared: Cores, index: int, do: Callable[[Cores], None]) -> None:
    """Let worker `index`, a forked process, do something and be killed."""
    if (process_id := os.fork()) == 0:
        try:
            shared.become_worker(index)
            do(shared)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process_id, 0)


def compute(shared: Cores) -> None:
    shared.take()
    shared.give_back()


def test_workers_that_never_computed_rest() -> None:
    assert Cores(3, 3).all_rest_but_for(0)


def test_what_a_worker_computes_itself_is_counted_and_is_no_other_s() -> None:
    shared = Cores(2, 2)
    shared.become_worker(1)
    shared.take()
    assert (shared.all_rest_but_for(0), shared.all_rest_but_for(1)) == (False, True)
    shared.take()
    assert (shared.all_rest_but_for(1), shared.all_rest_but_for(2)) == (False, True)


def test_a_worker_that_computes_does_not_rest_until_the_one_that_replaces_it_is_there() -> None:
    shared = Cores(2, 2)
    in_child(shared, 1, Cores.take)
    assert not shared.all_rest_but_for(0)
    in_child(shared, 1, lambda _: None)
    assert shared.all_rest_but_for(0)


def test_a_worker_that_has_computed_rests_ten_milliseconds_later(clock: list[float]) -> None:
    shared = Cores(2, 2)
    in_child(shared, 1, compute)
    clock[0] += 0.009
    assert not shared.all_rest_but_for(0)
    clock[0] += 0.002
    assert shared.all_rest_but_for(0)


def test_of_several_runs_at_once_the_last_end_counts(clock: list[float]) -> None:
    def two_of_which_one_ends(shared: Cores) -> None:
        shared.take()
        compute(shared)

    shared = Cores(2, 2)
    in_child(shared, 1, two_of_which_one_ends)
    clock[0] += 1
    assert not shared.all_rest_but_for(0)


def test_each_worker_says_of_itself_what_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    shared, known = Cores(2, 2), mmap.mmap(-1, 2)

    def fail_to_start(index: int, _: bool) -> int:
        known[index] = 1 + shared._mine
        while not all(known[:2]):
            os.sched_yield()
        return 3

    assert run_two_workers(fail_to_start, monkeypatch, cores=shared) == 3
    assert known[:2] == b"\1\2"
