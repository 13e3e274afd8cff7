"""`service.cores`: what a worker computes is seen by the others."""

import os
import signal
from collections.abc import Callable

import pytest

from service import cores
from service.cores import Cores

# Python 3.12 warns of any fork beside threads; this child does no more than what it is here for.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def in_child(shared: Cores, index: int, do: Callable[[Cores], None]) -> None:
    """Let worker `index`, a forked process, do something and be killed."""
    if (process_id := os.fork()) == 0:
        shared.become_worker(index)
        do(shared)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process_id, 0)


def compute(shared: Cores) -> None:
    shared.take()
    shared.give_back()


def test_workers_that_never_computed_rest() -> None:
    assert Cores(3, 3).others_rest()


def test_what_a_worker_computes_itself_is_no_other_s() -> None:
    shared = Cores(2, 2)
    shared.become_worker(1)
    shared.take()
    assert shared.others_rest()


def test_a_worker_that_computes_does_not_rest_until_the_one_that_replaces_it_is_there() -> None:
    shared = Cores(2, 2)
    in_child(shared, 1, Cores.take)
    assert not shared.others_rest()
    in_child(shared, 1, lambda _: None)
    assert shared.others_rest()


def test_a_worker_that_has_computed_rests_ten_milliseconds_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0
    monkeypatch.setattr(cores, "monotonic", lambda: now_s)
    shared = Cores(2, 2)
    in_child(shared, 1, compute)
    now_s += 0.009
    assert not shared.others_rest()
    now_s += 0.002
    assert shared.others_rest()
