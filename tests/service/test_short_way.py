"""`service.short_way`: which heads are known again, and how long a request keeps its body."""

from typing import cast

import pytest

from service.edge import Exchange, InferenceApi
from service.short_way import Head, Inference, KnownHeads

MOST_HEADS, MOST_BYTES = 256, 2048
LINE = b"POST /v1/models/tiny/predict HTTP/1.1"


def make_head(lines: int) -> Head:
    return Head(cast("InferenceApi", None), "POST", "/v1/models/tiny/predict", {b"host": b"here"}, lines, 3, True)


def content(*headers: bytes, line: bytes = LINE) -> bytes:
    return b"\r\n".join((line, *headers))


def test_a_head_is_known_by_all_of_its_bytes() -> None:
    heads, head = KnownHeads(), make_head(lines=1)
    heads.add(content(b"host: here"), head)
    assert heads.get(content(b"host: here")) is head
    for other in (b"", LINE, content(b"host: there"), content(b"Host: here"), content(b"host: here", b"")):
        assert heads.get(other) is None


@pytest.mark.parametrize(
    "strange",
    [
        content(b"host: here", line=LINE.replace(b"POST", b"GET")),
        content(b"host: here").replace(b"\r\n", b"\n"),
        content(b"host: here\nx: 1"),
        content(b"host: here", b" folded"),
        content(b"host: " + b"x" * MOST_BYTES),
        b"",
    ],
)
def test_what_is_not_plain_or_is_long_is_not_remembered(strange: bytes) -> None:
    heads = KnownHeads()
    heads.add(strange, make_head(lines=1))
    assert heads.get(strange) is None


def test_a_head_of_just_the_most_bytes_is_remembered() -> None:
    heads, head = KnownHeads(), make_head(lines=1)
    longest = content(b"host: ").ljust(MOST_BYTES, b"x")
    heads.add(longest, head)
    assert heads.get(longest) is head
    heads.add(longest + b"x", head)
    assert heads.get(longest + b"x") is None


def test_all_are_forgotten_when_there_are_too_many() -> None:
    heads, head = KnownHeads(), make_head(lines=1)
    contents = [content(b"x: %d" % number) for number in range(MOST_HEADS + 1)]
    for one in contents[:-1]:
        heads.add(one, head)
    assert all(heads.get(one) is head for one in contents[:-1])
    heads.add(contents[-1], head)
    assert [heads.get(one) for one in contents] == [None] * MOST_HEADS + [head]


@pytest.mark.parametrize("pieces", [[], [b"whole"], [b"in ", b"three ", b"pieces"]])
def test_a_body_is_handed_over_once(pieces: list[bytes]) -> None:
    inference = Inference(make_head(lines=1))
    for piece in pieces:
        inference.feed(piece)
    assert inference.take_body() == b"".join(pieces)
    assert inference.take_body() == b""


def test_an_answered_request_lets_go_of_its_body_and_exchange() -> None:
    inference = Inference(make_head(lines=1))
    inference.feed(b"piece")
    inference.exchange = Exchange(inference, b"id", api="v1")
    inference.complete()
    assert inference.response_complete
    assert inference.exchange is None
    assert inference.take_body() == b""


def test_headers_are_found_by_their_lower_case_name() -> None:
    inference = Inference(make_head(lines=1))
    assert inference.header(b"host") == b"here"
    assert inference.header(b"accept") is None
