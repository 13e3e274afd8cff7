"""The Open Inference Protocol's requests and answers as bytes: JSON, binary tensors behind it, or both mixed.

Model-free: names, shapes and datatypes in, arrays out, and back. What a model makes of them is `service.api_v2`'s.
Follows the specification (kserve/open-inference-protocol, inference_rest.md) and Triton's binary tensor data extension
(triton-inference-server/server, extension_binary_data.md).
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

import numpy as np
import simdjson
from numpy.typing import NDArray

from service.binary_tensors import DATATYPES, NUMPY_TYPES, Tensor, from_bytes, reshape, to_bytes
from service.errors import InvalidRequest, ServiceError
from service.tensors import encode_json, unique

BINARY_HEADER: Final = b"inference-header-content-length"

Parameters = dict[str, str | int | float | bool]

_Plan = TypeVar("_Plan")

_MAX_TENSORS: Final = 1024  # inputs, or outputs: more than any network of use has layers to show


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output by name. `binary`: None leaves it to the request; `classes`: the top so many as text, 0 for none."""

    name: str
    binary: bool | None = None
    classes: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class DescribedInput:
    """An input as the JSON has it: its elements, unread, are `data`, or `size` bytes of binary data behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: int | None
    data: Any = None


@dataclass(frozen=True, slots=True, eq=False)
class Description:
    """The JSON of a request. `outputs` is empty when the client leaves the choice to the model."""

    id: str
    parameters: Parameters
    inputs: tuple[DescribedInput, ...]
    outputs: tuple[RequestedOutput, ...]


class InferDecoder:
    """Decodes infer requests. Holds a JSON parser's buffers, so one a thread."""

    def __init__(self) -> None:
        self._parser = simdjson.Parser()

    def decode(
        self, body: bytes, *, header_length: int | None, plan: Callable[[Description], _Plan]
    ) -> tuple[_Plan, dict[str, Tensor]]:
        """Read `body`, whose first `header_length` bytes (None: all) are JSON; raise `InvalidRequest` on any fault.

        Returns what `plan` made of the description, and the tensors by name. It is asked before one of them is read,
        and again if the JSON turns out to be faulty: what it refuses costs no more.
        """
        if header_length is None:
            header_length = len(body)
        if not 0 < header_length <= len(body):
            raise InvalidRequest(f"Inference-Header-Content-Length: {header_length}, the body has {len(body)} bytes")
        content, blobs = body[:header_length], memoryview(body)[header_length:]
        try:
            return _read(self._parser.parse(content), blobs, plan)
        except ServiceError:
            raise
        except (ValueError, TypeError, RuntimeError, KeyError):  # what simdjson raises, by kind of fault
            return _read(_parse_slowly(content), blobs, plan)
        finally:
            self._parser = simdjson.Parser()  # the old one refuses to go on while its document is referred to


def _read(document: Any, blobs: memoryview, plan: Callable[[Description], _Plan]) -> tuple[_Plan, dict[str, Tensor]]:
    description = _read_description(document)
    planned = plan(description)
    return planned, _read_tensors(description.inputs, blobs)


def _read_description(document: Any) -> Description:
    """Read a parsed request, simdjson's or plain."""
    if not isinstance(document, simdjson.Object | dict):
        raise InvalidRequest("the request must be a JSON object with 'inputs'")
    _check_keys(document)
    described = document.get("inputs", None)
    if not isinstance(described, simdjson.Array | list) or not len(described):
        raise InvalidRequest("'inputs' must be a list with at least one tensor")
    inputs: dict[str, DescribedInput] = {}
    for entry in _not_too_many(described, "inputs"):
        read = _read_input(entry)
        if read.name in inputs:
            raise InvalidRequest(f"input {read.name!r} appears twice")
        inputs[read.name] = read
    return Description(
        _text(document.get("id", None) or "", "id"),
        _parameters(document.get("parameters", None), "parameters"),
        tuple(inputs.values()),
        tuple(
            _read_output(entry) for entry in _not_too_many(_list(document.get("outputs", None), "outputs"), "outputs")
        ),
    )


def _read_input(entry: Any) -> DescribedInput:
    if not isinstance(entry, simdjson.Object | dict):
        raise InvalidRequest("each input must be an object with name, shape, datatype and data")
    _check_keys(entry)
    name = _text(entry.get("name", None), "an input's name")
    datatype = entry.get("datatype", None)
    if datatype not in DATATYPES:
        raise InvalidRequest(f"input {name!r}: datatype {datatype!r}, allowed are {', '.join(DATATYPES)}")
    shape = _plain(entry.get("shape", None))
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise InvalidRequest(f"input {name!r}: shape must be a list of sizes, none of them negative")
    size = _parameters(entry.get("parameters", None), f"input {name!r}: parameters").get("binary_data_size")
    data = entry.get("data", None)
    if (size is None) == (data is None):
        raise InvalidRequest(f"input {name!r} needs either data or parameters.binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise InvalidRequest(f"input {name!r}: binary_data_size must be a number of bytes, got {size!r}")
    return DescribedInput(name, datatype, tuple(shape), size, data)


def _read_tensors(inputs: Sequence[DescribedInput], blobs: memoryview) -> dict[str, Tensor]:
    """The tensors of `inputs`, out of the binary data behind the JSON, which comes in their order."""
    tensors = {}
    for entry in inputs:
        if entry.size is None:
            values = _read_data(entry.name, entry.datatype, entry.data, math.prod(entry.shape))
            tensors[entry.name] = Tensor(entry.name, entry.datatype, reshape(entry.name, values, entry.shape))
            continue
        if entry.size > len(blobs):
            left = f"{len(blobs)} bytes of binary data are left"
            raise InvalidRequest(f"input {entry.name!r}: binary_data_size {entry.size}, {left}")
        tensors[entry.name] = from_bytes(entry.name, entry.datatype, entry.shape, blobs[: entry.size])
        blobs = blobs[entry.size :]
    if len(blobs):
        raise InvalidRequest(f"{len(blobs)} bytes of binary data are left over behind the last input")
    return tensors


def _read_data(name: str, datatype: str, data: Any, count: int) -> NDArray[Any]:
    """The elements of an input's JSON `data`, nested or flat, row-major: `count` of `datatype`."""
    if datatype in {"FP16", "BF16"}:
        raise InvalidRequest(f"input {name!r}: {datatype} has no JSON form, send it as binary data")
    if not isinstance(data, simdjson.Array | list):
        raise InvalidRequest(f"input {name!r}: data must be a list")
    if isinstance(data, simdjson.Array) and datatype.startswith("FP"):
        flat: NDArray[Any] = np.frombuffer(data.as_buffer(of_type="d"))
    else:
        leaves = _leaves(_plain(data), name, may_be_empty=not count)
        flat = np.fromiter(islice(leaves, min(count + 1, sys.maxsize)), object)  # one more is too many
    if len(flat) != count:
        got = "more" if len(flat) > count else len(flat)
        raise InvalidRequest(f"input {name!r}: {got} values in data, its shape takes {count}")
    if datatype == "BYTES":
        return np.array([_text(value, f"input {name!r}: a value").encode() for value in flat], object)
    return _convert(name, datatype, flat)


def _convert(name: str, datatype: str, flat: NDArray[Any]) -> NDArray[Any]:
    """`flat` as `datatype`; values that it cannot hold are refused, but for floats too large, which become infinite."""
    kinds: tuple[type, ...] = (bool,) if datatype == "BOOL" else (int,) if "INT" in datatype else (int, float)
    if flat.dtype == object and not all(type(value) in kinds for value in flat):
        raise InvalidRequest(f"input {name!r}: a value in data is not a {datatype}")
    try:
        with np.errstate(over="ignore"):
            return flat.astype(NUMPY_TYPES[datatype])
    except OverflowError:
        raise InvalidRequest(f"input {name!r}: a value in data is out of the range of {datatype}") from None


def _leaves(data: list[Any], name: str, *, may_be_empty: bool) -> Iterator[Any]:
    """What nested lists hold, in order, without recursion: how deep they go is the client's choice."""
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                if not (value or may_be_empty):  # millions would cost seconds, and hold nothing
                    raise InvalidRequest(f"input {name!r}: an empty list within data")
                stack.append(iter(value))
                break
            yield value
        else:
            stack.pop()


def _read_output(entry: Any) -> RequestedOutput:
    if not isinstance(entry, simdjson.Object | dict):
        raise InvalidRequest("each output must be an object with a name")
    _check_keys(entry)
    name = _text(entry.get("name", None), "an output's name")
    parameters = _parameters(entry.get("parameters", None), f"output {name!r}: parameters")
    binary, classes = parameters.get("binary_data"), parameters.get("classification", 0)
    if binary is not None and not isinstance(binary, bool):
        raise InvalidRequest(f"output {name!r}: binary_data must be true or false, got {binary!r}")
    if type(classes) is not int or classes < 0:
        raise InvalidRequest(f"output {name!r}: classification must be a number of classes, got {classes!r}")
    return RequestedOutput(name, binary, classes)


def _parameters(value: Any, place: str) -> Parameters:
    parameters = _plain(value)
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"{place} must be an object")
    return parameters


def _list(value: Any, place: str) -> Any:
    """A list of simdjson's or Python's, empty for null."""
    if value is not None and not isinstance(value, simdjson.Array | list):
        raise InvalidRequest(f"{place} must be a list")
    return value or ()


def _not_too_many(entries: Any, place: str) -> Any:
    if len(entries) > _MAX_TENSORS:
        raise InvalidRequest(f"{len(entries)} {place}, at most {_MAX_TENSORS} are taken")
    return entries


def _text(value: object, place: str) -> str:
    if not isinstance(value, str):
        raise InvalidRequest(f"{place} must be a string, got {value if value is None else type(value).__name__}")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InvalidRequest(f"{place} holds half a surrogate pair, which is no character") from None
    return value


def _check_keys(entry: Any) -> None:
    """Refuse a key that comes twice: of simdjson the first would count, of others the last."""
    keys = list(entry.keys())
    if len(set(keys)) < len(keys):
        raise InvalidRequest("a key appears twice in one object")


def _plain(value: Any) -> Any:
    """A value of simdjson's as one of Python's."""
    if isinstance(value, simdjson.Object):
        _check_keys(value)
        return value.as_dict()
    return value.as_list() if isinstance(value, simdjson.Array) else value


def encode_response(
    *, model: str, version: str, request_id: str, outputs: Sequence[tuple[Tensor, bool]]
) -> tuple[bytes, int | None]:
    """Encode an answer of `outputs`, each with whether it goes as binary; return the body and its JSON part's length.

    The length is None when no output is binary: then the body is JSON and nothing else.
    """
    described, blobs = [], []
    for tensor, binary in outputs:
        if binary:
            blob = to_bytes(tensor)
            described.append(describe_binary(tensor.name, tensor.datatype, tensor.values.shape, len(blob)))
            blobs.append(blob)
        else:
            document = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.values.shape}
            described.append({**document, "data": _to_json(tensor)})
    header = encode_header(model=model, version=version, request_id=request_id, outputs=described)
    return b"".join([header, *blobs]), len(header) if blobs else None


def describe_binary(name: str, datatype: str, shape: Sequence[int], size: int) -> dict[str, Any]:
    """What the JSON says of an output whose `size` bytes of binary data follow it."""
    return {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": size}}


def encode_header(*, model: str, version: str, request_id: str, outputs: Sequence[dict[str, Any]]) -> bytes:
    """The JSON of an answer."""
    return encode_json({"model_name": model, "model_version": version, "id": request_id, "outputs": outputs})


def _to_json(tensor: Tensor) -> object:
    """Flat, as clients expect: they reshape by `shape`."""
    if tensor.datatype == "BYTES":
        return [element.decode("utf-8", "replace") for element in tensor.values.ravel()]
    return np.ascontiguousarray(tensor.values).ravel()


def _parse_slowly(content: bytes) -> Any:
    try:
        return json.loads(content, object_pairs_hook=unique)
    except RecursionError:
        raise InvalidRequest("JSON is nested too deep") from None
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"JSON is not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise InvalidRequest(f"malformed JSON: {error}") from None
