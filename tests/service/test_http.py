"""The hot path's view of HTTP: bodies, and clients that leave, at the level of ASGI."""

import asyncio

import pytest
from serving import RawClient

from service.errors import ClientGone, DeadlineExceeded, MethodNotAllowed, TooLarge, Unavailable
from service.http import Request, Response, error_response


def make_request(client: RawClient, *headers: tuple[bytes, bytes]) -> Request:
    return Request({"type": "http", "headers": list(headers)}, client.receive)


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


def test_what_is_awaited_is_cancelled_when_the_client_leaves() -> None:
    async def run() -> None:
        client = RawClient([chunk(b"", more=False)])
        work = asyncio.get_running_loop().create_future()

        async def leave() -> None:
            await client.waiting.wait()
            client.gone.set()

        leaving = asyncio.create_task(leave())
        with pytest.raises(ClientGone):
            async with make_request(client).cancelled_when_gone():
                await work
        await leaving
        assert work.cancelled()
        await asyncio.sleep(0)  # a cancellation that was left over would strike here

    asyncio.run(run())


def test_a_client_that_stays_changes_nothing() -> None:
    async def run() -> str:
        client = RawClient([])
        async with make_request(client).cancelled_when_gone():
            await client.waiting.wait()
            answer = "done"
        client.gone.set()
        await asyncio.sleep(0)
        return answer

    assert asyncio.run(run()) == "done"


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def run() -> None:
        client = RawClient([])

        async def serve() -> None:
            async with make_request(client).cancelled_when_gone():
                await asyncio.get_running_loop().create_future()

        serving = asyncio.create_task(serve())
        await client.waiting.wait()
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving

    asyncio.run(run())


def test_an_error_inside_is_not_taken_for_the_clients_leaving() -> None:
    async def run() -> None:
        async with make_request(RawClient([])).cancelled_when_gone():
            raise DeadlineExceeded("too late")

    with pytest.raises(DeadlineExceeded):
        asyncio.run(run())


def test_an_error_becomes_its_status_body_and_headers() -> None:
    json_type = (b"content-type", b"application/json")
    assert error_response(Unavailable('not "ready"\n')) == Response(
        503, b'{"error":"not \\"ready\\"\\n"}', (json_type, (b"retry-after", b"1"))
    )
    assert error_response(MethodNotAllowed("PUT", allowed="GET")).headers == (json_type, (b"allow", b"GET"))
