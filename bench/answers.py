"""Ask a server once, and hold what it answers against the graph run in process."""

import contextlib
import http.client
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from bench.graphs import Array
from bench.wires import Wire

TOLERANCE: Final = 1e-4
_START_LIMIT_S: Final = 90.0
_POLL_S: Final = 0.01
_GOOD_ANSWERS: Final = 8
_GOOD_FOR_S: Final = 0.5
_ANSWER_LIMIT_S: Final = 10.0
_CHECKS: Final = 3  # mosec at times never answers the request that follows upon connections closed by wrk


class WrongAnswer(RuntimeError):
    """A server did not answer, or not what the graph computes."""


def ask(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send a whole request over a connection of its own; return status, headers by lower-case name, and body."""
    with socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_LIMIT_S) as connection:
        connection.sendall(request)
        response = http.client.HTTPResponse(connection, method="POST")
        response.begin()
        headers = {name.lower(): value for name, value in response.getheaders()}
        return response.status, headers, response.read()


def _ask_again(port: int, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """`ask`, and again where nothing comes."""
    for _ in range(_CHECKS - 1):
        with contextlib.suppress(TimeoutError):
            return ask(port, request)
    return ask(port, request)


def wait_until_ready(port: int, request: bytes, has_ended: Callable[[], bool]) -> float:
    """Ask until the answers are good, for a while: a server of several processes may have one that loads still.

    Return when the first of them came, on the clock of `time.monotonic`. Raises `WrongAnswer` if the server ends or
    takes too long.
    """
    deadline, status, good, since_s = time.monotonic() + _START_LIMIT_S, "no connection", 0, 0.0
    while time.monotonic() < deadline:
        try:
            code, _, body = ask(port, request)
            status = f"status {code}: {body[:100]!r}"
        except (OSError, http.client.HTTPException) as error:
            code, status = 0, str(error)
        good = good + 1 if code == 200 else 0
        if good == 1:
            since_s = time.monotonic()
        if good >= _GOOD_ANSWERS and time.monotonic() - since_s >= _GOOD_FOR_S:
            return since_s
        if good:
            continue
        if has_ended():
            raise WrongAnswer("it ended while it started")
        time.sleep(_POLL_S)
    raise WrongAnswer(f"not ready after {_START_LIMIT_S:.0f} s: {status}")


def check(port: int, wire: Wire, request: bytes, expected: Array) -> None:
    """Raise `WrongAnswer` unless all probabilities are within `TOLERANCE` of `expected` `(B, K)`."""
    try:
        status, headers, body = _ask_again(port, request)
        if status != 200:
            raise WrongAnswer(f"status {status}: {body[:200]!r}")
        probabilities = wire.decode(headers, body)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, struct.error) as error:
        raise WrongAnswer(f"{type(error).__name__}: {error}") from error
    if probabilities.shape != expected.shape:
        raise WrongAnswer(f"probabilities of shape {probabilities.shape}, expected {expected.shape}")
    if not (difference := float(np.abs(probabilities - expected).max())) <= TOLERANCE:
        raise WrongAnswer(f"probabilities differ from the graph's by {difference:.2g}")
