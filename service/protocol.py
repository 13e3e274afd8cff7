"""HTTP/1.1 on one connection: uvicorn's protocol, with a short way for inference requests.

uvicorn makes a scope, a task, several messages, two writes and a timer of each request, which costs more than a small
model's answer. An inference request that comes whole and alone needs none of it: its body is collected here, the edge
answers it, and the answer goes out in one write. Whatever is out of the ordinary (no Content-Length, a large body,
`Expect`, HTTP/1.0, a request behind one that is not answered yet) takes uvicorn's way, and ends at the same edge.

A client whose body is refused may be sending it still, and would be reset before it has read why: what it sends is
dropped for a while before the connection is closed.

A client that stops sending within a request is given as long as an idle connection is given; one that stops reading its
answers, twice as long.

There is no other protocol to upgrade to, and the wish for one is passed over (RFC 9110, 7.8): the parser would take the
request's body for the other protocol, and clients of HTTP/2 send that wish with a POST.
"""

import asyncio
import re
from collections.abc import Callable, Sized
from functools import partial
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import unquote

from uvicorn import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from service.app import Service
from service.errors import ClientGone, InvalidRequest, RequestStalled, ServiceError
from service.http import CLOSE, Header, Response, error_response, is_length
from service.short_way import Head, Inference, KnownHeads

# A larger body is read by the edge, which asks for a key first.
_MAX_BODY_BYTES: Final = 2**20
# Requests that wait for the answer to one before them; what has been read already may hold more.
_MAX_PIPELINED: Final = 16
# Of bytes that bring no body: request line and headers, trailers, extensions of chunks. The parser would keep them all.
_MAX_HEAD_BYTES: Final = 2**16
# How long a client may go on sending what nobody reads.
_LINGER_S: Final = 10.0
# A whole line of its own: nothing folded, nothing behind a bare line feed.
_UPGRADE: Final = re.compile(rb"\r\nupgrade:[^\r\n]*(?=\r\n[^ \t]|\Z)", re.IGNORECASE)
_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %s\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
} | {499: b"HTTP/1.1 499 Client Closed Request\r\n"}


class _Flow(FlowControl):
    """Reads on, whoever asks for it, only when few enough requests wait for an earlier one's answer."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Read on, unless what was read already is too much."""
        if self.read_paused and len(self._pipeline) < _MAX_PIPELINED:
            super().resume_reading()


class _Ending:
    """A connection's transport as uvicorn's cycle has it: it writes, and ends the connection."""

    def __init__(self, transport: asyncio.Transport, end: Callable[[], None]) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self.close = end


class Protocol(HttpToolsProtocol):
    """One connection. `Readiness.connections` counts it already."""

    def __init__(self, config: Config, server_state: ServerState, service: Service, known_heads: KnownHeads) -> None:
        super().__init__(config, server_state, app_state={})
        self._edge = service.edge
        self._readiness = service.readiness
        self._max_body_bytes = min(service.edge.max_body_bytes, _MAX_BODY_BYTES)
        self._known_heads = known_heads
        self._running: RequestResponseCycle | None = None  # what uvicorn's way answers, or has answered last
        self._inference: Inference | None = None  # what is being received or answered on the short way
        self._idle_since_s = 0.0  # when something came or was answered last
        self._unread_bytes = 0  # of answers, when it was last looked whether the connection is idle
        self._head_bytes = 0  # that came since anything else did
        self._between_messages = True
        self._first_head = b""  # of the request that begins the data that is being parsed
        self._lingers = False  # nothing more is read or written

    @property
    def awaits_first_request(self) -> bool:
        """Whether no request has come on this connection yet."""
        return self.cycle is None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._idle_since_s = self.loop.time()
        self._look_when_it_may_be_idle()

    def data_received(self, data: bytes) -> None:
        """Take what has come: at best, one whole request whose head is known."""
        if self._between_messages and (self.cycle is None or self.cycle.response_complete):
            content, end, body = data.partition(b"\r\n\r\n")
            self._first_head = content if end else b""
            head = self._known_heads.get(content)
            if head is not None and len(body) == head.content_length:
                self._begin(Inference(head))
                self._answer(body)
                return
            if end and _UPGRADE.search(content):
                data = b"".join((_UPGRADE.sub(b"", content), end, body))
        if self._lingers:
            return
        self._idle_since_s = self.loop.time()
        self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes > _MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"more than {_MAX_HEAD_BYTES} bytes of headers")

    def on_message_begin(self) -> None:
        """The first byte of a request is here."""
        self._between_messages = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Choose a request's way."""
        first_head, self._first_head = self._first_head, b""
        head = self._short_way()
        if head is None:
            super().on_headers_complete()
            if self.parser.should_upgrade():  # what follows is not parsed as this request's body
                self.cycle.keep_alive = False
            return
        self._known_heads.add(first_head, head)
        self._begin(Inference(head))

    def on_body(self, body: bytes) -> None:
        """Take a piece of a request's body."""
        self._head_bytes = 0
        if self._inference is None or self._inference.exchange is not None:
            super().on_body(body)
        else:
            self._inference.feed(body)

    def on_message_complete(self) -> None:
        """A request is here in full: answer it, if it takes the short way."""
        self._between_messages = True
        self._head_bytes = 0
        if self._inference is None or self._inference.exchange is not None:
            super().on_message_complete()
        else:
            self._answer(self._inference.take_body())

    def on_response_complete(self) -> None:
        """Go on with the next request, or be idle."""
        self.server_state.total_requests += 1
        if self._lingers or self.transport.is_closing():
            return
        following = self.pipeline.pop() if self.pipeline else None
        if not self.flow.write_paused:
            self.flow.resume_reading()
        self._idle_since_s = self.loop.time()
        if following is not None:
            self._start_asgi_task(*following)

    def timeout_keep_alive_handler(self) -> None:
        """End the connection if its client has done nothing for long enough, else look again when it may have been."""
        unread_bytes = self.transport.get_write_buffer_size()
        reads, self._unread_bytes = unread_bytes != self._unread_bytes, unread_bytes
        if self.loop.time() - self._idle_since_s < self.timeout_keep_alive:
            self._look_when_it_may_be_idle()
        elif reads or (self._owes_an_answer and not unread_bytes):
            self._idle_since_s = self.loop.time()
            self._look_when_it_may_be_idle()
        elif unread_bytes:
            self.transport.abort()  # to close it would wait for the client to read
        elif self._between_messages:
            self.transport.close()
        elif self._inference is not None:
            self.give_up(RequestStalled(self.timeout_keep_alive))
        elif self.cycle is None or self.cycle.response_complete:
            self.send_400_response(str(RequestStalled(self.timeout_keep_alive)))
        else:
            self.transport.close()

    def _look_when_it_may_be_idle(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_at(
            self._idle_since_s + self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    @property
    def _owes_an_answer(self) -> bool:
        """Whether a request is here in full and not answered."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        if self._inference is not None:
            return self._inference.exchange is not None
        return bool(self.pipeline) or not self.cycle.more_body  # what waits in the pipeline waits for another's answer

    def _unset_keepalive_if_required(self) -> None:
        """The timer stays: one a connection, not one a request."""

    def pause_writing(self) -> None:
        """The client does not read its answers: no more of its requests are read."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """The client has read its answers."""
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()

    def eof_received(self) -> None:
        """The client sends no more: the connection is closed when this returns."""
        self._give_up_running()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has left: what it waits for is given up."""
        super().connection_lost(exc)
        self._give_up_running()
        self._readiness.connections -= 1
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self._inference is not None:
            self._inference.gone = True
            self.give_up(ClientGone("the client left before its answer was ready"))

    def give_up(self, error: ServiceError) -> None:
        """Answer with `error` what is being received or answered on the short way."""
        inference = self._inference
        if inference is None:
            return
        if inference.exchange is None:
            self._respond(inference, self._edge.refuse(inference, inference.head.api, error))
        else:
            self._edge.give_up(inference.exchange, error)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP with an error of the shape that all errors have. What came before it is given up."""
        error = InvalidRequest(msg)
        if self._running is None or self._running.response_complete:
            response = self._edge.refuse_unreadable(error)
        else:  # it is within a request, or behind one: that one is booked
            response = error_response(error)
            response.headers += (CLOSE,)
        self.transport.write(_render(response, []))
        self.transport.close()
        self._give_up_running()

    def _short_way(self) -> Head | None:
        """The head of the request whose headers are complete, if it can take the short way."""
        if self.cycle is not None and not self.cycle.response_complete:
            return None
        if self.parser.get_method() != b"POST":  # refused, and without a body if it is a HEAD
            return None
        path = self.url.partition(b"?")[0].decode("latin-1")
        api = self._edge.inference_api(path)
        if api is None or self.expect_100_continue or self.parser.should_upgrade():
            return None
        headers = dict(reversed(self.headers))
        length = headers.get(b"content-length", b"")
        if not is_length(length) or int(length) > self._max_body_bytes or b"content-encoding" in headers:
            return None
        if self.parser.get_http_version() != "1.1":
            return None
        return Head(
            api,
            self.parser.get_method().decode("ascii"),
            unquote(path) if "%" in path else path,
            headers,
            len(self.headers),
            int(length),
            self.parser.should_keep_alive(),
        )

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        cycle.transport = cast("asyncio.Transport", _Ending(self.transport, self._end))
        super()._start_asgi_task(cycle, app)

    def _give_up_running(self) -> None:
        """Let uvicorn's way write no more, and wake who waits there for the client to leave.

        uvicorn tells a turn after the transport has been closed, and only the request that came last.
        """
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
            self._running.transport = self.transport  # it refers to this no more

    def _end(self) -> None:
        """Close the connection, at once unless its client may still be sending a request."""
        if self._between_messages or self.transport.is_closing():
            self.transport.close()
            return
        self._lingers = True
        self.transport.write_eof()
        self.flow.resume_reading()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        self.timeout_keep_alive_task = self.loop.call_later(_LINGER_S, self.transport.abort)

    def _begin(self, inference: Inference) -> None:
        self._inference = inference
        self.cycle = cast("RequestResponseCycle", inference)

    def _answer(self, body: bytes) -> None:
        inference = cast("Inference", self._inference)
        exchange = self._edge.begin(inference, body, inference.head.api, partial(self._respond, inference))
        if not inference.response_complete:
            inference.exchange = exchange

    def _respond(self, inference: Inference, response: Response) -> None:
        self._inference = None
        inference.complete()
        if self.transport.is_closing():
            return
        closes = CLOSE in response.headers
        if not (closes or inference.keep_alive):
            response.headers += (CLOSE,)
        self.transport.write(_render(response, self.server_state.default_headers))
        if closes or not inference.keep_alive:
            self.transport.close()
        self.on_response_complete()


def _render(response: Response, default_headers: list[Header]) -> bytes:
    lines = [b"%b: %b\r\n" % header for header in (*default_headers, *response.headers)]
    end = b"content-length: %d\r\n\r\n" % len(response.body)
    return b"".join((_STATUS_LINES[response.status], *lines, end, response.body))
