"""`service.workers`: the parent of the workers. What needs whole services is in `test_main`."""

import os
import time

import pytest
from workers_here import run_two_workers

from service.cores import Cores

# Python 3.12 warns of any fork beside threads; these children end at once.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")


def test_workers_that_end_at_the_same_time_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, stop_timeout_s = os.fork, 20.0

    def fork_and_be_late() -> int:
        process_id = fork()
        if process_id:
            os.waitid(os.P_PID, process_id, os.WEXITED | os.WNOWAIT)  # so that one signal says that both have ended
        return process_id

    monkeypatch.setattr(os, "fork", fork_and_be_late)
    began_s = time.monotonic()
    status = run_two_workers(lambda _index, _replaces: 3, monkeypatch, cores=Cores(2, 2), stop_timeout_s=stop_timeout_s)
    assert status == 3
    assert time.monotonic() - began_s < stop_timeout_s / 2


def test_a_child_that_is_no_worker_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    orphan = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
    assert run_two_workers(lambda _index, _replaces: 3, monkeypatch, cores=Cores(2, 2)) == 3
