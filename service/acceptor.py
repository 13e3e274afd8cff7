"""Takes connections from the socket that all workers listen on, each worker about as many as the others.

A connection stays with the worker that took it. The kernel wakes all who listen, and whoever comes first would take all
that wait: 64 clients that connect at once end at one worker of two. So a worker that has more than another lets that
one go first, for a millisecond and no longer: it may be busy.
"""

import asyncio
import ctypes
import errno
import logging
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from service.readiness import Readiness

_WAIT_S = 1e-3
# In one turn of the loop, which answers the requests of all connections so far: one at a time, 128 that connected at
# once and sent on waited for up to 130 ms.
_AT_ONCE = 16
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_EXHAUSTED_WAIT_S = 0.1
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27  # asm-generic/socket.h
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)  # linux/filter.h: BPF_RET, of no byte

logger = logging.getLogger(__name__)


class Acceptor:
    """One worker's share of the connections to `listener`. Belongs to one event loop once it has been started."""

    def __init__(
        self, listener: socket.socket, make_protocol: Callable[[], asyncio.Protocol], readiness: Readiness
    ) -> None:
        self._listener = listener
        self._make_protocol = make_protocol
        self._readiness = readiness
        self._timer: asyncio.TimerHandle | None = None
        self._is_exhausted = False
        self._connecting: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Begin to take connections."""
        with suppress(OSError):  # there is none, unless those whom this worker replaces were all told to stop
            self._listener.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)
        self._listener.setblocking(False)
        self._listen()

    def stop(self) -> None:
        """Take what waits in the socket's queue, which closing it would reset, and close it.

        Nothing is awaited in between: clients whose connections are closed come back at once, for as long as they can.
        """
        if self._timer is None:
            asyncio.get_running_loop().remove_reader(self._listener)
        else:
            self._timer.cancel()
        if self._readiness.all_drain:
            take_no_more(self._listener)
        while self._take():
            pass
        self._listener.close()

    async def settled(self) -> None:
        """Wait until every connection that was taken has its protocol."""
        if self._connecting:
            await asyncio.wait(self._connecting)

    def _listen(self) -> None:
        self._timer = None
        asyncio.get_running_loop().add_reader(self._listener, self._come)

    def _come(self) -> None:
        for _ in range(_AT_ONCE):
            if self._readiness.has_more_connections_than_others:
                self._pause(_WAIT_S)
                return
            if not self._take():
                if self._is_exhausted:
                    self._pause(_EXHAUSTED_WAIT_S)
                return

    def _pause(self, duration_s: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener)
        self._timer = loop.call_later(duration_s, self._come_again)

    def _come_again(self) -> None:
        self._take()
        self._listen()

    def _take(self) -> bool:
        """Take one connection; return whether there was one."""
        try:
            connection, _ = self._listener.accept()
        except OSError as error:  # another worker took it, or its client has left, or no file descriptor is free
            was_exhausted, self._is_exhausted = self._is_exhausted, error.errno in _EXHAUSTED
            if self._is_exhausted and not was_exhausted:
                logger.error("no connection can be taken until others close: %s", error.strerror)
            return False
        connection.setblocking(False)
        self._readiness.connections += 1
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._make_protocol, connection))
        self._connecting.add(task)
        task.add_done_callback(partial(self._settle, connection))
        return True

    def _settle(self, connection: socket.socket, task: asyncio.Task[object]) -> None:
        self._connecting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            connection.close()
            self._readiness.connections -= 1
            logger.error("a connection was taken and could not be served: %r", error)


def take_no_more(listener: socket.socket) -> None:
    """Let the kernel ignore new connections to `listener`, whoever else has it open; those that wait stay.

    Between the last `accept` and `close` one more would come, and be reset. Who is ignored tries again a second later,
    and is refused.
    """
    code = ctypes.create_string_buffer(_DROP)
    with suppress(OSError):  # not every sandbox knows socket filters
        program = struct.pack("HL", 1, ctypes.addressof(code))
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
