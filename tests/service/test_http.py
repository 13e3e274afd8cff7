"""The hot path's view of HTTP: bodies, and clients that leave, at the level of ASGI."""

import asyncio

import pytest
from serving import RawClient

from service.errors import ClientGone, MethodNotAllowed, TooLarge, Unavailable
from service.http import AsgiRequest, Response, error_response


def make_request(client: RawClient, *headers: tuple[bytes, bytes]) -> AsgiRequest:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(headers)}
    return AsgiRequest(scope, client.receive)


def chunk(body: bytes, *, more: bool) -> dict[str, object]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_the_first_of_a_header_that_comes_twice_counts() -> None:
    request = make_request(RawClient([]), (b"a", b"1"), (b"b", b"2"), (b"b", b"3"))
    assert (request.header(b"b"), request.header(b"c")) == (b"2", None)


@pytest.mark.parametrize("chunks", [[b"abc"], [b"a", b"", b"bc"], [b"", b"abc", b""]])
def test_a_body_is_the_sum_of_its_chunks_up_to_the_limit(chunks: list[bytes]) -> None:
    messages = [chunk(one, more=number < len(chunks) - 1) for number, one in enumerate(chunks)]
    assert asyncio.run(make_request(RawClient(messages)).body(max_bytes=3)) == b"abc"
    with pytest.raises(TooLarge, match="at most"):
        asyncio.run(make_request(RawClient(messages)).body(max_bytes=2))


def test_a_message_without_a_body_is_an_empty_one() -> None:
    assert asyncio.run(make_request(RawClient([{"type": "http.request"}])).body(max_bytes=3)) == b""


@pytest.mark.parametrize("announced", [b"1000000000", b"11"])
def test_an_announced_length_over_the_limit_is_refused_unread(announced: bytes) -> None:
    client = RawClient([])
    with pytest.raises(TooLarge, match=f"body of {announced.decode()} bytes, at most 10"):
        asyncio.run(make_request(client, (b"content-length", announced)).body(max_bytes=10))


def test_leaving_within_the_body_is_told_apart_from_its_end() -> None:
    client = RawClient([chunk(b"a", more=True)])
    client.gone.set()
    with pytest.raises(ClientGone):
        asyncio.run(make_request(client).body(max_bytes=10))


def test_the_task_that_answers_is_cancelled_when_the_client_leaves() -> None:
    async def run() -> None:
        client = RawClient([chunk(b"", more=False)])
        request = make_request(client)

        async def answer() -> None:
            await request.body(max_bytes=10)
            await asyncio.get_running_loop().create_future()

        answering = asyncio.create_task(answer())
        await client.waiting.wait()
        assert not request.gone
        client.gone.set()
        with pytest.raises(asyncio.CancelledError):
            await answering
        assert request.gone

    asyncio.run(run())


def test_nobody_is_cancelled_once_the_answer_is_there() -> None:
    async def run() -> str:
        client = RawClient([chunk(b"", more=False)])
        request = make_request(client)
        await request.body(max_bytes=10)
        await client.waiting.wait()
        request.stop_watching()
        client.gone.set()
        await asyncio.sleep(0)
        return "done"

    assert asyncio.run(run()) == "done"


def test_an_error_becomes_its_status_body_and_headers() -> None:
    json_type = (b"content-type", b"application/json")
    assert error_response(Unavailable('not "ready"\n')) == Response(
        503, b'{"error":"not \\"ready\\"\\n"}', (json_type, (b"retry-after", b"1"))
    )
    assert error_response(MethodNotAllowed("PUT", allowed="GET")).headers == (json_type, (b"allow", b"GET"))
