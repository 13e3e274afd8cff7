"""Connections to the service without a network: bytes in, bytes out, through the real HTTP protocol."""

import asyncio
import json
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
from serving import BODY, PREDICT, Served, serving

from service.app import Service
from service.protocol import Protocol
from service.server import Server
from service.short_way import Inference, KnownHeads

INFER = "/v2/models/tiny/infer"
CONTENT = json.dumps(BODY).encode()
SHORT, UVICORN = "short way", "uvicorn's way"

_WAIT_S = 10
_HIGH_WATER_BYTES = 65_536


@dataclass(frozen=True)
class Answer:
    """One response. `shape` is what does not change from one request to the next that is the same."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def shape(self) -> tuple[int, list[tuple[str, str]], bytes]:
        kept = [(name, "" if name in {"x-request-id", "server-timing"} else value) for name, value in self.headers]
        return self.status, sorted(kept), self.body


def read_answers(content: bytes) -> tuple[list[Answer], bytes]:
    """The whole answers that `content` begins with, and what is left."""
    answers = []
    while True:
        head, end, rest = content.partition(b"\r\n\r\n")
        if not end:
            return answers, content
        status, *lines = head.split(b"\r\n")
        assert status.startswith(b"HTTP/1.1 "), status
        headers = tuple(cast("tuple[str, str]", tuple(line.decode("latin-1").split(": ", 1))) for line in lines)
        length = int(dict(headers).get("content-length", "0"))
        if len(rest) < length:
            return answers, content
        answers.append(Answer(int(status.split()[1]), headers, rest[:length]))
        content = rest[length:]


class FakeTransport(asyncio.Transport):
    """A socket's transport whose other end is the test: what is written is kept, what is sent may wait."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.writes = 0
        self.reads_are_paused = False
        self.is_aborted = False
        self.has_ended = False  # nothing more is written
        self.changed = asyncio.Event()
        self._protocol: asyncio.Protocol | None = None
        self._incoming: deque[bytes] = deque()
        self._is_closing = False
        self._unread: int | None = None  # bytes that the client has not taken yet; None: it takes all at once

    def connect(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol
        protocol.connection_made(self)

    def arrive(self, data: bytes) -> None:
        """Bytes of the client's: handed over unless the protocol has paused reading, or nobody is there any more."""
        self._incoming.append(data)
        self._hand_over()

    def stop_taking(self) -> None:
        """The client reads no more of what is written."""
        self._unread = 0

    def take_all(self) -> None:
        """The client has read all, and goes on reading."""
        assert self._protocol is not None
        was_full, self._unread = (self._unread or 0) > _HIGH_WATER_BYTES, None
        if was_full:
            self._protocol.resume_writing()

    def leave(self) -> None:
        """The client closes the connection."""
        assert self._protocol is not None
        self._is_closing = True
        protocol, self._protocol = self._protocol, None
        protocol.connection_lost(None)

    def end(self) -> None:
        """The client sends no more."""
        assert self._protocol is not None
        self._protocol.eof_received()
        self.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self._is_closing, "written to a closed connection"
        assert not self.has_ended, "written behind the end"
        self.written += bytes(data)
        self.writes += 1
        self.changed.set()
        if self._unread is not None and self._protocol is not None:
            fits, self._unread = self._unread <= _HIGH_WATER_BYTES, self._unread + len(data)
            if fits and self._unread > _HIGH_WATER_BYTES:
                self._protocol.pause_writing()

    def write_eof(self) -> None:
        self.has_ended = True
        self.changed.set()

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._incoming.clear()
            self.changed.set()
            asyncio.get_running_loop().call_soon(self._lose)

    def abort(self) -> None:
        self.is_aborted = True
        self.close()

    def get_write_buffer_size(self) -> int:
        return self._unread or 0

    def is_closing(self) -> bool:
        return self._is_closing

    def pause_reading(self) -> None:
        self.reads_are_paused = True

    def resume_reading(self) -> None:
        self.reads_are_paused = False
        asyncio.get_running_loop().call_soon(self._hand_over)

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ARG002  # of a socket that there is not
        return default

    def _hand_over(self) -> None:
        while self._incoming and not self.reads_are_paused and not self._is_closing and self._protocol is not None:
            self._protocol.data_received(self._incoming.popleft())

    def _lose(self) -> None:
        if self._protocol is not None:
            protocol, self._protocol = self._protocol, None
            protocol.connection_lost(None)


class Connection:
    """A client's connection to the service."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.transport = FakeTransport()
        self.transport.connect(protocol)

    def send(self, *packets: bytes) -> None:
        """Let bytes arrive, packet by packet."""
        for packet in packets:
            self.transport.arrive(packet)

    async def answers(self, count: int = 1) -> list[Answer]:
        """All answers so far, once there are `count`; fail if the connection is closed before."""
        async with asyncio.timeout(_WAIT_S):
            while len(answers := read_answers(self.transport.written)[0]) < count and not self.is_closed:
                self.transport.changed.clear()
                await self.transport.changed.wait()
        assert len(answers) >= count, f"{len(answers)} of {count} answers, then it was closed"
        return answers

    async def ask(self, *packets: bytes) -> Answer:
        """Send a request, wait for the one answer to it."""
        before = len(read_answers(self.transport.written)[0])
        self.send(*packets)
        *_, answer = await self.answers(before + 1)
        return answer

    async def closed(self) -> list[Answer]:
        """All answers, once the service has closed the connection; fail if there is anything besides."""
        async with asyncio.timeout(_WAIT_S):
            while not self.is_closed:
                self.transport.changed.clear()
                await self.transport.changed.wait()
        answers, rest = read_answers(self.transport.written)
        assert rest == b""
        return answers

    @property
    def is_closed(self) -> bool:
        """As the client sees it: there is no more to read."""
        return self.transport.has_ended or self.transport.is_closing()

    @property
    def way(self) -> str:
        """Which way the last request took whose headers were complete."""
        return SHORT if isinstance(self.protocol.cycle, Inference) else UVICORN


@dataclass
class Wired:
    """A service, and what makes connections to it."""

    served: Served
    server: Server
    heads: KnownHeads = field(default_factory=KnownHeads)

    @property
    def service(self) -> Service:
        return self.served.service

    def connect(self) -> Connection:
        self.service.readiness.connections += 1  # as the acceptor does
        return Connection(Protocol(self.server.config, self.server.server_state, self.service, self.heads))


@asynccontextmanager
async def wired(repository: Path, *arguments: str) -> AsyncIterator[Wired]:
    """Serve `repository` to connections that need no network."""
    with closing(socket.socket()) as unused:
        async with serving(repository, *arguments) as served:
            server = Server(served.service, unused, drain_timeout_s=1, loads_first=True)
            yield Wired(served, server)
            for connection in list(server.server_state.connections):
                cast("Protocol", connection).transport.close()
            await asyncio.sleep(0)  # until they know


@contextmanager
def wired_throughout(repository: Path, *arguments: str) -> Iterator[tuple[asyncio.Runner, Wired]]:
    """One service for many examples, and what runs them on its loop."""
    with asyncio.Runner() as runner:
        made = wired(repository, *arguments)
        yield runner, runner.run(made.__aenter__())
        runner.run(made.__aexit__(None, None, None))


def head(*lines: str, method: str = "POST", path: str = PREDICT, version: str = "1.1", end: str = "\r\n") -> bytes:
    """Request line and headers, with the empty line."""
    return end.join([f"{method} {path} HTTP/{version}", "Host: test", *lines, "", ""]).encode("latin-1")


def post(content: bytes = CONTENT, *lines: str, **line: str) -> bytes:
    """A request that can take the short way."""
    return head(*lines, f"Content-Length: {len(content)}", **line) + content


def chunked(content: bytes = CONTENT, *lines: str, size: int = 50, **line: str) -> bytes:
    """The same, in chunks, which the short way does not take."""
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return head(*lines, "Transfer-Encoding: chunked", **line) + body + b"0\r\n\r\n"


def binary(steps: int = 2, *, rows: int = 1, outputs: Sequence[str] = ("probabilities",), seed: int = 0) -> bytes:
    """A V2 request of `rows` sequences in binary, for answers in binary."""
    values = np.random.default_rng(seed).normal(size=(rows, steps, 3)).astype(np.float32)
    described = {
        "name": "sequences",
        "datatype": "FP32",
        "shape": values.shape,
        "parameters": {"binary_data_size": values.nbytes},
    }
    asked = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
    header = json.dumps({"id": "7", "inputs": [described], "outputs": asked}).encode()
    return post(header + values.tobytes(), f"Inference-Header-Content-Length: {len(header)}", path=INFER)


def cut(content: bytes, places: Sequence[int]) -> list[bytes]:
    """`content` in packets that begin at `places`."""
    bounds = [0, *sorted({place for place in places if 0 < place < len(content)}), len(content)]
    return [content[start:stop] for start, stop in pairwise(bounds)]


def run(test: Callable[[], Any]) -> None:
    """Run `test`, a coroutine function; fail on an exception that no one has taken note of, too."""
    unnoticed: list[dict[str, Any]] = []

    async def body() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unnoticed.append(context))
        await test()

    asyncio.run(body())
    assert not unnoticed
