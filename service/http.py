"""What the hot path knows of HTTP: an inference request, its client's leaving, and an answer."""

import asyncio
import os
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, cast

from service.engine import Query
from service.errors import ClientGone, ServiceError, TooLarge
from service.tensors import encode_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

JSON: Header = (b"content-type", b"application/json")
CLOSE: Header = (b"connection", b"close")


@dataclass(slots=True)
class Response:
    """An answer in full."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (JSON,)


class RequestIds:
    """Makes ids that no other process makes, in a sixth of the time that random ones take."""

    def __init__(self) -> None:
        self._begin = os.urandom(8).hex().encode()
        self._numbers = count(1)

    def make(self) -> bytes:
        """An id that was not there before, of 32 hexadecimal digits."""
        return b"%b%016x" % (self._begin, next(self._numbers))


@dataclass(slots=True)
class Asked:
    """What an inference request asks for. `how`: what its API wants to know again when it writes the answer."""

    query: Query
    is_large: bool = False
    how: Any = None


class Request(Protocol):
    """A request for an inference, however it came in."""

    @property
    def method(self) -> str:
        """GET, POST, …"""

    @property
    def path(self) -> str:
        """Without the query, escapes undone."""

    @property
    def gone(self) -> bool:
        """Whether the client has left: then nobody reads the answer."""

    def header(self, name: bytes) -> bytes | None:
        """The first value of header `name` (lower case)."""


class AsgiRequest:
    """A request as ASGI 3 hands it over, its body in pieces. Its task is cancelled when its client leaves."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.gone = False
        self._headers: Sequence[Header] = scope["headers"]
        self._receive = receive
        self._watcher: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> bytes | None:
        """The first value of header `name` (lower case)."""
        return find_header(self._headers, name)

    async def body(self, *, max_bytes: int) -> bytes:
        """Read the whole body, and watch from then on whether the client leaves.

        Raises `TooLarge` as soon as it is known to be over `max_bytes`, and `ClientGone`.
        """
        announced = self.header(b"content-length")
        if announced is not None and is_length(announced) and int(announced) > max_bytes:
            raise TooLarge(f"body of {int(announced)} bytes, at most {max_bytes} are taken")
        chunks, size, more = [], 0, True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self.gone = True
                raise ClientGone("the client left before its body was complete")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > max_bytes:
                raise TooLarge(f"body of more than {max_bytes} bytes, at most that many are taken")
            more = message.get("more_body", False)
        self._watcher = asyncio.create_task(self._watch(cast("asyncio.Task[object]", asyncio.current_task())))
        return b"".join(chunks)

    def stop_watching(self) -> None:
        """Cancel nobody any more: the answer is there."""
        watcher, self._watcher = self._watcher, None  # which refers to this, also when it has ended
        if watcher is not None:
            watcher.cancel()

    async def _watch(self, task: "asyncio.Task[object]") -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone = True
        task.cancel()


def is_length(value: bytes) -> bool:
    """Whether a Content-Length is a number, and not of so many digits that Python refuses to read it."""
    return value.isdigit() and len(value) <= 20


def find_header(headers: Sequence[Header], name: bytes) -> bytes | None:
    """The first value of header `name` (lower case)."""
    for key, value in headers:
        if key == name:
            return value
    return None


def error_response(error: ServiceError) -> Response:
    """The answer that every error becomes, whatever the path: `{"error": message}`, its status, and how to go on."""
    return Response(error.status, encode_json({"error": str(error)}), (JSON, *error.headers))
