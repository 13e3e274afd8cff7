"""What the hot path knows of HTTP: a request's body, its client's leaving, and an answer. Plain ASGI 3."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from service.errors import ClientGone, ServiceError, TooLarge
from service.tensors import encode_json
from service.timing import Timing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]

_JSON: Header = (b"content-type", b"application/json")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer in full. `timing` comes with the answer to an inference request that succeeded."""

    status: int
    body: bytes
    headers: tuple[Header, ...] = (_JSON,)
    timing: Timing | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A request to the hot path."""

    scope: Scope
    receive: Receive

    def header(self, name: bytes) -> bytes | None:
        """The first value of header `name` (lower case)."""
        return find_header(self.scope, name)

    async def body(self, *, max_bytes: int) -> bytes:
        """Read the whole body; raise `TooLarge` as soon as it is known to be over `max_bytes`."""
        announced = self.header(b"content-length")
        if announced is not None and announced.isdigit() and int(announced) > max_bytes:
            raise TooLarge(f"body of {int(announced)} bytes, at most {max_bytes} are taken")
        chunks, size, more = [], 0, True
        while more:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client left before its body was complete")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > max_bytes:
                raise TooLarge(f"body of more than {max_bytes} bytes, at most that many are taken")
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @asynccontextmanager
    async def cancelled_when_gone(self) -> AsyncIterator[None]:
        """Cancel what is awaited inside, and raise `ClientGone`, when the client closes its connection."""
        task = cast("asyncio.Task[object]", asyncio.current_task())
        gone = False

        async def watch() -> None:
            nonlocal gone
            while (await self.receive())["type"] != "http.disconnect":
                pass
            gone = True
            task.cancel()

        watcher = asyncio.create_task(watch())
        try:
            yield
        except asyncio.CancelledError:
            if not gone or task.uncancel():  # cancelled by another, too
                raise
            raise ClientGone("the client left before its answer was ready") from None
        finally:
            watcher.cancel()


def find_header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of header `name` (lower case) of an ASGI scope."""
    for key, value in scope["headers"]:
        if key == name:
            return cast("bytes", value)
    return None


def error_response(error: ServiceError) -> Response:
    """The answer that every error becomes, whatever the path: `{"error": message}`, its status, and how to go on."""
    return Response(error.status, encode_json({"error": str(error)}), (_JSON, *error.headers))
