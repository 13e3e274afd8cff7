import json
import struct
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from service.binary_tensors import DATATYPES, Tensor, from_bytes, to_bytes
from service.errors import InvalidRequest
from service.open_inference import (
    InferDecoder,
    RequestedOutput,
    encode_response,
)

NUMPY = {
    "BOOL": "?", "UINT8": "u1", "UINT16": "<u2", "UINT32": "<u4", "UINT64": "<u8", "INT8": "i1", "INT16": "<i2",
    "INT32": "<i4", "INT64": "<i8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip
SHAPES = npst.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    """A tensor of any datatype and shape, with any values that its datatype holds."""
    datatype = draw(st.sampled_from(DATATYPES))
    shape = draw(SHAPES)
    if datatype == "BYTES":
        values = np.empty(shape, object)
        for index in np.ndindex(*shape):
            values[index] = draw(st.binary(max_size=9))
    elif datatype == "BF16":
        bits = draw(npst.arrays("<u2", shape))
        values = (bits.astype("<u4") << 16).view("<f4")
    else:
        values = draw(npst.arrays(NUMPY[datatype], shape))
    return Tensor("x", datatype, values)


def body_of(*inputs: dict[str, Any], blobs: bytes = b"", **fields: Any) -> tuple[bytes, int]:
    header = json.dumps({"inputs": inputs, **fields}).encode()
    return header + blobs, len(header)


def binary_input(size: object, shape: object = (2,), datatype: str = "FP32", name: str = "x") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def decode(body: bytes, header_length: int | None = None) -> Any:
    description, inputs = InferDecoder().decode(body, header_length=header_length, plan=lambda it: it)
    return SimpleNamespace(description=description, inputs=inputs)


def same(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> bool:
    if one.dtype == object:
        return one.shape == other.shape and bool((one == other).all())
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")  # a cast would warn of a signalling NaN


@settings(max_examples=400)
@given(tensors())
def test_binary_form_and_back_is_the_same_tensor(tensor: Tensor) -> None:
    blob = to_bytes(tensor)
    back = from_bytes("x", tensor.datatype, tensor.values.shape, memoryview(blob))
    assert same(back.values, tensor.values)
    if tensor.datatype != "BF16" or not np.isnan(tensor.values).any():  # a NaN's payload may turn quiet
        assert to_bytes(back) == blob


@settings(max_examples=400)
@given(tensors(), st.binary(min_size=1, max_size=5))
def test_left_over_bytes_are_refused(tensor: Tensor, more: bytes) -> None:
    with pytest.raises(InvalidRequest, match="'x'"):
        from_bytes("x", tensor.datatype, tensor.values.shape, memoryview(to_bytes(tensor) + more))


@settings(max_examples=400)
@given(tensors().filter(lambda tensor: tensor.values.size > 0), st.data())
def test_truncated_bytes_are_refused(tensor: Tensor, data: st.DataObject) -> None:
    blob = to_bytes(tensor)
    cut = data.draw(st.integers(0, len(blob) - 1))
    with pytest.raises(InvalidRequest, match="'x'"):
        from_bytes("x", tensor.datatype, tensor.values.shape, memoryview(blob)[:cut])


@settings(max_examples=400)
@given(st.lists(tensors(), min_size=1, max_size=3), st.lists(st.booleans(), min_size=3, max_size=3))
def test_requests_mix_json_and_binary_inputs(inputs: list[Tensor], as_binary: list[bool]) -> None:
    described, blobs = [], b""
    for number, (tensor, binary) in enumerate(zip(inputs, as_binary, strict=False)):
        entry = {"name": f"x{number}", "datatype": tensor.datatype, "shape": tensor.values.shape}
        finite = tensor.datatype == "BYTES" or np.isfinite(tensor.values.astype(float)).all()
        if binary or tensor.datatype in {"FP16", "BF16"} or not finite or tensor.datatype == "BYTES":
            blob = to_bytes(tensor)
            described.append(entry | {"parameters": {"binary_data_size": len(blob)}})
            blobs += blob
        else:
            described.append(entry | {"data": tensor.values.tolist()})
    body, header_length = body_of(*described, blobs=blobs)
    decoded = decode(body, header_length)
    for number, tensor in enumerate(inputs):
        back = decoded.inputs[f"x{number}"]
        assert back.datatype == tensor.datatype
        assert same(back.values, tensor.values)


@settings(max_examples=400)
@given(st.integers(-(2**70), 2**70).filter(lambda size: size != 8))
def test_lying_sizes_are_refused(size: int) -> None:
    body, header_length = body_of(binary_input(size), blobs=bytes(8))
    with pytest.raises(InvalidRequest):
        decode(body, header_length)


@settings(max_examples=400)
@given(st.integers(-100, 1000))
def test_a_lying_header_length_is_refused(header_length: int) -> None:
    body, right = body_of(binary_input(8), blobs=bytes(8))
    if header_length != right:
        with pytest.raises(InvalidRequest):
            decode(body, header_length)


@settings(max_examples=400)
@given(st.binary(max_size=200))
def test_arbitrary_bytes_raise_nothing_but_invalid_request(body: bytes) -> None:
    decoder = InferDecoder()
    for header_length in (None, len(body) // 2):
        with pytest.raises(InvalidRequest):
            decoder.decode(body, header_length=header_length, plan=lambda it: it)


@settings(max_examples=400)
@given(
    st.dictionaries(
        st.sampled_from(["id", "inputs", "outputs", "parameters"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["name", "shape", "datatype", "data", "parameters", "binary_data_size"]),
                    inner,
                    max_size=4,
                )
            ),
            max_leaves=12,
        ),
    )
)
def test_arbitrary_json_is_decoded_or_refused(document: dict[str, Any]) -> None:
    try:
        decode(json.dumps(document).encode())
    except InvalidRequest:
        return


@pytest.mark.parametrize("header_length", [0, -1])
def test_a_request_needs_a_json_part(header_length: int) -> None:
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length"):
        decode(b"{}", header_length)


def test_nested_and_flat_json_data_are_the_same() -> None:
    shape = {"name": "x", "datatype": "FP32", "shape": [2, 2]}
    nested, _ = body_of(shape | {"data": [[1, 2], [3, 4.5]]})
    flat, _ = body_of(shape | {"data": [1, 2, 3, 4.5]})
    np.testing.assert_array_equal(decode(nested).inputs["x"].values, [[1, 2], [3, 4.5]])
    np.testing.assert_array_equal(decode(flat).inputs["x"].values, [[1, 2], [3, 4.5]])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}, "1 values"),
        ({"name": "x", "datatype": "FP32", "shape": [1], "data": ["a"]}, "not a FP32"),
        ({"name": "x", "datatype": "FP32", "shape": [1], "data": [None]}, "not a FP32"),
        ({"name": "x", "datatype": "UINT8", "shape": [1], "data": [256]}, "out of the range"),
        ({"name": "x", "datatype": "INT64", "shape": [1], "data": [1.5]}, "not a INT64"),
        ({"name": "x", "datatype": "BOOL", "shape": [1], "data": [1]}, "not a BOOL"),
        ({"name": "x", "datatype": "FP16", "shape": [1], "data": [1]}, "no JSON form"),
        ({"name": "x", "datatype": "FLOAT", "shape": [1], "data": [1]}, "datatype"),
        ({"name": "x", "datatype": "FP32", "shape": [-1], "data": [1]}, "negative"),
        ({"name": "x", "datatype": "FP32", "shape": "1", "data": [1]}, "shape"),
        ({"name": "x", "datatype": "FP32", "shape": [True], "data": [1]}, "shape"),
        ({"name": 1, "datatype": "FP32", "shape": [1], "data": [1]}, "name"),
        ({"name": "x", "datatype": "FP32", "shape": [1]}, "needs either"),
        ({"name": "x", "datatype": "FP32", "shape": [1], "data": 1}, "must be a list"),
    ],
)
def test_a_wrong_input_is_refused_with_its_name(entry: dict[str, Any], said: str) -> None:
    body, _ = body_of(entry)
    with pytest.raises(InvalidRequest, match=said):
        decode(body)


def test_the_same_input_twice_is_refused() -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    with pytest.raises(InvalidRequest, match="twice"):
        decode(body_of(entry, entry)[0])


INPUT = '{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]%s}'


@pytest.mark.parametrize(
    "body",
    [
        '{"inputs": [%s], "inputs": []}' % (INPUT % ""),
        '{"inputs": [%s]}' % (INPUT % ', "data": [2]'),
        '{"inputs": [%s], "parameters": {"priority": 1, "priority": 2}}' % (INPUT % ""),
        '{"inputs": [%s], "outputs": [{"name": "a", "name": "b"}]}' % (INPUT % ""),
        '{"inputs": [%s], "id": "a", "\\u0069d": "b"}' % (INPUT % ', "more": 1e999'),
    ],
)
def test_a_key_that_comes_twice_is_refused_and_not_one_of_its_values_chosen(body: str) -> None:
    with pytest.raises(InvalidRequest, match="a key appears twice"):
        decode(body.encode())


def test_data_nested_a_hundred_thousand_deep_is_refused() -> None:
    deep = b"[" * 100_000 + b"]" * 100_000
    body = b'{"inputs":[{"name":"x","datatype":"INT8","shape":[0],"data":' + deep + b"}]}"
    with pytest.raises(InvalidRequest, match="deep"):
        decode(body)


def test_outputs_say_how_they_are_wanted() -> None:
    entry = {"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}
    wanted = [
        {"name": "a"},
        {"name": "b", "parameters": {"binary_data": True}},
        {"name": "c", "parameters": {"binary_data": False, "classification": 2}},
    ]
    body, _ = body_of(entry, outputs=wanted, id="7", parameters={"timeout": 5})
    decoded = decode(body)
    assert decoded.description.outputs == (
        RequestedOutput("a"),
        RequestedOutput("b", True),
        RequestedOutput("c", False, 2),
    )
    assert (decoded.description.id, decoded.description.parameters) == ("7", {"timeout": 5})


def test_an_answer_is_json_followed_by_its_binary_outputs_in_order() -> None:
    first = Tensor("first", "FP32", np.array([[1.5, 2.0]], "f4"))
    second = Tensor("second", "BYTES", np.array([b"yes"], object))
    third = Tensor("third", "INT64", np.array([3], "i8"))
    body, header_length = encode_response(
        model="m", version="1", request_id="r", outputs=[(first, True), (second, True), (third, False)]
    )
    assert header_length is not None
    header = json.loads(body[:header_length])
    assert [output["name"] for output in header["outputs"]] == ["first", "second", "third"]
    assert header["outputs"][0] == {
        "name": "first", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8},
    }  # fmt: skip
    assert header["outputs"][2]["data"] == [3]
    assert body[header_length:] == struct.pack("<ff", 1.5, 2.0) + struct.pack("<I", 3) + b"yes"


def test_an_answer_without_binary_outputs_is_json_alone() -> None:
    values = np.array([[[1.5], [2.0]]], "f4")
    body, header_length = encode_response(
        model="m", version="1", request_id="r", outputs=[(Tensor("x", "FP32", values), False)]
    )
    assert header_length is None
    assert json.loads(body)["outputs"][0]["data"] == [1.5, 2.0]
