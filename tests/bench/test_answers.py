import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from bench import answers
from bench.answers import _GOOD_ANSWERS, WrongAnswer, check, wait_until_ready
from bench.processes import free_port
from bench.wires import SIMPLE

EXPECTED = np.array([[0.25, 0.75]], np.float32)
REQUEST = SIMPLE.request("tiny", (np.zeros((2, 5), np.float32),))


@contextmanager
def answering(*statuses: str, probabilities: Any) -> Iterator[int]:
    """A server that gives each connection in turn an answer of one of `statuses`; yields its port."""
    body = json.dumps({"probabilities": probabilities}).encode()

    def serve() -> None:
        for status in statuses:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def test_an_answer_within_the_tolerance_is_right() -> None:
    with answering("200 OK", probabilities=[[0.25005, 0.74995]]) as port:
        check(port, SIMPLE, REQUEST, EXPECTED)


@pytest.mark.parametrize(
    ("status", "probabilities", "complaint"),
    [
        ("200 OK", [[0.2502, 0.7498]], "differ from the graph's by 0.0002"),
        ("200 OK", [[float("nan"), 0.75]], "JSONDecodeError"),
        ("200 OK", [[0.25, 0.5, 0.25]], "shape"),
        ("200 OK", {"no": "numbers"}, "TypeError"),
        ("503 Busy", [], "status 503"),
    ],
)
def test_any_other_answer_is_wrong(status: str, probabilities: Any, complaint: str) -> None:
    with answering(status, probabilities=probabilities) as port, pytest.raises(WrongAnswer, match=complaint):
        check(port, SIMPLE, REQUEST, EXPECTED)


def test_a_server_that_does_not_listen_gives_a_wrong_answer() -> None:
    with pytest.raises(WrongAnswer, match="refused"):
        check(free_port(), SIMPLE, REQUEST, EXPECTED)


def test_a_server_is_ready_when_its_answers_are_good_in_a_row_whichever_process_gives_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(answers, "_GOOD_FOR_S", 0.0)
    half = ["200 OK"] * (_GOOD_ANSWERS - 1) + ["503 Loading"]
    with answering(*half, *["200 OK"] * _GOOD_ANSWERS, probabilities=[[0.25, 0.75]]) as port:
        wait_until_ready(port, REQUEST, has_ended=lambda: False)


def test_a_server_is_ready_when_its_answers_have_been_good_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0

    def ask(*_: object) -> tuple[int, dict[str, str], bytes]:
        nonlocal now_s
        now_s += 0.01
        return 503 if 1000.3 < now_s < 1000.4 else 200, {}, b""

    monkeypatch.setattr(answers, "ask", ask)
    monkeypatch.setattr("bench.answers.time.monotonic", lambda: now_s)
    assert wait_until_ready(0, REQUEST, has_ended=lambda: False) == pytest.approx(1000.4, abs=0.02)
    assert now_s == pytest.approx(1000.9, abs=0.03)


def test_waiting_stops_when_the_server_ends() -> None:
    with pytest.raises(WrongAnswer, match="ended"):
        wait_until_ready(free_port(), REQUEST, has_ended=lambda: True)
