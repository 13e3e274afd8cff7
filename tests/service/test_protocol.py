"""`service.protocol`: the short way and uvicorn's give the same answers, to whatever bytes in whatever packets."""

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import fake_clock
import pytest
from factories import make_bundle
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
    Wired,
    binary,
    chunked,
    cut,
    head,
    post,
    read_answers,
    run,
    wired,
    wired_throughout,
)

from service import api_v1
from service.api_v2 import _QUICK_VALUES
from service.errors import Unavailable
from service.short_way import Head, KnownHeads

TRACED = json.dumps(BODY | {"trace": "gates"}).encode()
KEEP_ALIVE_S = 75  # `service.server`'s
LINGER_S = 10


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model alone, since nearly every test here loads all that there is."""
    folder = tmp_path_factory.mktemp("bundles")
    make_bundle(folder, "tiny")
    return folder


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


@pytest.mark.parametrize("path", ["/health/live", "/docs", "/static/swagger-ui/swagger-ui.css", "/nothing"])
def test_the_answer_to_a_head_has_no_body(repository: Path, path: str) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            got = await connection.ask(head(method="GET", path=path))
            connection.transport.written = b""
            connection.send(head(method="HEAD", path=path), post())
            async with asyncio.timeout(10):
                while b'"probabilities"' not in connection.transport.written:
                    await asyncio.sleep(0.001)
            answered, _, rest = connection.transport.written.partition(b"\r\n\r\n")
            assert answered.startswith(b"HTTP/1.1 %d " % got.status)
            assert f"\r\ncontent-length: {got.header('content-length')}\r\n".encode() in answered
            assert rest.startswith(b"HTTP/1.1 200 "), "what a HEAD is answered with would be taken for the next answer"

    run(test)


def test_what_breaks_within_its_body_is_booked_once(repository: Path) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            connection.send(head("Transfer-Encoding: chunked") + b"ZZ\r\n")
            assert [answer.status for answer in await connection.closed()] == [400]
            await fake_clock.settle()
            metrics = (await service.connect().ask(head(method="GET", path="/metrics"))).body.decode()
            booked = [line for line in metrics.splitlines() if line.startswith("lstm_requests_total")]
            assert len(booked) == 1, booked

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


def test_pipelined_requests_wait_for_those_before_them(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = behind_a_gate(monkeypatch)

    async def test() -> None:
        async with wired(repository) as service:
            close_gate(backends["tiny"])
            connection = service.connect()
            connection.send(post(CONTENT, "X-Request-Id: 1"), b"".join((health("2"), post(b"{", "X-Request-Id: 3"))))
            await backends["tiny"].gate.has_been_entered()
            await fake_clock.settle()
            assert connection.transport.written == b""
            backends["tiny"].gate.open()
            answers = await connection.answers(3)
            assert [answer.header("x-request-id") for answer in answers] == ["1", "2", "3"]
            assert [answer.status for answer in answers] == [200, 200, 400]

    run(test)


def health(request_id: str) -> bytes:
    return head(f"X-Request-Id: {request_id}", method="GET", path="/health/live")


def test_a_client_that_expects_100_continue_is_told_to_go_on(repository: Path) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            begin = head("Expect: 100-continue", f"Content-Length: {len(CONTENT)}")
            connection.send(begin)
            await fake_clock.settle()
            assert connection.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
            assert connection.way == UVICORN
            connection.transport.written = b""
            assert (await connection.ask(CONTENT)).status == 200
            for _ in range(2):
                connection.transport.written = b""
                connection.send(begin + CONTENT)  # who does not wait needs not be told, but may be
                await connection.answers(2)
                assert connection.way == UVICORN

    run(test)


@pytest.mark.parametrize("lines", [(), ("Connection: keep-alive",)])
def test_http_1_0_is_answered_and_closed(repository: Path, lines: tuple[str, ...]) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            for _ in range(2):
                connection = service.connect()
                connection.send(post(CONTENT, *lines, version="1.0"))
                (answer,) = await connection.closed()
                assert (answer.status, connection.way) == (200, UVICORN)

    run(test)


@pytest.mark.parametrize("value", ["close", "Close", "foo, close"])
def test_who_asks_for_a_close_gets_it_and_nothing_behind_it_is_answered(repository: Path, value: str) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            request = post(CONTENT, f"Connection: {value}")
            for packets in ([request], [request], [request + post()], [request, post()]):
                connection = service.connect()
                connection.send(*packets)
                (answer,) = await connection.closed()
                assert (answer.status, answer.header("connection")) == (200, "close")

    run(test)


STRANGE_HEADS = {
    "bare line feeds": post(end="\n").replace(b"\n\n", b"\r\n\r\n", 1),
    "one bare line feed": post(CONTENT, "A: b\nC: d"),
    "a folded header": post(CONTENT, "A: b\r\n c"),
    "a folded header with a line feed": post(CONTENT, "A: b\n c"),
    "a folded length": head("Content-Length:\r\n " + str(len(CONTENT))) + CONTENT,
    "a line feed and a second length": head(f"Content-Length: {len(CONTENT)}", "A: b\nContent-Length: 0") + CONTENT,
    "empty lines before it": b"\r\n\r\n" + post(),
    "a carriage return in a value": post(CONTENT, "A: b\rC: d"),
}


@pytest.mark.parametrize("request_", STRANGE_HEADS.values(), ids=STRANGE_HEADS.keys())
def test_a_head_that_readers_of_http_may_take_differently_is_never_known(repository: Path, request_: bytes) -> None:
    class Watched(KnownHeads):
        def __init__(self) -> None:
            super().__init__()
            self.found: list[bytes] = []

        def get(self, content: bytes) -> Head | None:
            found = super().get(content)
            if found is not None:
                self.found.append(content)
            return found

    async def test() -> None:
        async with wired(repository) as service:
            service.heads = watched = Watched()
            for _ in range(3):
                connection = service.connect()
                connection.send(request_)
                (answer,) = await connection.answers()
                assert (answer.status == 400) == connection.is_closed
            assert watched.found == []
            for _ in range(3):
                assert (await service.connect().ask(post())).status == 200
            assert len(watched.found) == 2, "so it watches what it should"

    run(test)


@pytest.mark.parametrize("other", [CONTENT[:-1], b"", CONTENT + b"\r\n", CONTENT + b"GET /"])
def test_a_known_head_with_a_body_of_another_length_is_read_to_its_own(repository: Path, other: bytes) -> None:
    known = head(f"Content-Length: {len(CONTENT)}")

    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            expected = (await connection.ask(known + CONTENT)).shape
            connection.send(known + other)
            if len(other) < len(CONTENT):
                await fake_clock.settle()
                assert len(read_answers(connection.transport.written)[0]) == 1
                connection.send(CONTENT[len(other) :])
            assert (await connection.answers(2))[1].shape == expected

    run(test)


def test_only_so_many_heads_are_remembered_and_none_that_is_long(repository: Path) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            for number in range(300):
                await connection.ask(post(b"", f"X-Number: {number}"))
            kept = [n for n in range(300) if service.heads.get(known_part(post(b"", f"X-Number: {n}"))) is not None]
            assert 299 in kept
            assert len(kept) <= 256
            long = post(CONTENT, "X-Long: " + "x" * 3000)
            assert (await service.connect().ask(long)).status == 200
            assert service.heads.get(known_part(long)) is None

    run(test)


def known_part(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[0]


HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n"
SIZE = len(CONTENT)
SMUGGLING = {
    "length and chunked": head(f"Content-Length: {SIZE}", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + HIDDEN,
    "chunked and length": head("Transfer-Encoding: chunked", f"Content-Length: {SIZE}") + b"0\r\n\r\n" + HIDDEN,
    "length and identity": head(f"Content-Length: {SIZE}", "Transfer-Encoding: identity") + CONTENT + HIDDEN,
    "length and chunked, not last": head(f"Content-Length: {SIZE}", "Transfer-Encoding: chunked, gzip") + HIDDEN,
    "a name with a space": head(f"Content-Length: {SIZE}", "Transfer-Encoding : chunked") + b"0\r\n\r\n" + HIDDEN,
    "chunked after a vertical tab": head("Content-Length: 4", "Transfer-Encoding: \x0bchunked") + b"0\r\n\r\n" + HIDDEN,
    "two lengths": head(f"Content-Length: {SIZE}", "Content-Length: 0") + HIDDEN,
    "two lengths, the same": head(f"Content-Length: {SIZE}", f"Content-Length: {SIZE}") + CONTENT + HIDDEN,
    "a list of lengths": head(f"Content-Length: {SIZE}, {SIZE}") + CONTENT + HIDDEN,
    "a negative length": head("Content-Length: -1") + HIDDEN,
    "a signed length": head(f"Content-Length: +{SIZE}") + CONTENT + HIDDEN,
    "a hexadecimal length": head(f"Content-Length: {SIZE:#x}") + CONTENT + HIDDEN,
    "a length with a blank in it": head("Content-Length: 1 0") + HIDDEN,
    "an empty length": head("Content-Length:") + HIDDEN,
    "a length of no number": head("Content-Length: \xb2") + HIDDEN,
    "a length of too many digits": head("Content-Length: " + "9" * 30) + HIDDEN,
    "a chunk of no size": head("Transfer-Encoding: chunked") + b"x\r\n" + HIDDEN,
    "a chunk of a size too large": head("Transfer-Encoding: chunked") + b"f" * 17 + b"\r\n" + HIDDEN,
    "a chunk that is longer": head("Transfer-Encoding: chunked") + b"1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("request_", SMUGGLING.values(), ids=SMUGGLING.keys())
def test_a_length_that_can_be_read_in_two_ways_ends_the_connection(repository: Path, request_: bytes) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            for packets in ([request_], cut(request_, range(len(request_))), [post(), request_]):
                connection = service.connect()
                connection.send(*packets)
                *_, answer = await connection.closed()
                assert answer.status == 400
                assert b"lstm_" not in connection.transport.written, "what was hidden behind it is not served"
            assert service.heads.get(known_part(request_)) is None

    run(test)


@pytest.mark.parametrize("lines", [("Expect: 100-continue",), ()])
def test_a_length_of_thousands_of_zeros_is_no_bug_of_ours(repository: Path, lines: tuple[str, ...]) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            connection.send(head(*lines, "Content-Length: " + f"{len(CONTENT):05000}") + CONTENT)
            answers = await connection.answers(1 + len(lines))
            assert [answer.status for answer in answers][-1] == 200

    run(test)


UPGRADES = [
    ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA"),
    ("Connection: upgrade", "UPGRADE:websocket"),
    ("Upgrade: h2c", "Connection: upgrade"),
]


@pytest.mark.parametrize("lines", UPGRADES)
def test_the_wish_for_an_upgrade_is_passed_over(repository: Path, lines: tuple[str, ...]) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            whole, begin = post(CONTENT, *lines), head(*lines, f"Content-Length: {len(CONTENT)}")
            for packets in ([whole], [begin, CONTENT], [whole]):
                assert (await connection.ask(*packets)).status == 200
            assert (await connection.ask(head(*lines, method="GET", path="/health/live"))).status == 200
            assert (await connection.ask(chunked(CONTENT, *lines))).status == 200
            assert (await connection.ask(post())).status == 200

    run(test)


@pytest.mark.parametrize("lines", [*UPGRADES, ("Connection: upgrade", "Upgrade: h2c\r\n folded"),
                                   ("Connection: upgrade", "Upgrade: h2c\nA: b")])  # fmt: skip
def test_what_follows_a_wish_for_an_upgrade_in_pieces_is_never_a_request(
    repository: Path, lines: tuple[str, ...]
) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            begin = head(*lines, f"Content-Length: {len(HIDDEN)}")
            connection.send(*cut(begin, range(len(begin))), HIDDEN)
            await connection.closed()
            assert b"lstm_" not in connection.transport.written

    run(test)


def test_what_is_not_http_is_refused_in_the_usual_shape_and_harms_nobody_else(repository: Path) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            neighbour, broken = service.connect(), service.connect()
            neighbour.send(post()[:-5])
            broken.send(b"\x16\x03\x01 what is this\r\n\r\n")
            (answer,) = await broken.closed()
            assert answer.status == 400
            assert set(answer.json()) == {"error"}
            assert (await neighbour.ask(post()[-5:])).status == 200

    run(test)


@pytest.mark.parametrize(
    "requests", [post(b"{}"), chunked(b"{}"), post(b"{}") + chunked(b"{}"), chunked(b"{}") + post(b"{}")]
)
@pytest.mark.parametrize("end", [b"", b"\x16\x03\x01 what is this\r\n\r\n"])
def test_an_end_behind_requests_is_no_bug(
    repository: Path, requests: bytes, end: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            connection.send(requests + end)
            if not end:
                connection.transport.end()
            await connection.closed()
            await fake_clock.settle()

    run(test)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


QUIET = "--reload-interval-s=0"  # no timer but the connection's


def test_only_a_connection_that_is_idle_for_long_is_closed(repository: Path) -> None:
    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET) as service:
            connection, silent = service.connect(), service.connect()
            for request, pauses_s in ((post(), [74]), (chunked(), [20, 40]), (post(), [20, 54])):
                await connection.ask(request)
                for pause_s in pauses_s:
                    await clock.advance(pause_s)
                    assert not connection.is_closed
            await clock.advance(1)
            assert connection.is_closed
            assert await silent.closed() == [], "it has not asked anything"

    fake_clock.run(test)


@pytest.mark.parametrize(
    ("begin", "status"),
    [
        pytest.param(post()[:20], 400, id="within its headers"),
        pytest.param(post()[:-5], 400, id="within its body"),
        pytest.param(chunked()[:-5], None, id="within its body on the framework's way"),
        pytest.param(post() + post()[:20], 400, id="behind another"),
        pytest.param(post() + post()[:-5], None, id="within its body behind another"),
    ],
)
def test_a_request_of_which_no_more_comes_ends_the_connection(
    repository: Path, begin: bytes, status: int | None
) -> None:
    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET) as service:
            connection = service.connect()
            connection.send(begin)
            await clock.advance(KEEP_ALIVE_S - 1)
            assert not connection.is_closed
            await clock.advance(1)
            assert connection.is_closed
            answers = [answer for answer in await connection.closed() if answer.status != 200]
            assert [answer.status for answer in answers] == ([] if status is None else [status])
            assert all("nothing came for 75 s" in answer.json()["error"] for answer in answers)

    fake_clock.run(test)


def test_a_request_that_comes_slowly_is_taken(repository: Path) -> None:
    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET) as service:
            connection = service.connect()
            for part in (post()[:20], post()[20:-5]):
                connection.send(part)
                await clock.advance(KEEP_ALIVE_S - 1)
            assert (await connection.ask(post()[-5:])).status == 200

    fake_clock.run(test)


def test_a_client_that_reads_no_answer_is_given_up(repository: Path) -> None:
    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET) as service:
            connection = service.connect()
            connection.transport.stop_taking()
            await connection.ask(post())
            await clock.advance(KEEP_ALIVE_S)
            assert not connection.is_closed, "it may yet be reading"
            await clock.advance(KEEP_ALIVE_S)
            assert connection.transport.is_aborted

    fake_clock.run(test)


ENDLESS = b"a" * 10_000


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        pytest.param(b"POST /v1/predict", ENDLESS, id="a path"),
        pytest.param(b"GET / HTTP/1.1\r\nhost: ", ENDLESS, id="a header"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"host: x\r\n" * 1000, id="headers"),
        pytest.param(chunked()[:-2], b"host: x\r\n" * 1000, id="trailers"),
        pytest.param(chunked()[:-5] + b"1;", ENDLESS, id="an extension of a chunk"),
    ],
)
def test_headers_without_end_are_refused(repository: Path, begin: bytes, piece: bytes) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            connection.send(begin)
            for _ in range(8):
                connection.send(piece)
            assert [answer.status for answer in await connection.closed()] == [400]

    run(test)


@pytest.mark.parametrize("make", [post, chunked])
def test_a_connection_that_waits_for_an_answer_is_not_idle(
    repository: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., bytes]
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET, "--request-timeout-ms=1000000") as service:
            connection = service.connect()
            await connection.ask(post())
            close_gate(backends["tiny"])
            connection.send(make())
            await backends["tiny"].gate.has_been_entered()
            for _ in range(3):
                await clock.advance(KEEP_ALIVE_S)
            assert not connection.is_closed
            backends["tiny"].gate.open()
            await connection.answers(2)
            await clock.advance(KEEP_ALIVE_S - 1)
            assert not connection.is_closed
            await clock.advance(1)
            assert connection.is_closed

    fake_clock.run(test)


def test_a_request_that_begins_before_the_answer_to_the_one_before_it_is_not_idle_while_it_waits(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET, "--request-timeout-ms=1000000") as service:
            gate = backends["tiny"].gate
            close_gate(backends["tiny"])
            connection = service.connect()
            connection.send(post() + post()[:20])
            await gate.has_been_entered()
            gate.open()
            await connection.answers()
            gate.close()
            connection.send(post()[20:])
            await gate.has_been_entered()
            await clock.advance(KEEP_ALIVE_S + 1)
            assert not connection.is_closed
            gate.open()
            assert (await connection.answers(2))[1].status == 200

    fake_clock.run(test)


def test_nothing_is_left_of_a_connection_that_was_closed(repository: Path) -> None:
    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET) as service:
            connections = [service.connect() for _ in range(4)]
            assert service.service.readiness.connections == 4
            await connections[0].ask(post())
            await connections[1].ask(chunked())
            connections[2].send(post()[:-1])
            for connection in connections:
                connection.transport.leave()
            await clock.advance(2 * KEEP_ALIVE_S)
            assert service.service.readiness.connections == 0
            assert service.server.server_state.connections == set()

    fake_clock.run(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(), 200),
        (binary(), 200),
        (chunked(), 200),
        (post(TRACED), 200),
        (binary(1, rows=5462, outputs=("logits",)), 200),
        (post(b"{"), 400),
        (post(json.dumps({"sequences": [[[1, 2, 3e38]], [[1, 2]]]}).encode()), 400),
        (post(path="/v1/models/nobody/predict"), 404),
    ],
)
def test_an_answered_request_is_freed_without_the_garbage_collector(
    repository: Path, request_: bytes, status: int
) -> None:
    async def test() -> None:
        async with wired(repository, "--max-batch-size=5462", "--max-queue-size=5462") as service:
            assert await cyclic_after(service, request_, status) == set()

    run(test)


@pytest.mark.parametrize("request_", [post(), chunked(), b"GET /health/live HTTP/1.1\r\n\r\n" * 3, b"GET /health"])
def test_a_closed_connection_is_freed_without_the_garbage_collector(repository: Path, request_: bytes) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            protocol = weakref.ref(connection.protocol)
            connection.send(request_)
            await asyncio.sleep(0.05)
            gc.disable()
            try:
                connection.transport.leave()
                del connection
                await asyncio.sleep(0.05)
                assert protocol() is None
            finally:
                gc.enable()

    run(test)


@pytest.mark.parametrize("make", [post, chunked])
@pytest.mark.parametrize("trace", [False, True])
def test_a_request_that_came_to_nothing_is_freed_without_the_garbage_collector(
    repository: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., bytes], trace: bool
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def test() -> None:
        async with wired(repository, "--request-timeout-ms=100") as service:
            close_gate(backends["tiny"])
            request_, open_gate = make(TRACED if trace else CONTENT), backends["tiny"].gate.open
            assert await cyclic_after(service, request_, 504, at_last=open_gate) == set()

    run(test)


async def cyclic_after(
    service: Wired, request_: bytes, status: int, *, at_last: Callable[[], None] = lambda: None
) -> set[str]:
    """Ask a few times; which of our classes only the garbage collector can free."""
    connection = service.connect()
    await connection.ask(request_)  # what is made once is made
    gc.disable()
    gc.freeze()  # nothing but what comes now is looked through
    try:
        for _ in range(3):
            assert (await connection.ask(request_)).status == status
        at_last()
        await connection.ask(post())  # a connection keeps its last request, the batcher what waited behind a run
        await fake_clock.settle()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        return {type(garbage).__qualname__ for garbage in gc.garbage if is_ours(garbage)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.unfreeze()
        gc.enable()


def is_ours(thing: object) -> bool:
    return type(thing).__module__.partition(".")[0] in {"service", "model"}


TWICE = [(make, trace) for make in (post, chunked) for trace in (False, True)]


@pytest.mark.parametrize("behind", [b"", head(method="GET", path="/health/live")], ids=["alone", "another behind"])
@pytest.mark.parametrize(("make", "trace"), TWICE)
def test_a_client_that_leaves_while_it_waits_is_dropped_before_compute_and_counted(
    repository: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., bytes], trace: bool, behind: bytes
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def test() -> None:
        async with wired(repository) as service:
            close_gate(backends["tiny"])
            stays, leaves, comes = (service.connect() for _ in range(3))
            stays.send(post())
            await backends["tiny"].gate.has_been_entered()
            leaves.send(make(TRACED if trace else CONTENT) + behind)
            await fake_clock.settle()
            assert await service.served.metric("lstm_queue_size") == 2
            leaves.transport.leave()
            await fake_clock.settle()
            backends["tiny"].gate.open()
            assert (await stays.answers())[0].status == 200
            assert (await comes.ask(post())).status == 200
            assert len(backends["tiny"].batches) == 2, "of the client that stayed and the one that came after"
            assert leaves.transport.written == b""
            assert await service.served.metric("lstm_dropped_total", reason="disconnected") == 1
            assert await service.served.metric("lstm_queue_size") == 0
            gone = {"model": "tiny", "version": "1", "api": "v1", "code": "499"}
            assert await service.served.metric("lstm_requests_total", **gone) == 1

    run(test)


@pytest.mark.parametrize("make", [post, chunked])
def test_a_client_that_leaves_within_its_body_is_dropped_and_counted(
    repository: Path, make: Callable[..., bytes]
) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            connection.send(make()[:-3])
            await fake_clock.settle()
            connection.transport.leave()
            await fake_clock.settle()
            assert await service.served.metric("lstm_dropped_total", reason="disconnected") == 1
            connection = service.connect()
            connection.send(make()[:30])  # not even the headers: that is no request
            connection.transport.leave()
            await fake_clock.settle()
            assert await service.served.metric("lstm_dropped_total", reason="disconnected") == 1

    run(test)


def test_a_client_that_leaves_within_the_body_of_another_request_is_no_bug(
    repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            connection.send(post(path="/v2/repository/index")[:-3])
            await fake_clock.settle()
            connection.transport.leave()
            await fake_clock.settle()
            assert await service.served.metric("lstm_requests_total", model="", version="", api="v2", code="499") == 1

    run(test)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("make", [post, chunked])
def test_once_it_drains_each_answer_closes_its_connection(repository: Path, make: Callable[..., bytes]) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            await connection.ask(make())
            service.service.drain()
            connection.send(make())
            *_, last = await connection.closed()
            assert (last.status, last.header("connection")) == (200, "close")

    run(test)


@pytest.mark.parametrize("make", [post, chunked])
def test_what_is_in_flight_when_the_server_stops_is_answered_and_the_idle_are_closed(
    repository: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[..., bytes]
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def test() -> None:
        async with wired(repository) as service:
            idle, new, busy, receiving = (service.connect() for _ in range(4))
            await idle.ask(make())
            close_gate(backends["tiny"])
            busy.send(make())
            receiving.send(make()[:-3])
            await backends["tiny"].gate.has_been_entered()
            await fake_clock.settle()
            for connection in (idle, new, busy, receiving):
                connection.protocol.shutdown()  # what uvicorn tells each when it stops
            assert (idle.is_closed, new.is_closed, busy.is_closed, receiving.is_closed) == (True, True, False, False)
            receiving.send(make()[-3:])
            backends["tiny"].gate.open()
            for connection in (busy, receiving):
                (answer,) = await connection.closed()
                assert (answer.status, answer.header("connection")) == (200, "close")

    run(test)


def test_at_the_drain_limit_what_is_incomplete_or_waits_is_told_503_and_counted(
    repository: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def test() -> None:
        async with wired(repository) as service:
            close_gate(backends["tiny"])
            receiving, running, waiting, traced = (service.connect() for _ in range(4))
            receiving.send(post()[:-1])
            running.send(post())
            await backends["tiny"].gate.has_been_entered()
            waiting.send(post())
            traced.send(post(TRACED))
            await fake_clock.settle()
            service.service.drain()
            for connection in (receiving, running, waiting, traced):
                connection.protocol.shutdown()  # what uvicorn tells each when it stops
                connection.protocol.give_up(Unavailable("the limit"))
                connection.protocol.give_up(Unavailable("the limit"))  # once is enough
            for connection in (receiving, running, waiting, traced):
                (answer,) = await connection.closed()
                assert (answer.status, answer.header("connection")) == (503, "close")
                assert answer.json() == {"error": "the limit"}
            backends["tiny"].gate.open()
            await fake_clock.settle()
            assert len(backends["tiny"].batches) == 1
            assert await service.served.metric("lstm_rejected_total", reason="unavailable") == 4

    run(test)
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 4


@pytest.mark.parametrize("rows", [5461, 5462])
def test_answers_above_and_below_the_threshold_for_a_thread_are_the_same(repository: Path, rows: int) -> None:
    assert (rows * 3 > _QUICK_VALUES) == (rows == 5462)

    async def test() -> None:
        async with wired(repository, "--max-batch-size=10000", "--max-queue-size=10000") as service:
            short, other = service.connect(), service.connect()
            requests = [binary(1, rows=rows), binary(1, rows=rows, outputs=("logits",))]
            for request in requests:
                head_, _, body = request.partition(b"\r\n\r\n")
                length = next(line for line in head_.decode().split("\r\n") if line.startswith("Inference"))
                answer = await short.ask(request)
                assert short.way == SHORT
                assert answer.shape == (await other.ask(chunked(body, length, path=INFER, size=9999))).shape
                assert answer.status == 200
                assert len(answer.body) > rows * 12

    run(test)


def test_keys_hold_on_this_way_for_every_request_of_a_connection(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sesame\n")

    async def test() -> None:
        async with wired(repository, f"--api-keys-file={tmp_path / 'keys'}") as service:
            connection = service.connect()
            asked = [
                await connection.ask(post(CONTENT, *lines))
                for _ in range(2)
                for lines in ((), ("Authorization: Bearer sesame",), ("Authorization: Bearer wrong",))
            ]
            assert [answer.status for answer in asked] == [401, 200, 401] * 2
            assert asked[0].header("www-authenticate") == "Bearer"
            assert connection.way == SHORT
            (tmp_path / "keys").write_text("another one\n")
            revoked = await connection.ask(post(CONTENT, "Authorization: Bearer sesame"))
            assert revoked.status == 401, "a head that is known says nothing of the key in it"

    run(test)


def test_the_body_limit_holds_on_this_way(repository: Path) -> None:
    async def test() -> None:
        async with wired(repository, "--max-body-bytes=1000") as service:
            fits, over = service.connect(), service.connect()
            assert (await fits.ask(post(b" " * 1000))).status == 400
            assert fits.way == SHORT
            over.send(head("Content-Length: 1001"))  # and no body: it is not waited for
            (answer,) = await over.closed()
            assert (answer.status, answer.header("connection")) == (413, "close")

    run(test)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_body_that_is_refused_may_be_sent_on_for_a_while_and_is_dropped(repository: Path, leaves: bool) -> None:
    async def test(clock: FakeClock) -> None:
        async with wired(repository, QUIET, "--max-body-bytes=1000") as service:
            connection = service.connect()
            connection.send(head("Content-Length: 3000"), b" " * 1000)
            (answer,) = await connection.closed()
            assert answer.status == 413
            connection.send(b" " * 1000, b" " * 1000, post())
            await clock.advance(LINGER_S - 1)
            assert not connection.transport.is_closing(), "which would reset it"
            assert not connection.transport.reads_are_paused
            if leaves:
                connection.transport.end()
            else:
                await clock.advance(1)
            assert connection.transport.is_closing()
            assert connection.transport.is_aborted is not leaves
            assert await connection.closed() == [answer], "and nothing else"

    fake_clock.run(test)


@pytest.mark.parametrize("size", [2**20, 2**20 + 1])
def test_a_body_of_a_megabyte_is_taken_on_either_way(repository: Path, size: int) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            request = post(CONTENT + b" " * (size - len(CONTENT)))
            assert (await connection.ask(*cut(request, range(0, len(request), 65536)))).status == 200
            assert connection.way == (SHORT if size == 2**20 else UVICORN)

    run(test)


def test_each_answer_has_the_id_that_was_given_or_one_of_its_own(repository: Path) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            given = [(await connection.ask(post(CONTENT, "X-Request-Id: mine"))).header("x-request-id") for _ in "ab"]
            assert given == ["mine", "mine"]
            made = [(await connection.ask(post())).header("x-request-id") for _ in "abc"]
            assert len({one for one in made if one and len(one) == 32}) == 3
            hostile = await connection.ask(post(CONTENT, "X-Request-Id: a b"))
            assert hostile.header("x-request-id") != "a b"

    run(test)


def test_a_bug_is_answered_with_500_and_the_connection_goes_on(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            with monkeypatch.context() as patched:
                patched.setattr(api_v1, "encode_json", lambda _: 1 // 0)
                failed = await connection.ask(post())
            assert (failed.status, failed.json()) == (500, {"error": "internal error"})
            assert connection.way == SHORT
            assert (await connection.ask(post())).status == 200

    run(test)


@pytest.mark.parametrize("make", [post, chunked])
def test_who_reads_no_answers_is_not_read_either(repository: Path, make: Callable[..., bytes]) -> None:
    async def test() -> None:
        async with wired(repository) as service:
            connection = service.connect()
            request = make(json.dumps({"sequences": [[[1, 2, 3]]] * 64}).encode())
            size = len((await connection.ask(request)).body)
            connection.transport.stop_taking()
            enough = 3 * 65_536 // size
            for _ in range(enough):
                connection.send(request)
                await fake_clock.settle()
            assert connection.transport.reads_are_paused
            assert len(connection.transport.written) < 2 * 65_536
            connection.transport.take_all()
            assert {answer.status for answer in await connection.answers(1 + enough)} == {200}
            assert not connection.transport.reads_are_paused

    run(test)
