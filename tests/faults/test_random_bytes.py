"""Random bytes, most of them nearly right, through every decoder and the socket: a refusal, or a right answer."""

import gzip
import random
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx
import numpy as np
import pytest
from factories import make_bundle
from processes import IS_SOAK, ServiceProcess, running_service

from model.bundle import ONNX, Bundle
from service.backends.onnx_guard import check_graph
from service.compression import decompress
from service.errors import InvalidRequest, ServiceError
from service.open_inference import InferDecoder
from service.tensors import PredictDecoder, Sequences, _decode_slowly

SEED = time.time_ns() if IS_SOAK else 0
CODEC_S, SOCKET_S = (600, 300) if IS_SOAK else (2, 4)

PREDICT = b'{"sequences": [[[0.5, -1.25e2], [3, 4]], [[5, 6]]], "trace": "layers"}'
TENSOR = b'{"name": "sequences", "datatype": "FP32", "shape": [1, 2, 2], '
OUTPUT = b'{"name": "probabilities", "parameters": {"binary_data": true}}'
INFER = b'{"id": "a", "parameters": {"priority": 1}, "inputs": [%b"data": [1, 2.5, [3, 4]]}], "outputs": [%b]}' % (
    TENSOR,
    OUTPUT,
)
BINARY = b'{"inputs": [%b"parameters": {"binary_data_size": 16}}]}' % TENSOR
TOKENS = (
    b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"\\u0000", b"\\ud800", b"null", b"true", b"-0", b"1e999",
    b"1e-999", b"NaN", b"9" * 400, b"[[", b"]]", b"[]", b"{}", b'"sequences"', b'"data"', b'"shape"', b"\xff",
    b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x00", b" ", b"\r\n", b"\r\n\r\n", b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n", b"0\r\n\r\n", b"-1",
    b"4294967296", b"9223372036854775808",
)  # fmt: skip


def mutate(rng: random.Random, content: bytes) -> bytes:
    """`content` with up to four faults: bits, spans that are gone or come again, tokens where there should be none."""
    for _ in range(rng.randrange(5)):
        start, stop = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        match rng.randrange(5):
            case 0:
                content = content[:start] + bytes([rng.randrange(256)]) + content[start + 1 :]
            case 1:
                content = content[:start] + content[min(stop, start + 20) :]
            case 2:
                content = content[:stop] + content[start:]
            case 3:
                content = content[:start] + rng.choice(TOKENS) + content[start:]
            case _:
                content = content[:start] + rng.choice(TOKENS) * rng.randrange(1, 30) + content[stop:]
    return content


def attempts(duration_s: float) -> Iterator[random.Random]:
    """A generator of random numbers for each attempt. What a failed one sent is in the traceback."""
    end, seed = time.monotonic() + duration_s, SEED
    while time.monotonic() < end:
        seed += 1
        yield random.Random(seed)
    print(f"\n{seed - SEED} attempts", end=" ")


@dataclass(frozen=True)
class Codec:
    """Something that reads what clients or publishers send, and a right example of that."""

    read: Callable[[bytes], object]
    example: bytes


def read_predict(body: bytes) -> None:
    """By both ways of reading it: they agree."""
    outcomes = []
    for read in (
        lambda: PredictDecoder().decode(body, input_size=2, max_rows=999),
        lambda: _decode_slowly(body, 2, 999),
    ):
        try:
            found = read()
        except InvalidRequest as error:
            outcomes.append(str(error))
        else:
            outcomes.append((found.trace, found.sequences.lengths.tolist(), found.sequences.values.tolist()))
            check_values(found.sequences)
    assert outcomes[0] == outcomes[1]


def check_values(sequences: Sequences) -> None:
    assert sequences.lengths.sum() == len(sequences.values)
    assert sequences.lengths.min() > 0
    assert np.isfinite(sequences.values).all()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("random"), "tiny", input_size=2)


def test_no_decoder_is_broken_by_any_bytes(bundle: Bundle) -> None:
    codecs = [
        Codec(read_predict, PREDICT),
        Codec(lambda body: InferDecoder().decode(body, header_length=None, plan=lambda it: it), INFER),
        Codec(
            lambda body: InferDecoder().decode(body, header_length=len(BINARY), plan=lambda it: it), BINARY + bytes(16)
        ),
        Codec(lambda body: decompress(body, b"gzip", max_bytes=1000), gzip.compress(PREDICT * 10)),
        Codec(check_graph, bundle.read(ONNX)),
    ]
    for rng in attempts(CODEC_S):
        codec = rng.choice(codecs)
        try:
            codec.read(mutate(rng, codec.example))
        except (ServiceError, ValueError) as error:
            assert isinstance(error, ServiceError) or codec.read is check_graph, repr(error)  # noqa: PT017
            assert str(error)  # noqa: PT017


@pytest.fixture(scope="module")
def served(bundle: Bundle) -> Iterator[ServiceProcess]:
    with running_service(bundle.folder.parent.parent) as process:
        process.wait_until("/health/ready", 200)
        yield process


def request(path: bytes, body: bytes, *lines: bytes) -> bytes:
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join([b"POST %b HTTP/1.1" % path, b"Host: x", *lines, length, b"", body])


def test_no_request_of_random_bytes_is_a_bug_or_hangs(served: ServiceProcess) -> None:
    port = served.port
    wholes = [
        request(b"/v1/predict", PREDICT),
        request(b"/v2/models/tiny/infer", INFER),
        request(b"/v2/models/tiny/infer", BINARY + bytes(16), b"Inference-Header-Content-Length: %d" % len(BINARY)),
        request(b"/v1/shapes", b'{"input_size": 2, "hidden_size": 3}'),
        request(b"/v2/repository/index", b'{"ready": true}'),
        b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n28\r\n%b\r\n0\r\n\r\n"
        % PREDICT[:40],
    ]
    statuses = set()
    for rng in attempts(SOCKET_S):
        content = b"".join(mutate(rng, rng.choice(wholes)) for _ in range(rng.randrange(1, 4)))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
            connection.sendall(content)
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while more := connection.recv(2**16):
                answer += more
        statuses |= {line[9:12] for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")}
        assert not {status for status in statuses if status.startswith(b"5") and status != b"501"}, content
    assert {b"200", b"400"} <= statuses
    assert httpx.get(f"{served.url}/health/ready").status_code == 200
    bugs = [number for number, line in enumerate(served.log) if "Traceback" in line]
    assert not bugs, "\n".join(served.log[bugs[0] - 1 : bugs[0] + 90])
