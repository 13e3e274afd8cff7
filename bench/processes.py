"""A server as a tree of processes: started in a session of its own, measured through /proc, ended as a whole.

Linux only. Whatever happens in the `with` block, Ctrl-C included, nothing of the tree is left afterwards.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import ROOT

_STOP_LIMIT_S: Final = 5.0
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a tree of processes has used: CPU seconds so far, and the resident memory of its largest process now."""

    cpu_s: float
    largest_rss_bytes: int


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A started server. `log` holds what it wrote."""

    process: subprocess.Popen[bytes]
    log: Path

    def usage(self) -> Usage:
        """Sum up the living processes of the tree, and what those that they waited for had used."""
        found = [stat for stat in _all_stats() if stat.session == self.process.pid]
        return Usage(sum(stat.cpu_s for stat in found), max((stat.rss_bytes for stat in found), default=0))

    def has_ended(self) -> bool:
        """Whether the first process of the tree has exited."""
        return self.process.poll() is not None

    def last_words(self) -> str:
        """The last line of the log that says something."""
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if len(line.strip()) > 3]
        return lines[-1] if lines else "it wrote nothing"


@contextmanager
def running(command: Sequence[str], environ: Mapping[str, str], log: Path) -> Iterator[ProcessTree]:
    """Run `command` in the project's folder, with `environ` on top of ours without its `LSTM_*`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_")}
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**clean, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield ProcessTree(process, log)
    finally:
        _stop(process)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the first process, as an operator would; then SIGKILL to whatever of the session is left.

    That is done, and at once, also if who waits presses Ctrl-C once more.
    """
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(_STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill_session(process)


def _kill_session(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STOP_LIMIT_S
    while (left := [stat.pid for stat in _all_stats() if stat.session == process.pid and not stat.is_zombie]) and (
        time.monotonic() < deadline
    ):
        for pid in left:
            with _gone_is_fine():
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)  # nothing tells the death of a grandchild
    process.wait()


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except (ProcessLookupError, FileNotFoundError):
        return


@dataclass(frozen=True, slots=True)
class _Stat:
    pid: int
    session: int
    is_zombie: bool
    cpu_s: float
    rss_bytes: int


def _all_stats() -> list[_Stat]:
    stats = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with _gone_is_fine():
                stats.append(parse_stat((entry / "stat").read_text()))
    return stats


def parse_stat(line: str) -> _Stat:
    """One `/proc/PID/stat`, proc(5); the name, which may hold anything, ends at the last parenthesis."""
    pid, rest = line.split(" ", 1)
    fields = rest[rest.rindex(")") + 2 :].split()  # from field 3, the state, on
    ticks = sum(int(value) for value in fields[11:15])  # utime, stime, and those of children waited for
    return _Stat(int(pid), int(fields[3]), fields[0] == "Z", ticks / _TICKS, int(fields[21]) * _PAGE_BYTES)
