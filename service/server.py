"""uvicorn, with a start that waits for the models and a stop that loses no request."""

import asyncio
import gc
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import uvicorn

from service.acceptor import Acceptor
from service.app import Service
from service.errors import Unavailable
from service.protocol import Protocol
from service.short_way import KnownHeads

# How long, after SIGTERM, new connections are taken and idle ones kept: the next answer on each tells its client to
# close it, and whoever asks /health/ready learns to go elsewhere.
_FAREWELL_S = 0.3
# How long a connection that was taken last may be without its first request: its client has yet to be scheduled.
_FIRST_REQUEST_S = 5.0
# How long a model run may go on when every request that it was for has been given up.
_LAST_RUN_S = 2.0

logger = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Serves one `Service` on one listening socket until SIGTERM or SIGINT."""

    def __init__(self, service: Service, listener: socket.socket, *, drain_timeout_s: float, loads_first: bool) -> None:
        """`loads_first`: take no connection before the models are loaded, since others serve on the same socket."""
        super().__init__(
            uvicorn.Config(
                service.edge,
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
        self._known_heads = KnownHeads()
        self._acceptor = Acceptor(listener, self._make_protocol, service.readiness)
        self._loads_first = loads_first
        self._drain_timeout_s = drain_timeout_s

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Listen and load, in either order; raise `BackendError` if the models' device cannot be used."""
        if self._loads_first:
            await self._service.load()
        await super().startup(sockets=[])
        self._acceptor.start()
        if not self._loads_first:
            await self._service.load()
        gc.freeze()  # what is there now stays: looking through it would hold up requests for tens of milliseconds

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002  # uvicorn's signature
        """Become not ready, say farewell, stop listening, answer what was accepted, release the models."""
        logger.info("shutting down: %d connections are open", len(self.server_state.connections))
        self._service.drain()
        await asyncio.sleep(_FAREWELL_S)
        self._acceptor.stop()
        await self._acceptor.settled()
        await self._hear_the_last()
        await super().shutdown()
        for connection in cast("list[Protocol]", list(self.server_state.connections)):
            connection.give_up(Unavailable("the service shuts down and could not wait for this request"))
        try:
            await asyncio.wait_for(self._service.close(), _LAST_RUN_S)
        except TimeoutError:  # it cannot be interrupted, and to end in the usual way would be to wait for its thread
            logger.error("a model run does not end: the process ends without it")
            os._exit(1)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: say that the event loop turns, and whether the models' runs come to an end."""
        self._service.beat()
        return await super().on_tick(counter)

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

    async def _hear_the_last(self) -> None:
        """Wait for the first requests on the connections that were just taken, then for the last on the idle ones."""
        connections = cast("set[Protocol]", self.server_state.connections)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(_FIRST_REQUEST_S, self._drain_timeout_s)
        while loop.time() < deadline and any(connection.awaits_first_request for connection in connections):
            await asyncio.sleep(0.02)
        await asyncio.sleep(_FAREWELL_S)

    def _make_protocol(self) -> Protocol:
        return Protocol(self.config, self.server_state, self._service, self._known_heads)
