"""Several processes behind one listening socket: start them, replace the dead, stop them all."""

import ctypes
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from service.control import Control
from service.cores import Cores
from service.readiness import Readiness
from service.shared_values import forget_gauges

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGHUP}
_LOOK_INTERVAL_S = 1.0  # at who hangs, or is to start; signals are heard at once
# Before another is started in the place of one that could not start: at first, and at most, each twice the last.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 64.0
_SHARED_MEMORY = "/dev/shm"  # tmpfs, in every container too; shm_overview(7)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h

logger = logging.getLogger(__name__)

# Serves as worker `index` until it is told to stop, and returns the exit status. `replaces`: a worker before it died.
ServeWorker = Callable[[int, bool], int]


class Workers:
    """Forks and watches `count` workers. The parent computes nothing and has one thread, so forking it is safe."""

    def __init__(
        self,
        count: int,
        serve: ServeWorker,
        *,
        prepare: Callable[[], None],
        listener: socket.socket,
        readiness: Readiness,
        control: Control,
        cores: Cores,
        hang_timeout_s: float,
        stop_timeout_s: float,
    ) -> None:
        self._count = count
        self._listener = listener
        self._serve = serve
        self._prepare = prepare
        self._readiness = readiness
        self._control = control
        self._cores = cores
        self._hang_timeout_s = hang_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._indices: dict[int, int] = {}  # by process id
        self._pauses_s: dict[int, float] = {}  # by index, of those whose last process could not start
        self._due_s: dict[int, float] = {}  # by index, of those that are to start

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; return the exit status: 0, or that of a worker that could not start.

        At SIGHUP every worker looks at the repository.
        """
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with _metrics_folder():
            self._prepare()
            for index in range(self._count):
                self._start(index, replaces=False)
            status = self._watch()
            self._stop()
        return status

    def _start(self, index: int, *, replaces: bool) -> None:
        process_id = os.fork()
        if process_id:
            self._indices[process_id] = index
            return
        status = 1
        try:
            signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the parent passes it on
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
            self._readiness.become_worker(index)
            self._control.become_worker(index)
            self._cores.become_worker(index)
            status = self._serve(index, replaces)
        except BaseException:
            logger.exception("worker %d failed", index)
        finally:
            os._exit(status)

    def _watch(self) -> int:
        while True:
            received = signal.sigtimedwait(_SIGNALS, _LOOK_INTERVAL_S)
            match received and received.si_signo:
                case signal.SIGHUP:
                    self._control.ring()
                case signal.SIGTERM | signal.SIGINT:
                    return 0
            self._kill_the_hung()
            for process_id, status in _reap():
                index = self._indices.pop(process_id, None)
                if index is None:  # an orphan, which was left to the first process of its container
                    continue
                if not self._readiness.has_served(index):
                    logger.error("worker %d could not start, exit status %d", index, status)
                    return status or 1
                logger.error("worker %d (process %d) ended with status %d and is replaced", index, process_id, status)
                forget_gauges(process_id)
                self._due_s[index] = monotonic() + self._pause_s(index)
            for index in [index for index, due_s in self._due_s.items() if due_s <= monotonic()]:
                del self._due_s[index]
                self._start(index, replaces=True)

    def _pause_s(self, index: int) -> float:
        """How long nothing is started in the place of worker `index`, which has ended."""
        if self._readiness.has_beaten(index):
            self._pauses_s.pop(index, None)
            return 0.0
        before_s = self._pauses_s.get(index)
        self._pauses_s[index] = _FIRST_PAUSE_S if before_s is None else min(2 * before_s, _LONGEST_PAUSE_S)
        return self._pauses_s[index]

    def _kill_the_hung(self) -> None:
        for process_id, index in self._indices.items():
            if self._readiness.hangs(index, timeout_s=self._hang_timeout_s):
                logger.error("worker %d (process %d) hangs and is killed", index, process_id)
                os.kill(process_id, signal.SIGKILL)

    def _stop(self) -> None:
        self._listener.close()  # the workers empty its queue, and only then may the last copy go
        for process_id in self._indices:
            os.kill(process_id, signal.SIGTERM)
        deadline = monotonic() + self._stop_timeout_s
        self._forget_the_ended()  # one signal can stand for several that ended together
        while self._indices and (left := deadline - monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
            self._forget_the_ended()
        for process_id in self._indices:
            logger.error("process %d did not stop in time and is killed", process_id)
            os.kill(process_id, signal.SIGKILL)

    def _forget_the_ended(self) -> None:
        for process_id, _ in _reap():
            self._indices.pop(process_id, None)


def _reap() -> Iterator[tuple[int, int]]:
    """The process id and exit status of every child that has ended; a signal's number counts as negative."""
    while True:
        try:
            process_id, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if process_id == 0:
            return
        yield process_id, os.waitstatus_to_exitcode(status)


@contextmanager
def _metrics_folder() -> Iterator[None]:
    """An empty folder for the workers' metrics, named where `Metrics` look for it when they are made.

    They map the files into memory: on a disk that fills up, the next page would end the process with SIGBUS.
    """
    in_memory = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="lstm-serve-metrics-", dir=in_memory)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)
