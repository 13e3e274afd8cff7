"""`service.protocol`: the short way and uvicorn's give the same answers, to whatever bytes in whatever packets."""

import json
from collections.abc import Sequence
from pathlib import Path

import fake_clock
import numpy as np
import pytest
from factories import ragged
from fake_clock import FakeClock
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import BODY, PREDICT, behind_a_gate, close_gate
from wire import (
    CONTENT,
    INFER,
    SHORT,
    UVICORN,
    Answer,
    Connection,
    Wired,
    binary,
    chunked,
    cut,
    head,
    post,
    run,
    wired,
    wired_throughout,
)

from service.errors import Unavailable
from service.protocol import KnownHeads
from service.server import Server

TRACED = json.dumps(BODY | {"trace": "gates"}).encode()
KEEP_ALIVE_S = 75  # `service.server`'s


def shapes(answers: Sequence[Answer]) -> list[object]:
    return [answer.shape for answer in answers]


# What is the same in both: a request's content, and its path.
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (CONTENT, {}),
        (CONTENT, {"path": "/v1/predict"}),
        (CONTENT, {"path": "/v1/models/tiny/versions/1/predict"}),
        (CONTENT, {"path": f"{PREDICT}?a=b/predict"}),
        (CONTENT, {"path": "/v1/models/t%69ny/predict"}),
        (CONTENT, {"path": "/v1/models/ti%2Fny/predict"}),
        (CONTENT, {"path": "/v1/models/nobody/predict"}),
        (CONTENT, {"path": "/v1/models/tiny/versions/9/predict"}),
        (CONTENT, {"path": "/v1/models/a/b/c/predict"}),
        (CONTENT, {"path": "/v2/models/tiny/predict"}),
        (TRACED, {}),
        (b"{", {}),
        (b'{"sequences": [[[1, 2]]]}', {}),
        (json.dumps({"sequences": [[[1, 2, 3]] * 60]}).encode(), {}),
        (json.dumps({"sequences": [[[1, 2, 3]]] * 20}).encode(), {}),
        (json.dumps({"sequences": [[[1, 2, 3]] * (i + 1) for i in range(9)]}).encode(), {}),
        (b" " * 6000, {}),
        (CONTENT, {"path": INFER}),
        (json.dumps({"inputs": [{"name": "sequences", "datatype": "FP32", "shape": [1, 1, 3], "data": [1, 2, 3]}],
                     "id": "7"}).encode(), {"path": INFER}),
    ],
)  # fmt: skip
def test_both_ways_give_the_same_answer(repository: Path, content: bytes, line: dict[str, str]) -> None:
    limits = ["--max-sequence-length=50", "--max-batch-size=8", "--max-queue-size=16", "--max-body-bytes=6000"]

    async def test() -> None:
        async with wired(repository, *limits) as service:
            short, other = service.connect(), service.connect()
            given = ("X-Request-Id: mine", "Accept-Encoding: gzip")
            first = await short.ask(post(content, *given, **line))
            assert short.way == (SHORT if line.get("path") != "/v2/models/tiny/predict" else UVICORN)
            second = await other.ask(chunked(content, *given, **line))
            assert other.way == UVICORN
            assert first.header("x-request-id") == second.header("x-request-id") == "mine"
            assert first.shape == second.shape
            if first.status == 200:
                assert first.header("server-timing")
            assert short.is_closed == other.is_closed == (first.status == 413)

    run(test)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_another_method_on_an_inference_path_is_refused_in_the_same_way(repository: Path, method: str) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            short, other = service.connect(), service.connect()
            for connection, request in ((short, post(b"", method=method)), (other, head(method=method))):
                connection.send(request)
                await fake_clock.settle()
                answered, _, rest = connection.transport.written.partition(b"\r\n\r\n")
                assert answered.startswith(b"HTTP/1.1 405 ")
                assert b"\r\nallow: POST" in answered
                assert bool(rest) == (method != "HEAD"), "the answer to a HEAD has no body: it would be the next answer"
                connection.transport.written = b""
                assert (await connection.ask(post())).status == 200

    run(test)


def test_a_request_in_any_two_packets_is_the_same_request(repository: Path) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            expected = (await service.connect().ask(post())).shape
            connection = service.connect()
            for place in range(1, len(post())):
                assert (await connection.ask(*cut(post(), [place]))).shape == expected, place
                assert connection.way == SHORT
            assert (await connection.ask(*(bytes([byte]) for byte in post()))).shape == expected

    run(test)


STREAM = [
    post(),
    binary(),
    chunked(),
    post(b"{"),
    head(method="GET", path="/health/live"),
    post(TRACED),
    binary(outputs=("probabilities", "hidden_states")),
    post(CONTENT, "Expect: 100-continue-not"),
    post(),
]  # fmt: skip


def test_requests_in_any_packets_are_answered_in_order_and_the_same_as_one_by_one(repository: Path) -> None:
    with wired_throughout(repository) as (runner, service):

        async def ask_alone() -> list[Answer]:
            return [await service.connect().ask(request) for request in STREAM]

        async def ask_together(stream: bytes, places: list[int], count: int) -> list[Answer]:
            connection = service.connect()
            connection.send(*cut(stream, places))
            answers = await connection.answers(count)
            assert not connection.is_closed
            return answers

        alone = runner.run(ask_alone())
        assert {answer.status for answer in alone} == {200, 400}

        @settings(max_examples=150, deadline=None)
        @given(st.lists(st.integers(0, len(STREAM) - 1), min_size=1, max_size=8), st.data(), st.booleans())
        def same(chosen: list[int], data: st.DataObject, known: bool) -> None:
            stream = b"".join(STREAM[number] for number in chosen)
            places = data.draw(st.lists(st.integers(1, len(stream)), max_size=12))
            if not known:
                service.heads = KnownHeads()
            together = runner.run(ask_together(stream, places, len(chosen)))
            assert shapes(together) == shapes([alone[number] for number in chosen])

        same()
