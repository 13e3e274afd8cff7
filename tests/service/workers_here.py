"""Workers whose parent is the test itself; each child ends as soon as it has done what it is here for."""

import signal
import socket

import pytest

from service.control import Control
from service.cores import Cores
from service.readiness import Readiness
from service.workers import ServeWorker, Workers


def run_two_workers(
    serve: ServeWorker, monkeypatch: pytest.MonkeyPatch, *, cores: Cores, stop_timeout_s: float = 5.0
) -> int:
    """Run two workers of which none gets ready; return the exit status."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "")  # the parent of workers sets it; not for the tests to come
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return Workers(
                2,
                serve,
                prepare=lambda: None,
                listener=listener,
                readiness=Readiness(2),
                control=Control(2),
                cores=cores,
                hang_timeout_s=60,
                stop_timeout_s=stop_timeout_s,
            ).run()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
