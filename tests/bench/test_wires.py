import json
from collections.abc import Mapping

import numpy as np
import pytest

from bench import wires
from bench.models import TINY
from bench.servers.classifier import from_raw, to_raw
from bench.wires import Wire
from bench.workload import SCENARIOS, Sequences, requests_of


@pytest.fixture
def sequences() -> Sequences:
    return requests_of(SCENARIOS["S3"], TINY)[1]


def parts(request: bytes) -> tuple[str, Mapping[str, str], bytes]:
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    return line, dict(field.split(": ", 1) for field in fields), body


@pytest.mark.parametrize("wire", [wires.SIMPLE, wires.SIMPLE_AT_PREDICT, wires.RAW, wires.V2, wires.V2_BINARY])
def test_a_request_is_whole(wire: Wire, sequences: Sequences) -> None:
    line, headers, body = parts(wire.request("tiny", sequences))
    assert line == f"POST {wire.path.replace('{model}', 'tiny')} HTTP/1.1"
    assert int(headers["Content-Length"]) == len(body)


def test_simple_json_holds_the_very_float32s(sequences: Sequences) -> None:
    _, _, body = parts(wires.SIMPLE.request("tiny", sequences))
    assert np.array_equal(np.array(json.loads(body)["sequences"], np.float32), np.stack(sequences))


def test_simple_json_holds_sequences_of_different_lengths(sequences: Sequences) -> None:
    ragged = (sequences[0], sequences[1][:3])
    _, _, body = parts(wires.SIMPLE.request("tiny", ragged))
    assert [len(sequence) for sequence in json.loads(body)["sequences"]] == [10, 3]


def test_v2_json_holds_the_very_float32s(sequences: Sequences) -> None:
    _, _, body = parts(wires.V2.request("tiny", sequences))
    (tensor,) = json.loads(body)["inputs"]
    assert np.array_equal(np.array(tensor["data"], np.float32).reshape(tensor["shape"]), np.stack(sequences))


def test_v2_binary_follows_its_head(sequences: Sequences) -> None:
    _, headers, body = parts(wires.V2_BINARY.request("tiny", sequences))
    split = int(headers["Inference-Header-Content-Length"])
    head = json.loads(body[:split])
    (tensor,) = head["inputs"]
    assert tensor["parameters"] == {"binary_data_size": len(body) - split}
    assert head["outputs"] == [{"name": "probabilities", "parameters": {"binary_data": True}}]
    assert np.array_equal(np.frombuffer(body[split:], "<f4").reshape(tensor["shape"]), np.stack(sequences))


def test_a_raw_body_is_what_the_servers_read(sequences: Sequences, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_FEATURES", "5")
    _, _, body = parts(wires.RAW.request("tiny", sequences))
    assert np.array_equal(from_raw(body), np.stack(sequences))


PROBABILITIES = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def test_each_answer_is_read_back() -> None:
    simple = json.dumps({"probabilities": PROBABILITIES.tolist()}).encode()
    tensor = {"name": "probabilities", "shape": [2, 2], "datatype": "FP32"}
    v2 = json.dumps({"outputs": [tensor | {"data": PROBABILITIES.ravel().tolist()}]}).encode()
    head = json.dumps({"outputs": [tensor | {"parameters": {"binary_data_size": 16}}]}).encode()
    binary = head + PROBABILITIES.tobytes()
    answers = [
        wires.SIMPLE.decode({}, simple),
        wires.RAW.decode({}, to_raw(PROBABILITIES)),
        wires.V2.decode({}, v2),
        wires.V2_BINARY.decode({"inference-header-content-length": str(len(head))}, binary),
    ]
    assert all(np.array_equal(answer, PROBABILITIES) for answer in answers)
