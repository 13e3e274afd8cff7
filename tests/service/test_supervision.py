"""`service.workers`: the parent of the workers, here this process. What needs whole services is in `test_main`."""

import os
import signal
import socket
import time

import pytest

from service.control import Control
from service.cores import Cores
from service.readiness import Readiness
from service.workers import Workers

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
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # the parent of workers sets it; not for the tests to come
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers = Workers(
            2,
            lambda _index, _replaces: 3,
            prepare=lambda: None,
            listener=listener,
            readiness=Readiness(2),
            control=Control(2),
            cores=Cores(2, 2),
            hang_timeout_s=60,
            stop_timeout_s=stop_timeout_s,
        )
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        began_s = time.monotonic()
        try:
            assert workers.run() == 3
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert time.monotonic() - began_s < stop_timeout_s / 2
