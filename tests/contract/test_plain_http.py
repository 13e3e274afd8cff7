"""V2's bytes as they are on the wire, well-formed and not, against the real service."""

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from processes import ServiceProcess

Floats = NDArray[np.float32]

INFER = "/v2/models/tiny/infer"
LENGTH = "Inference-Header-Content-Length"


@pytest.fixture
def http(service: ServiceProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url) as client:
        yield client


def described(values: Floats, **fields: Any) -> dict[str, Any]:
    return {"name": "sequences", "datatype": "FP32", "shape": values.shape, **fields}


def with_data(values: Floats, **fields: Any) -> dict[str, Any]:
    return {"inputs": [described(values, data=values.ravel().tolist())], **fields}


def with_binary(values: Floats, size: object, **fields: Any) -> bytes:
    return json.dumps({"inputs": [described(values, parameters={"binary_data_size": size})], **fields}).encode()


def check_error(response: httpx.Response, status: int, said: str) -> None:
    assert response.status_code == status, response.text
    assert list(response.json()) == ["error"]
    assert said in response.json()["error"]


def test_an_answer_in_json_is_what_the_specification_shows(http: httpx.Client, sequences: Floats) -> None:
    body = with_data(sequences, id="7", outputs=[{"name": "logits"}, {"name": "label"}])
    response = http.post(INFER, content=json.dumps(body))  # without a Content-Type
    assert response.headers["content-type"] == "application/json"
    assert LENGTH not in response.headers
    assert "server-timing" in response.headers
    answer = response.json()
    assert [answer[key] for key in ("model_name", "model_version", "id")] == ["tiny", "1", "7"]
    logits, label = answer["outputs"]
    assert (logits["datatype"], logits["shape"], len(logits["data"])) == ("FP32", [2, 3], 6)
    assert (label["datatype"], label["shape"], len(label["data"])) == ("BYTES", [2], 2)


def test_json_and_binary_can_be_mixed_both_ways(http: httpx.Client, sequences: Floats) -> None:
    blob = sequences.tobytes()
    lengths = {"name": "lengths", "datatype": "INT64", "shape": [2], "data": [5, 4]}
    inputs = [described(sequences, parameters={"binary_data_size": len(blob)}), lengths]
    outputs = [{"name": "logits"}, {"name": "probabilities", "parameters": {"binary_data": True}}]
    header = json.dumps({"inputs": inputs, "outputs": outputs}).encode()
    response = http.post(INFER, content=header + blob, headers={LENGTH: str(len(header))})
    assert response.headers["content-type"] == "application/octet-stream"
    length = int(response.headers[LENGTH])
    logits, probabilities = json.loads(response.content[:length])["outputs"]
    assert len(logits["data"]) == 6
    assert probabilities["parameters"] == {"binary_data_size": 24}
    values = np.frombuffer(response.content[length:], np.float32).reshape(2, 3)
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-6)


def test_a_flag_of_an_output_goes_before_that_of_the_request(http: httpx.Client, sequences: Floats) -> None:
    outputs = [{"name": "logits", "parameters": {"binary_data": False}}, {"name": "last_hidden"}]
    body = with_data(sequences, outputs=outputs, parameters={"binary_data_output": True})
    response = http.post(INFER, json=body)
    logits, last_hidden = json.loads(response.content[: int(response.headers[LENGTH])])["outputs"]
    assert "data" in logits
    assert "data" not in last_hidden


def test_a_raw_binary_request_is_one_sequence(http: httpx.Client, sequences: Floats) -> None:
    response = http.post(INFER, content=sequences[0].tobytes(), headers={LENGTH: "0"})
    length = int(response.headers[LENGTH])
    expected = http.post(INFER, json=with_data(sequences[:1])).json()["outputs"][0]["data"]
    np.testing.assert_allclose(np.frombuffer(response.content[length : length + 12], np.float32), expected, atol=1e-6)
    check_error(http.post(INFER, content=b"12345", headers={LENGTH: "0"}), 400, "5 bytes")
    check_error(http.post(INFER, content=b"", headers={LENGTH: "0"}), 400, "neither of them 0")


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "9" * 30, "9" * 5000])
def test_a_header_length_that_lies_is_refused(http: httpx.Client, sequences: Floats, length: str) -> None:
    header = with_binary(sequences, sequences.nbytes)
    response = http.post(INFER, content=header + sequences.tobytes(), headers={LENGTH: length})
    check_error(response, 400, LENGTH)


@pytest.mark.parametrize("size", [0, 119, 121, -1, 2**40, 2**70, 1.5, "120", None, True])
def test_a_binary_size_that_lies_is_refused(http: httpx.Client, sequences: Floats, size: object) -> None:
    header = with_binary(sequences, size)
    response = http.post(INFER, content=header + sequences.tobytes(), headers={LENGTH: str(len(header))})
    check_error(response, 400, "'sequences'")


@pytest.mark.parametrize("more", [b"x", bytes(1000)])
def test_bytes_left_over_are_refused(http: httpx.Client, sequences: Floats, more: bytes) -> None:
    header = with_binary(sequences, sequences.nbytes)
    response = http.post(INFER, content=header + sequences.tobytes() + more, headers={LENGTH: str(len(header))})
    check_error(response, 400, "left over")


@pytest.mark.parametrize("shape", [[1] * 100, [0, 2**62, 2**62], [2**70, 0]], ids=["deep", "overflow", "huge"])
def test_an_impossible_shape_is_refused(http: httpx.Client, shape: list[int]) -> None:
    data = [1.0] if 0 not in shape else []
    body = {"inputs": [{"name": "sequences", "datatype": "FP32", "shape": shape, "data": data}]}
    check_error(http.post(INFER, json=body), 400, "'sequences'")


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_what_decompresses_to_too_much_is_refused_early(http: httpx.Client, encoding: str, compress: Any) -> None:
    bomb = compress(bytes(200 * 2**20))
    assert len(bomb) < 300_000
    check_error(http.post(INFER, content=bomb, headers={"Content-Encoding": encoding}), 413, "once decompressed")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("body", [b"", b"{}", gzip.compress(b"{}", mtime=0)[:-3], zlib.compress(b"{}") + b"more"])
def test_what_is_not_compressed_as_it_says_is_refused(http: httpx.Client, encoding: str, body: bytes) -> None:
    check_error(http.post(INFER, content=body, headers={"Content-Encoding": encoding}), 400, "the ")


def test_an_unknown_encoding_is_told_the_known_ones(http: httpx.Client) -> None:
    response = http.post(INFER, content=b"{}", headers={"Content-Encoding": "br"})
    check_error(response, 501, "'br', allowed are gzip and deflate")
    assert response.headers["accept-encoding"] == "gzip, deflate"


def test_only_what_asks_for_one_encoding_is_answered_in_it(http: httpx.Client) -> None:
    body = with_data(np.ones((1, 500, 3), np.float32), outputs=[{"name": "hidden_states"}])
    for accepted, encoding in (("gzip", "gzip"), ("deflate", "deflate"), ("gzip, deflate", None), ("br", None)):
        response = http.post(INFER, json=body, headers={"Accept-Encoding": accepted})
        assert response.headers.get("content-encoding") == encoding
        assert len(response.json()["outputs"][0]["data"]) == 2000
    for path in ("/v2", "/v2/models/tiny", "/v2/models/tiny/config"):
        assert "content-encoding" not in http.get(path, headers={"Accept-Encoding": "gzip"}).headers


def test_outputs_that_padding_makes_huge_are_refused(http: httpx.Client) -> None:
    batch, steps = 1000, 1400
    sequences = np.zeros((batch, steps, 3), np.float16)
    lengths = {"name": "lengths", "datatype": "INT64", "shape": [batch], "data": [1] * batch}
    entry = {"name": "sequences", "datatype": "FP16", "shape": sequences.shape}
    inputs = [entry | {"parameters": {"binary_data_size": sequences.nbytes}}, lengths]
    header = json.dumps({"inputs": inputs, "outputs": [{"name": "hidden_states"}]}).encode()
    response = http.post(INFER, content=header + sequences.tobytes(), headers={LENGTH: str(len(header))})
    check_error(response, 413, "5600000 values, at most 4000000")


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/repository/models/tiny/load", "/v2/logging"])
def test_bodies_of_other_routes_are_read_without_a_content_type(http: httpx.Client, path: str) -> None:
    for body in (b"", b" ", b"{}"):
        assert http.post(path, content=body).status_code == 200
    check_error(http.post(path, content=b"{"), 400, "malformed JSON")
    check_error(http.post(path, content=b"[" * 10_000), 400, "")
    check_error(http.post(path, content=b"[]"), 400, "must be empty or a JSON object")
    check_error(http.post(path, content=bytes(70_000)), 413, "more than 65536 bytes")


def test_the_index_can_be_asked_for_what_is_ready(http: httpx.Client) -> None:
    http.post("/v2/repository/models/both/unload")
    every, ready = (http.post("/v2/repository/index", json={"ready": only}).json() for only in (False, True))
    http.post("/v2/repository/models/both/load")
    assert {one["name"] for one in every} - {one["name"] for one in ready} == {"both"}
    check_error(http.post("/v2/repository/index", json={"ready": 1}), 400, "true or false")


@pytest.mark.parametrize("path", ["/v2/nothing", "/v2/", "/v2/models/tiny/generate", "/v2/models/tiny/infer/"])
def test_other_paths_are_not_found(http: httpx.Client, path: str) -> None:
    check_error(http.post(path, json={}), 404, "nothing is served")


def test_other_methods_are_not_allowed(http: httpx.Client) -> None:
    for path, allowed in ((INFER, "POST"), ("/v2/models/tiny", "GET, HEAD"), ("/v2/repository/index", "POST")):
        response = http.delete(path)
        check_error(response, 405, f"allowed: {allowed}")
        assert response.headers["allow"] == allowed
