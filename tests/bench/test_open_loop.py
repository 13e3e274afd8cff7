import asyncio
from asyncio import StreamReader, StreamWriter
from collections import Counter

import numpy as np
import pytest

from bench.open_loop import CONNECTIONS, Outcome, content_length, load, schedule

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def test_constant_arrivals_are_evenly_spaced() -> None:
    due_s = schedule("constant", rate_per_s=200, seconds=2)
    assert len(due_s) == 400
    assert np.allclose(np.diff(due_s), 1 / 200)


def test_poisson_arrivals_have_exponential_gaps_of_the_rates_mean() -> None:
    gaps = np.diff(schedule("poisson", rate_per_s=1000, seconds=50))
    assert gaps.mean() == pytest.approx(1 / 1000, rel=0.02)
    assert gaps.std() == pytest.approx(1 / 1000, rel=0.03)  # an exponential's deviation is its mean
    assert (gaps >= 0).all()


def test_arrivals_end_in_time() -> None:
    assert schedule("poisson", rate_per_s=100, seconds=3).max() < 3


@pytest.mark.parametrize(
    ("head", "length"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 17", 17),
        (b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length:5\r\nC: d", 5),
        (b"HTTP/1.1 204 No Content\r\nA: b", 0),
    ],
)
def test_the_length_of_an_answer(head: bytes, length: int) -> None:
    assert content_length(head) == length


def run_against(
    pieces: list[bytes],
    *,
    count: int = 200,
    pause_s: float = 0.0,
    close: bool = False,
    requests: Counter[StreamWriter] | None = None,
) -> Outcome:
    """Send `count` requests to a server that answers each with `pieces`, one write each, and counts its `requests`."""

    connections = set()
    requests = Counter() if requests is None else requests

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        connections.add(asyncio.current_task())
        while await reader.read(1000):
            requests[writer] += 1
            for piece in pieces:
                await asyncio.sleep(pause_s)
                writer.write(piece)
                await writer.drain()
            if close:
                break
        writer.close()
        await writer.wait_closed()

    async def both() -> Outcome:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            outcome = await load(port, [b"GET / HTTP/1.1\r\n\r\n"], np.linspace(0, 0.1, count))
            await asyncio.gather(*filter(None, connections))
            return outcome

    return asyncio.run(both())


def test_every_request_is_answered_once() -> None:
    outcome = run_against([ANSWER])
    assert (outcome.answers, outcome.errors) == (200, 0)
    assert 0 < outcome.p50_ms <= outcome.p99_ms


def test_connections_take_turns() -> None:
    requests: Counter[StreamWriter] = Counter()
    assert run_against([ANSWER], count=2 * CONNECTIONS, requests=requests).answers == 2 * CONNECTIONS
    assert list(requests.values()) == [2] * CONNECTIONS


def test_an_answer_may_come_in_pieces() -> None:
    outcome = run_against([ANSWER[:20], ANSWER[20:-1], ANSWER[-1:]], count=20)
    assert (outcome.answers, outcome.errors) == (20, 0)


def test_a_request_that_finds_no_free_connection_waits_with_its_clock_running() -> None:
    pause_s = 0.2
    outcome = run_against([ANSWER], count=2 * CONNECTIONS, pause_s=pause_s)
    assert outcome.answers == 2 * CONNECTIONS
    assert outcome.p99_ms >= 1000 * (2 * pause_s - 0.1)  # its own answer's time, and most of the one before


def test_bad_statuses_are_errors_and_have_no_latency() -> None:
    outcome = run_against([ANSWER.replace(b"200 OK", b"503 Busy")], count=10)
    assert (outcome.answers, outcome.errors) == (0, 10)
    assert np.isnan(outcome.p50_ms)


def test_a_connection_that_closes_without_an_answer_is_an_error() -> None:
    outcome = run_against([b"HTTP/1.1 200 OK\r\n"], count=10, close=True)
    assert (outcome.answers, outcome.errors) == (0, 10)
