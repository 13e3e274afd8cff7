"""Open loop: requests leave when the schedule says, whether or not earlier ones have been answered.

A latency counts from the scheduled time, so a server that stalls pays for all who would have come meanwhile; wrk's
closed loop would simply ask less (coordinated omission). Runs as a process of its own:
`python -m bench.open_loop PORT RATE SECONDS constant|poisson FILE…`, each file one whole request.

Cheap, since it shares the cores with the server: requests are prebuilt, an answer is searched for its status and length
and nothing else, and the kernel's timer (timerfd, in nanoseconds; an event loop's own counts in milliseconds) wakes it
for those that are due. On a small virtual machine a request takes it 30 (at 12,000/s) to 55 µs of CPU (at 2,000/s),
most of that the kernel's, to send and to receive: a loop of bare epoll and sockets took as much. Each run notes its
own.
"""

import asyncio
import ctypes
import json
import os
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal, cast

import numpy as np
import uvloop
from numpy.typing import NDArray

Arrivals = Literal["constant", "poisson"]
ARRIVALS: Final[tuple[Arrivals, ...]] = ("constant", "poisson")
CONNECTIONS: Final = 64
SEED: Final = 7
_ANSWER_LIMIT_S: Final = 10.0
_LEAD_S: Final = 0.05  # between setting up and the first request
_TFD_NONBLOCK: Final = os.O_NONBLOCK
_TFD_TIMER_ABSTIME: Final = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """Latencies of good answers from their scheduled times.

    `late_p99_ms`: how late the generator itself was in sending, where a connection was free.
    """

    answers: int
    errors: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    cpu_s: float


def schedule(arrivals: Arrivals, *, rate_per_s: float, seconds: float) -> NDArray[np.float64]:
    """When each request is due, in seconds from the start, ascending, all below `seconds`."""
    if arrivals == "constant":
        return np.arange(0, seconds, 1 / rate_per_s, np.float64)
    rng = np.random.default_rng(SEED)
    gaps = rng.exponential(1 / rate_per_s, int(rate_per_s * seconds * 1.2 + 100))
    due = np.cumsum(gaps)
    return due[due < seconds]


class _Timer:
    """A timerfd on CLOCK_MONOTONIC; os.timerfd_create comes with Python 3.13."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd: int = self._libc.timerfd_create(time.CLOCK_MONOTONIC, _TFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = (ctypes.c_long * 4)()  # interval s, ns; first s, ns

    def set(self, when_s: float) -> None:
        """Become readable at `when_s` of `time.monotonic`; at once if that is over."""
        self._spec[2] = int(when_s)
        self._spec[3] = int(when_s % 1 * 1e9)
        self._libc.timerfd_settime(self.fd, _TFD_TIMER_ABSTIME, self._spec, None)


class Generator:
    """Sends by the schedule over the connections that are free; what finds none waits, its clock running.

    The one that has been free for longest is next: all are in use alike, as those of as many clients would be. With the
    one that was freed last few of them carried the load, and chance said which workers those belonged to.
    """

    def __init__(self, requests: Sequence[bytes], due_s: Sequence[float]) -> None:
        self._requests, self._due_s = requests, due_s
        self._next = 0
        self._waiting: deque[tuple[bytes, float]] = deque()
        self.free: deque[_Connection] = deque()
        self.latencies_s: list[float] = []
        self.late_s: list[float] = []
        self.errors = 0
        self._timer = _Timer()
        self._done = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Send everything; return when all is answered or given up."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._timer.fd, self._send_due)
        self._timer.set(self._due_s[0])
        limit_s = self._due_s[-1] - time.monotonic() + _ANSWER_LIMIT_S
        try:
            await asyncio.wait_for(self._done, limit_s)
        except TimeoutError:
            self.errors += len(self._due_s) - self.errors - len(self.latencies_s)
        finally:
            loop.remove_reader(self._timer.fd)
            os.close(self._timer.fd)

    def _send_due(self) -> None:
        os.read(self._timer.fd, 8)
        now, number, due_s = time.monotonic(), self._next, self._due_s
        while number < len(due_s) and due_s[number] <= now:
            request = self._requests[number % len(self._requests)]
            if self.free:
                self.late_s.append(now - due_s[number])
                self.free.popleft().send(request, due_s[number])
            else:
                self._waiting.append((request, due_s[number]))
            number += 1
        self._next = number
        if number < len(due_s):
            self._timer.set(due_s[number])

    def answered(self, connection: "_Connection", latency_s: float | None) -> None:
        """Book an answer, None for a bad one, and give the connection its next request."""
        if latency_s is None:
            self.errors += 1
        else:
            self.latencies_s.append(latency_s)
        if self._waiting:
            connection.send(*self._waiting.popleft())
        else:
            self.free.append(connection)
        self._end_if_all_is_booked()

    def lost(self) -> None:
        """Book a connection that the server closed before it had answered."""
        self.errors += 1
        self._end_if_all_is_booked()

    def _end_if_all_is_booked(self) -> None:
        if len(self.latencies_s) + self.errors == len(self._due_s) and not self._done.done():
            self._done.set_result(None)


class _Connection(asyncio.Protocol):
    """One connection, one request at a time on it."""

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self._due_s: float | None = None
        self._missing = 0  # bytes of the answer's body that are still to come
        self._head = b""
        self._is_good = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write
        self._generator.free.append(self)

    def send(self, request: bytes, due_s: float) -> None:
        self._due_s = due_s
        self._write(request)

    def data_received(self, data: bytes) -> None:
        if not self._missing:
            data = self._head + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._head = data
                return
            self._head = b""
            self._is_good = data.startswith(b"HTTP/1.1 200")
            self._missing = end + 4 + content_length(data[:end])
        self._missing -= len(data)
        if self._missing <= 0 and self._due_s is not None:
            latency_s, self._due_s, self._missing = time.monotonic() - self._due_s, None, 0
            self._generator.answered(self, latency_s if self._is_good else None)

    def connection_lost(self, _: Exception | None) -> None:
        if self._due_s is not None:
            self._generator.lost()
        elif self in self._generator.free:
            self._generator.free.remove(self)


def content_length(head: bytes) -> int:
    """The number in an answer's Content-Length; 0 without one."""
    start = head.lower().find(b"\r\ncontent-length:")
    return int(head[start + 17 :].split(b"\r", 1)[0]) if start >= 0 else 0


async def load(port: int, requests: Sequence[bytes], due_s: NDArray[np.float64]) -> Outcome:
    """Send `requests` in turn to `port`, as many as `due_s` has times."""
    loop = asyncio.get_running_loop()
    start_s = time.monotonic() + _LEAD_S
    generator = Generator(requests, (due_s + start_s).tolist())
    opened = [
        await loop.create_connection(lambda: _Connection(generator), "127.0.0.1", port) for _ in range(CONNECTIONS)
    ]
    before_s = time.process_time()
    await generator.run()
    for transport, _ in opened:
        transport.close()
    latencies_ms = np.array(generator.latencies_s or [np.nan]) * 1e3
    late_ms = np.array(generator.late_s or [np.nan]) * 1e3
    return Outcome(
        answers=len(generator.latencies_s),
        errors=generator.errors,
        p50_ms=float(np.percentile(latencies_ms, 50)),
        p99_ms=float(np.percentile(latencies_ms, 99)),
        late_p99_ms=float(np.percentile(late_ms, 99)),
        cpu_s=time.process_time() - before_s,
    )


def main(port: str, rate_per_s: str, seconds: str, arrivals: Arrivals, *files: str) -> None:
    """Run once and print the outcome as JSON."""
    requests = [Path(file).read_bytes() for file in files]
    due_s = schedule(arrivals, rate_per_s=float(rate_per_s), seconds=float(seconds))
    print(json.dumps(asdict(uvloop.run(load(int(port), requests, due_s)))))


if __name__ == "__main__":
    main(*sys.argv[1:])  # type: ignore[arg-type]  # `schedule` takes what is not "constant" for Poisson
