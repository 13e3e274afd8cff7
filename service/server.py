"""uvicorn, with a start that waits for the models and a stop that loses no request."""

import asyncio
import ctypes
import logging
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.app import Service
from service.errors import InvalidRequest
from service.http import error_response

# How long, after SIGTERM, new connections are taken and idle ones kept: the next answer on each tells its client to
# close it, and whoever asks /health/ready learns to go elsewhere.
_FAREWELL_S = 0.3
# How long a connection that was taken last may be without its first request: its client has yet to be scheduled.
_FIRST_REQUEST_S = 5.0
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)  # linux/filter.h: BPF_RET, of no byte

logger = logging.getLogger(__name__)


class _Protocol(HttpToolsProtocol):
    """Answers what is not HTTP with an error of the shape that all errors have."""

    @property
    def awaits_first_request(self) -> bool:
        """Whether no request has come on this connection yet."""
        return self.cycle is None

    def send_400_response(self, msg: str) -> None:
        response = error_response(InvalidRequest(msg))
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        length = b"content-length: %d\r\n\r\n" % len(response.body)
        self.transport.write(head + length + response.body)
        self.transport.close()


class Server(uvicorn.Server):
    """Serves one `Service` on one listening socket until SIGTERM or SIGINT."""

    def __init__(self, service: Service, listener: socket.socket, *, drain_timeout_s: float, loads_first: bool) -> None:
        """`loads_first`: take no connection before the models are loaded, since others serve on the same socket."""
        super().__init__(
            uvicorn.Config(
                service.edge,
                http=_Protocol,
                loop="uvloop",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=75,
                timeout_graceful_shutdown=max(1, round(drain_timeout_s)),
            )
        )
        self._service = service
        self._listener = listener
        self._loads_first = loads_first
        self._drain_timeout_s = drain_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Listen and load, in either order; raise `BackendError` if the models' device cannot be used."""
        if self._loads_first:
            await self._service.load()
        with suppress(OSError):  # there is none, unless those whom this worker replaces were all told to stop
            self._listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        await super().startup(sockets=[self._listener.dup()])
        if not self._loads_first:
            await self._service.load()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Become not ready, say farewell, stop listening, answer what was accepted, release the models."""
        logger.info("shutting down: %d connections are open", len(self.server_state.connections))
        self._service.drain()
        await asyncio.sleep(_FAREWELL_S)
        await self._stop_listening()
        await self._hear_the_last()
        await super().shutdown()
        await self._service.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on SIGTERM and SIGINT with status 0. uvicorn's own way ends by raising the signal again.

        SIGHUP is for the repository: look at it now. Among several workers the parent gets it, and tells them.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            loop.add_signal_handler(signal.SIGHUP, self._service.look_at_repository)
        yield

    async def _stop_listening(self) -> None:
        """Close the listening socket, but first take what waits in its queue, which closing would reset.

        Nothing is awaited in between: clients whose connections are closed come back at once, for as long as they can.
        """
        if self._service.readiness.all_drain:
            take_no_more(self._listener)
        for server in self.servers:
            server.close()
        self._listener.setblocking(False)
        accepted = []
        with suppress(BlockingIOError):
            while True:
                accepted.append(self._listener.accept()[0])
        self._listener.close()
        for connection in accepted:
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    async def _hear_the_last(self) -> None:
        """Wait for the first requests on the connections that were just taken, then for the last on the idle ones."""
        connections = cast("set[_Protocol]", self.server_state.connections)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(_FIRST_REQUEST_S, self._drain_timeout_s)
        while loop.time() < deadline and any(connection.awaits_first_request for connection in connections):
            await asyncio.sleep(0.02)
        await asyncio.sleep(_FAREWELL_S)

    def _protocol(self) -> asyncio.Protocol:
        protocol = cast("type[_Protocol]", self.config.http_protocol_class)
        return protocol(self.config, self.server_state, self.lifespan.state)


def take_no_more(listener: socket.socket) -> None:
    """Let the kernel ignore new connections to `listener`, whoever else has it open; those that wait stay.

    Between the last `accept` and `close` one more would come, and be reset. Who is ignored tries again a second later,
    and is refused.
    """
    code = ctypes.create_string_buffer(_DROP)
    with suppress(OSError):  # not every sandbox knows socket filters
        program = struct.pack("HL", 1, ctypes.addressof(code))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
