"""Whatever a client sends ends in the documented refusal, soon and in bounded memory, and its neighbours are served."""

import gzip
import http.client
import json
import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from itertools import chain, repeat

import httpx
import pytest
from factories import make_bundle
from processes import ServiceProcess, running_service

MIB, GIB = 2**20, 2**30
LIMIT_S = 20  # until a refusal, on a machine that others use too: most come within milliseconds
# What a body of 16 MiB, the largest that is taken, may cost a worker while it is looked for what is wrong with it.
LIMIT_MB = 600

PREDICT, INFER = "/v1/predict", "/v2/models/tiny/infer"
POSTS = (PREDICT, INFER, "/v1/shapes", "/v2/repository/index", "/v2/repository/models/tiny/load")
GOOD = b'{"sequences": [[[0.1, 0.2], [0.3, 0.4]]]}'

Packets = Iterable[bytes]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    repository = tmp_path_factory.mktemp("hostile")
    make_bundle(repository, "tiny", input_size=2)
    with running_service(repository, "--workers=1") as process:
        process.wait_until("/health/ready", 200)
        yield process


def head(path: str, *lines: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *lines, "", ""]).encode()


def body(path: str, content: bytes, *lines: str) -> Packets:
    return chain([head(path, f"Content-Length: {len(content)}", *lines)], pieces(content))


def pieces(content: bytes) -> Packets:
    return (content[start : start + MIB] for start in range(0, len(content), MIB))


def announced(path: str) -> Packets:
    return chain([head(path, f"Content-Length: {GIB}")], repeat(b" " * MIB, GIB // MIB))


def chunks(path: str, *lines: str) -> Packets:
    return chain([head(path, "Transfer-Encoding: chunked", *lines)], repeat(b"%x\r\n%b\r\n" % (MIB, b" " * MIB)))


def in_chunks(*packets: bytes) -> Packets:
    return chain([head(PREDICT, "Transfer-Encoding: chunked")], packets)


def sequences(content: bytes) -> Packets:
    return body(PREDICT, b'{"sequences": %b}' % content)


def many(one: bytes, count: int = 10**6) -> bytes:
    return b"[%b]" % b",".join([one] * count)


EMPTY_INPUT = b'{"name": "%d", "datatype": "FP32", "shape": [0], "data": []}'
LENGTHS = b'{"name": "lengths", "datatype": "INT64", "shape": [1], "data": %b}'


def tensor(data: bytes, shape: bytes = b"[1, 2, 2]", more: bytes = b"", more_inputs: bytes = b"") -> Packets:
    described = b'{"name": "sequences", "datatype": "FP32", "shape": %b, "data": %b}' % (shape, data)
    inputs = b",".join(filter(None, (described, more_inputs)))
    return body(INFER, b'{"inputs": [%b]%b}' % (inputs, more))


def bomb() -> Packets:
    return body(PREDICT, gzip.compress(bytes(GIB), 1), "Content-Encoding: gzip")


REFUSED_413: dict[str, Callable[[], Packets]] = {
    "a million empty sequences": lambda: sequences(many(b"[]")),
    "a shape of many GiB": lambda: tensor(b"[1]", b"[1099511627776, 1099511627776, 2]"),
    **{f"a GiB announced to {path}": partial(announced, path) for path in POSTS},
    **{f"chunks without end to {path}": partial(chunks, path) for path in POSTS},
    "a gzip bomb": bomb,
    "gzip without end": lambda: chunks(PREDICT, "Content-Encoding: gzip"),
    "a million sequences": lambda: sequences(many(b"[[1,2]]")),
    "a million sequences of which one is faulty": lambda: sequences(b'%b,[["x",2]]]' % many(b"[[1,2]]")[:-1]),
    "a million sequences of which one is large": lambda: sequences(b"%b,[[1e20,2]]]" % many(b"[[1,2]]")[:-1]),
    "a million steps": lambda: sequences(b"[%b]" % many(b"[1,2]")),
}
REFUSED_400: dict[str, Callable[[], Packets]] = {
    "a million empty steps": lambda: sequences(b"[%b]" % many(b"[]")),
    "seven million values of a step": lambda: sequences(b"[[%b]]" % many(b"1", 7 * 10**6)),
    "a million keys": lambda: body(PREDICT, b"{%b}" % b",".join(b'"%d":1' % number for number in range(10**6))),
    "nested 100,000 deep": lambda: sequences(b"[" * 10**5),
    "nested 100,000 deep and closed": lambda: tensor(b"[" * 10**5 + b"]" * 10**5),
    "objects nested 100,000 deep": lambda: body(INFER, b'{"inputs":' * 10**5),
    "a number of a million digits": lambda: sequences(b"[[[%b, 1]]]" % (b"1" * 10**6)),
    "1e999": lambda: sequences(b"[[[1e999, 1]]]"),
    "1e999 over V2": lambda: tensor(b"[1e999, 1, 1, 1]"),
    "NaN": lambda: sequences(b"[[[NaN, 1]]]"),
    "NaN over V2": lambda: tensor(b"[NaN, 1, 1, 1]"),
    "wrong UTF-8": lambda: body(PREDICT, b'{"sequences": [[[1, 1]]], "\xff\xfe": 1}'),
    "wrong UTF-8 over V2": lambda: body(INFER, b'{"id": "\xc3\x28", "inputs": []}'),
    "a key that comes twice": lambda: sequences(b'[[[1, 1]]], "sequences": [[[2, 2]]]'),
    "a key that comes twice over V2": lambda: tensor(b"[1, 1, 1, 1]", more=b', "inputs": []'),
    "200,000 inputs": lambda: tensor(b"[1, 2, 3, 4]", more_inputs=b",".join(map(EMPTY_INPUT.__mod__, range(200_000)))),
    "900,000 outputs": lambda: tensor(b"[1, 2, 3, 4]", more=b', "outputs": ' + many(b'{"name":"a"}', 900_000)),
    "five million empty lengths": lambda: tensor(b"[1, 2, 3, 4]", more_inputs=LENGTHS % many(b"[]", 5 * 10**6)),
    "four million lengths": lambda: tensor(b"[1, 2, 3, 4]", more_inputs=LENGTHS % many(b"1", 4 * 10**6)),
    "a string that is no text": lambda: tensor(b"[1, 2, 3, 4]", more=b', "id": "\\ud800"'),
    "a shape below zero": lambda: tensor(b"[1]", b"[-1, -1, 2]"),
    "a length that is less than the body's": lambda: [head(PREDICT, "Content-Length: 9"), GOOD, b"\r\n\r\n"],
    "a length below zero": lambda: [head(PREDICT, "Content-Length: -1"), GOOD],
    "two lengths": lambda: [head(PREDICT, "Content-Length: 9", f"Content-Length: {len(GOOD)}"), GOOD],
    "a chunk of 2**80 bytes": lambda: in_chunks(b"f" * 20 + b"\r\n"),
    "a chunk without a length": lambda: in_chunks(b"what\r\n"),
    "an extension of a chunk without end": lambda: in_chunks(b"1;", *[b"a" * MIB] * 100),
    "trailers without end": lambda: in_chunks(b"0\r\n", *[b"a: b\r\n" * 10**5] * 100),
    "a path without end": lambda: chain([b"POST /"], repeat(b"a" * MIB)),
    "a header without end": lambda: chain([b"GET / HTTP/1.1\r\nHost: "], repeat(b"a" * MIB)),
    "headers without end": lambda: chain([b"GET / HTTP/1.1\r\n"], repeat(b"a: b\r\n" * 10**5)),
    "empty lines without end": lambda: repeat(b"\r\n" * 10**5),
}
CASES = {**dict.fromkeys(REFUSED_413, 413), **dict.fromkeys(REFUSED_400, 400)}


@pytest.mark.parametrize(("name", "status"), CASES.items(), ids=CASES)
def test_it_is_refused_soon_in_bounded_memory_and_the_next_is_served(
    served: ServiceProcess, name: str, status: int
) -> None:
    packets = (REFUSED_413 | REFUSED_400)[name]()
    served.restart_peak()
    before_mb, start = served.peak_mb(), time.monotonic()
    assert first_status(served.port, packets) == status
    duration_s, growth_mb = time.monotonic() - start, served.peak_mb() - before_mb
    assert (duration_s < LIMIT_S, growth_mb < LIMIT_MB) == (True, True), f"{duration_s:.1f} s, {growth_mb:.0f} MB"
    assert httpx.post(served.url + PREDICT, content=GOOD, timeout=LIMIT_S).status_code == 200


def first_status(port: int, packets: Packets) -> int:
    """Send `packets` until something is answered or the connection ends; return the first answer's status."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as connection:
        answer = b""
        for packet in packets:
            if answer := _send(connection, packet):
                break
        while b"\r\n\r\n" not in answer and (more := connection.recv(MIB)):
            answer += more
    return int(answer.split()[1])


def _send(connection: socket.socket, packet: bytes) -> bytes:
    """Send all of `packet`, unless something is answered before: then return that."""
    unsent = memoryview(packet)
    while unsent:
        readable, writable, _ = select.select([connection], [connection], [], LIMIT_S)
        assert readable or writable, "it neither reads nor answers"
        if readable:
            return connection.recv(MIB)
        unsent = unsent[connection.send(unsent, socket.MSG_DONTWAIT) :]
    return b""


@pytest.mark.parametrize("path", POSTS)
def test_a_client_that_sends_all_of_a_refused_body_before_it_reads_is_told_why(
    served: ServiceProcess, path: str
) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=LIMIT_S)) as client:
        client.request("POST", path, body=bytes(17 * MIB))
        answer = client.getresponse()
        assert (answer.status, answer.getheader("connection")) == (413, "close")
        assert "bytes" in json.load(answer)["error"]


def test_requests_that_are_sent_ahead_of_their_answers_take_no_memory(served: ServiceProcess) -> None:
    served.restart_peak()
    before_mb, deadline = served.peak_mb(), time.monotonic() + 3
    ahead = b"GET /health/live HTTP/1.1\r\n\r\n" * 10_000
    with socket.create_connection(("127.0.0.1", served.port), timeout=1) as connection:
        answers = 0
        while time.monotonic() < deadline:
            readable, writable, _ = select.select([connection], [connection], [], 1)
            if readable:
                answers += connection.recv(MIB).count(b"HTTP/1.1 200")
            if writable:
                connection.send(ahead, socket.MSG_DONTWAIT)
    assert answers > 0
    assert served.peak_mb() - before_mb < 100


def test_what_is_known_of_earlier_requests_stays_small(served: ServiceProcess) -> None:
    """Each has another head, and is refused: more sequences than may wait."""
    served.restart_peak()
    before_mb, rows = served.peak_mb(), 400_000
    for number in range(40):
        described = (
            b'{"name": "sequences", "datatype": "FP32", "shape": [%d, 1, 2], "parameters": {"binary_data_size": %d}}'
        )
        header = b'{"id": "%d", "inputs": [%b], "parameters": {"binary_data_output": true}}' % (
            number,
            described % (rows, 8 * rows),
        )
        answer = httpx.post(
            served.url + INFER,
            content=header + bytes(8 * rows),
            timeout=LIMIT_S,
            headers={"Inference-Header-Content-Length": str(len(header))},
        )
        assert answer.status_code == 413
    assert served.peak_mb() - before_mb < 80
