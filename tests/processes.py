"""Runs the real service in a process of its own, as an operator would."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

ONNX_ALONE = "--backend=onnx"  # starts in a third of the time, for what does not depend on the backend
IS_SOAK = bool(os.environ.get("SOAK"))  # then what can be run for longer is
_START_LIMIT_S = 60.0


class ServiceProcess:
    """A running `python -m service` on a free port, with its log so far."""

    def __init__(self, arguments: list[str], environ: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LSTM_")}
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "service", "--port", "0", *arguments],
            env=clean | environ,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self._port: str | None = None
        self._listening = threading.Event()
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            if found := re.search(r"listening on http://127\.0\.0\.1:(\d+)", line):
                self._port = found[1]
                self._listening.set()
        self._listening.set()

    @property
    def url(self) -> str:
        """Where it listens; waits until it does."""
        assert self._listening.wait(_START_LIMIT_S), self.log
        assert self._port is not None, self.log
        return f"http://127.0.0.1:{self._port}"

    def wait_until(
        self, path: str, status: int, holds: Callable[[httpx.Response], bool] = lambda _: True
    ) -> httpx.Response:
        """Ask for `path` until it answers `status` and `holds`; fail if that takes too long or the process ends."""
        deadline = time.monotonic() + _START_LIMIT_S
        while time.monotonic() < deadline:
            response = httpx.get(self.url + path, timeout=_START_LIMIT_S)
            if response.status_code == status and holds(response):
                return response
            assert self.process.poll() is None, self.log
            time.sleep(0.05)
        raise AssertionError(f"{path} did not become {status}: {self.log}")

    def serving_processes(self) -> list[int]:
        """The process ids of the workers, or of the one process if it has none."""
        process_id = self.process.pid
        children = Path(f"/proc/{process_id}/task/{process_id}/children").read_text().split()
        return [int(child) for child in children] or [process_id]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    def resident_mb(self) -> float:
        """What all workers hold in memory."""
        return self._memory_mb("VmRSS")

    def restart_peak(self) -> None:
        """Forget how much the workers ever held: `clear_refs` of proc(5)."""
        for pid in self.serving_processes():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def peak_mb(self) -> float:
        """The most that each worker held in memory since `restart_peak`, of all together."""
        return self._memory_mb("VmHWM")

    def _memory_mb(self, name: str) -> float:
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.serving_processes()]
        return sum(int(text.partition(f"{name}:")[2].split()[0]) for text in texts) / 2**10

    def terminate(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(_START_LIMIT_S)
        self._reader.join(_START_LIMIT_S)
        return status

    def close(self) -> None:
        """Make sure that nothing is left behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join(_START_LIMIT_S)
        assert self.process.stderr is not None
        self.process.stderr.close()


@contextmanager
def running_service(
    repository: Path, *arguments: str, environ: Mapping[str, str] | None = None, prefix: Sequence[str] = ()
) -> Iterator[ServiceProcess]:
    """Start the service over `repository`, by way of the command `prefix`; stop it at the end."""
    service = ServiceProcess(["--repository", str(repository), *arguments], environ or {}, prefix)
    try:
        yield service
    finally:
        service.close()
