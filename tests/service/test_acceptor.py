"""What a stop does to the listening socket; the whole of it, as a process, is in test_main."""

import errno
import select
import socket

import pytest

from service.acceptor import take_no_more


def test_a_connection_that_comes_too_late_is_refused_and_not_reset() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname(), timeout=10), socket.socket() as late:
        take_no_more(listener)
        late.setblocking(False)
        assert late.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        listener.setblocking(False)
        listener.accept()[0].close()  # it came before
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.close()
        assert select.select([], [late], [], 10)[1] == [late]
        assert late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
