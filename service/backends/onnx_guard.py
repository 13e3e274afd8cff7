"""Looks through an ONNX file before a runtime opens it: nothing passes but the parts that our own exports are made of.

ONNX Runtime opens the files that a graph names, allocates whatever it asks for, and computes what is constant while it
loads. So a graph may hold no reference to another file, no subgraph or function, no operator but those of the exports,
no tensor larger than its own data, and no whole number over a million.

How the parts are put together is not looked at: a chain of them can still grow without bound. A bundle is trusted as
code is, and this stops what is damaged, foreign or naive, not an author who knows this file.

The file is a protocol buffer. Its messages are those of onnx.proto (github.com/onnx/onnx, onnx/onnx.proto), their
encoding is https://protobuf.dev/programming-guides/encoding/.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

_OPERATORS: Final = frozenset(
    b"Cast Clip Concat Div DynamicQuantizeLSTM Gemm LSTM Less Pad Range Reshape Shape Slice Softmax Split Squeeze Sub "
    b"Transpose Where".split()
)
_INT64: Final = 7
_ELEMENT_BYTES: Final = {1: 4, 3: 1, _INT64: 8}  # float32, int8, int64
_MAX_NUMBER: Final = 2**20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class _Message:
    """A kind of message: the numbers of the fields that it may have, and of those that are messages which kind."""

    name: str
    fields: frozenset[int]
    messages: Mapping[int, "_Message"] = field(default_factory=dict)


_DIMS, _DATA_TYPE, _RAW_DATA = 1, 2, 9
_TENSOR: Final = _Message("tensor", frozenset({_DIMS, _DATA_TYPE, 8, _RAW_DATA, 12}))
_ATTRIBUTE: Final = _Message("attribute", frozenset({1, 2, 3, 4, 7, 8, 9, 13, 20}))  # numbers and texts
_INTEGERS = frozenset({3, 8})  # one, several
_OP_TYPE = 4
_NODE: Final = _Message("node", frozenset({1, 2, 3, _OP_TYPE, 5, 6, 7}), {5: _ATTRIBUTE})
_GRAPH: Final = _Message("graph", frozenset({1, 2, 5, 10, 11, 12, 13}), {1: _NODE, 5: _TENSOR})
_MODEL: Final = _Message("model", frozenset({1, 2, 3, 4, 5, 6, 7, 8, 14}), {7: _GRAPH})


def check_graph(content: bytes) -> None:
    """Raise `ValueError` saying what `content` holds that no export of ours does."""
    _check(memoryview(content), _MODEL)


def _check(message: memoryview, kind: _Message) -> None:
    for number, value in _fields(message):
        if number not in kind.fields:
            raise ValueError(f"a {kind.name} has field {number} of onnx.proto, which is not allowed")
        if kind is _NODE and number == _OP_TYPE and (operator := bytes(_bytes(value))) not in _OPERATORS:
            raise ValueError(f"operator {operator.decode(errors='replace')!r} is not allowed")
        if kind is _ATTRIBUTE and number in _INTEGERS:
            _check_size(_signed(_number(value)))
        if number in kind.messages:
            _check(_bytes(value), kind.messages[number])
    if kind is _TENSOR:
        _check_tensor(message)


def _check_tensor(message: memoryview) -> None:
    dims: list[int] = []
    last: dict[int, int | memoryview] = {}  # of a field that comes twice the last counts
    for number, value in _fields(message):
        last[number] = value
        if number == _DIMS:
            dims.append(_number(value))
    data, data_type = _bytes(last.get(_RAW_DATA, memoryview(b""))), _number(last.get(_DATA_TYPE, 0))
    if data_type not in _ELEMENT_BYTES:
        raise ValueError(f"a tensor of data type {data_type} is not allowed")
    if len(data) != math.prod(dims) * _ELEMENT_BYTES[data_type]:
        raise ValueError(f"a tensor of shape {dims} has {len(data)} bytes of data")
    if data_type == _INT64:
        for number in np.frombuffer(data, np.int64).tolist():
            _check_size(number)


def _check_size(number: int) -> None:
    if abs(number) > _MAX_NUMBER:
        raise ValueError(f"a whole number over {_MAX_NUMBER} is not allowed")


def _signed(number: int) -> int:
    return number - (number >> 63 << 64)


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where there should be bytes")
    return value


def _number(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("bytes stand where there should be a number")
    return value


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field of a message: its number, and its value as a whole number or as bytes."""
    position = 0
    while position < len(message):
        key, position = _read_varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _read_varint(message, position)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            size, position = _read_varint(message, position)
        elif kind in {_FIXED32, _FIXED64}:
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("it is no protocol buffer")
        if size > len(message) - position:
            raise ValueError("it is cut off")
        yield key >> 3, message[position : position + size]
        position += size


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """A whole number of up to 64 bits, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if position >= len(message):
            raise ValueError("it is cut off")
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is no protocol buffer")
