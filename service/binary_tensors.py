"""Tensors as V2 knows them: a datatype, values, and their binary form in both directions.

Follows Triton's binary tensor data extension (triton-inference-server/server, extension_binary_data.md).
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidRequest

# Datatype → the little-endian numpy type of its elements. BF16 and BYTES have none of their own.
NUMPY_TYPES: Final = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
DATATYPES: Final = (*NUMPY_TYPES, "BF16", "BYTES")
_LENGTH: Final = struct.Struct("<I")  # before each element of a BYTES tensor


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named tensor. BF16 is held as float32, BYTES as an object array of `bytes`."""

    name: str
    datatype: str
    values: NDArray[Any]


def to_bytes(tensor: Tensor) -> bytes:
    """The binary form of a tensor: little-endian, row-major; BYTES as repeated (uint32 length, bytes)."""
    if tensor.datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(element)) + element for element in tensor.values.ravel())
    if tensor.datatype == "BF16":
        bits = np.ascontiguousarray(tensor.values, "<f4").view("<u4")
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)  # to nearest, ties to even
        return np.where(np.isnan(tensor.values), (bits >> 16) | 0x40, rounded >> 16).astype("<u2").tobytes()
    return tensor.values.astype(NUMPY_TYPES[tensor.datatype], copy=False).tobytes()


def from_bytes(name: str, datatype: str, shape: Sequence[int], blob: memoryview) -> Tensor:
    """A tensor from its binary form; raise `InvalidRequest` unless `blob` holds exactly `shape`'s elements."""
    count = math.prod(shape)
    if datatype == "BYTES":
        values = _split_bytes(name, blob, count)
    else:
        numpy_type = np.dtype("<u2") if datatype == "BF16" else NUMPY_TYPES[datatype]
        if len(blob) != count * numpy_type.itemsize:
            expected = f"{list(shape)} of {datatype} takes {count * numpy_type.itemsize}"
            raise InvalidRequest(f"input {name!r}: {len(blob)} bytes of binary data, {expected}")
        values = np.frombuffer(blob, numpy_type)
        if datatype == "BF16":
            values = (values.astype("<u4") << 16).view("<f4")
        elif datatype == "BOOL" and (values.view("u1") > 1).any():
            raise InvalidRequest(f"input {name!r}: a BOOL is a byte of 0 or 1")
    return Tensor(name, datatype, reshape(name, values, shape))


def _split_bytes(name: str, blob: memoryview, count: int) -> NDArray[Any]:
    if count * _LENGTH.size > len(blob):
        raise InvalidRequest(f"input {name!r}: {len(blob)} bytes of binary data are too few for {count} elements")
    values = np.empty(count, object)
    start = 0
    for i in range(count):
        end = start + _LENGTH.size
        stop = end + _LENGTH.unpack(blob[start:end])[0] if end <= len(blob) else end
        if stop > len(blob):
            raise InvalidRequest(f"input {name!r}: binary data ends within element {i} of {count}")
        values[i] = bytes(blob[end:stop])
        start = stop
    if start != len(blob):
        raise InvalidRequest(f"input {name!r}: {len(blob) - start} bytes of binary data are left over")
    return values


def reshape(name: str, values: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """`values` in `shape`, whose product their number is; raise `InvalidRequest` if numpy has no such shape."""
    try:
        return values.reshape(shape)
    except (ValueError, OverflowError):  # too many axes, or next to a 0 sizes whose product overflows
        raise InvalidRequest(f"input {name!r}: there can be no tensor of shape {list(shape)}") from None
