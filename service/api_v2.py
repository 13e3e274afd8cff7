"""The Open Inference Protocol (V2): the same engine behind the names that Triton's and KServe's clients know.

Inference is a plain coroutine that `service.edge` calls before any framework; the rest are FastAPI routes. Follows
kserve/open-inference-protocol (inference_rest.md) and Triton's extensions, of which those in `EXTENSIONS` work.
"""

import asyncio
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from model.bundle import Manifest
from service.backends import Array
from service.engine import Engine, Prediction, Query
from service.errors import InvalidRequest, TooLarge, Unsupported
from service.http import Request, Response
from service.open_inference import (
    BINARY_HEADER,
    InferDecoder,
    InferRequest,
    RequestedOutput,
    Tensor,
    encode_response,
    from_bytes,
)
from service.registry import Registry
from service.settings import Settings
from service.tensors import Sequences, State, TraceLevel
from service.timing import Timing
from service.trace import Layer

EXTENSIONS: Final = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
DEFAULT_OUTPUTS: Final = (RequestedOutput("probabilities"), RequestedOutput("label"))
_FLOATS: Final = ("FP32", "FP16", "BF16", "FP64")
_COMPRESS_FROM_BYTES: Final = 1024
_JSON: Final = (b"content-type", b"application/json")
_BINARY: Final = (b"content-type", b"application/octet-stream")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Name, datatype and shape of a model's input or output; -1 stands for a size that a request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]


def inputs_of(manifest: Manifest) -> tuple[TensorInfo, ...]:
    """What a request may bring; all but `sequences` may be left out."""
    state = (manifest.num_layers * manifest.num_directions, -1, manifest.hidden_size)
    return (
        TensorInfo("sequences", "FP32", (-1, -1, manifest.input_size)),
        TensorInfo("lengths", "INT64", (-1,)),
        TensorInfo("h0", "FP32", state),
        TensorInfo("c0", "FP32", state),
    )


def outputs_of(engine: Engine) -> tuple[TensorInfo, ...]:
    """What a request may ask for: the graph's outputs, the label, and every layer of the trace."""
    manifest = engine.manifest
    width, classes = manifest.hidden_size * manifest.num_directions, len(manifest.labels)
    state = (manifest.num_layers * manifest.num_directions, -1, manifest.hidden_size)
    shapes = {
        "probabilities": (-1, classes),
        "logits": (-1, classes),
        "last_hidden": (-1, width),
        "hn": state,
        "cn": state,
        "standardised": (-1, -1, manifest.input_size),
        "step_probabilities": (-1, -1, classes),
    }
    names = (*manifest.outputs, *engine.traced_names)
    described = {name: TensorInfo(name, "FP32", shapes.get(name, (-1, -1, width))) for name in names}
    label = TensorInfo("label", "BYTES", (-1,))
    return (described.pop("probabilities"), label, *described.values())


class InferApi:
    """Answers infer requests: bytes to a `Query`, one call of the engine, a `Prediction` to tensors."""

    name: Final = "v2"

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._timeout_s = settings.request_timeout_ms / 1e3
        self._max_body_bytes = settings.max_body_bytes
        self._decoder = InferDecoder()

    def route(self, path: str) -> Engine | None:
        """The engine that an infer path names; None if `path` is none: `/v2/models/{name}[/versions/{version}]/infer`."""
        match path.split("/"):
            case ["", "v2", "models", name, "infer"]:
                return self._registry.find(name)
            case ["", "v2", "models", name, "versions", version, "infer"]:
                return self._registry.find(name, version)
        return None

    async def answer(self, request: Request, engine: Engine) -> Response:
        """Answer one request; raise a `ServiceError` for whatever goes wrong."""
        compressed = await request.body(max_bytes=self._max_body_bytes)
        timing = Timing.start()
        body = decompress(compressed, request.header(b"content-encoding"), max_bytes=self._max_body_bytes)
        decoded = self._decode(body, request.header(BINARY_HEADER), engine.manifest)
        wanted = _check_outputs(decoded.outputs or DEFAULT_OUTPUTS, engine)
        query = _query(decoded, wanted, engine, timeout_s=self._timeout_s)
        async with request.cancelled_when_gone():
            prediction = await engine.predict(query, timing)
        steps = decoded.inputs["sequences"].values.shape[1]
        binary = decoded.parameters.get("binary_data_output", False) is True
        outputs = [
            (_output(output, prediction, engine, steps), binary if output.binary is None else output.binary)
            for output in wanted
        ]
        request_id = decoded.id or os.urandom(16).hex()
        answer, header_length = encode_response(
            model=engine.name, version=engine.version, request_id=request_id, outputs=outputs
        )
        headers = [_JSON] if header_length is None else [_BINARY, (BINARY_HEADER, str(header_length).encode())]
        encoding = request.header(b"accept-encoding")
        if encoding in _ENCODERS and len(answer) >= _COMPRESS_FROM_BYTES:
            answer = await asyncio.to_thread(compress, answer, encoding)
            headers.append((b"content-encoding", encoding))
        timing.encoded = perf_counter()
        return Response(200, answer, tuple(headers), timing=timing)

    def _decode(self, body: bytes, header: bytes | None, manifest: Manifest) -> InferRequest:
        """Decode a request; a header length of 0 says that the body is nothing but the one tensor `sequences`."""
        if header is not None and not header.isdigit():
            raise InvalidRequest(f"Inference-Header-Content-Length must be a number, got {header.decode('latin-1')!r}")
        if header is None or int(header):
            return self._decoder.decode(body, header_length=None if header is None else int(header))
        steps = len(body) // (4 * manifest.input_size)
        tensor = from_bytes("sequences", "FP32", (1, steps, manifest.input_size), memoryview(body))
        return InferRequest("", {"binary_data_output": True}, {"sequences": tensor}, ())


def _check_outputs(outputs: tuple[RequestedOutput, ...], engine: Engine) -> tuple[RequestedOutput, ...]:
    names = [output.name for output in outputs]
    allowed = [info.name for info in outputs_of(engine)]
    for output in outputs:
        if output.name not in allowed:
            raise InvalidRequest(f"output {output.name!r}: there is none; allowed are {', '.join(allowed)}")
        if names.count(output.name) > 1:
            raise InvalidRequest(f"output {output.name!r} is asked for twice")
        if output.classes and output.name not in {"probabilities", "logits"}:
            raise InvalidRequest(f"output {output.name!r}: classification is for probabilities and logits alone")
    return outputs


def _query(request: InferRequest, wanted: tuple[RequestedOutput, ...], engine: Engine, *, timeout_s: float) -> Query:
    names = {output.name for output in wanted}
    traced = names & set(engine.traced_names)
    level: TraceLevel | None = None
    if traced:
        level = "layers" if traced == {"standardised"} else "gates"
    return Query(
        _sequences(request.inputs, engine.manifest),
        outputs=frozenset(names & set(engine.manifest.outputs)) | {"probabilities"},
        trace=level,
        timeout_s=min(timeout_s, _count(request, "timeout") / 1e6 or timeout_s),
        priority=_count(request, "priority"),
    )


def _count(request: InferRequest, name: str) -> int:
    value = request.parameters.get(name, 0)
    if type(value) is not int or value < 0:
        raise InvalidRequest(f"parameters.{name} must be a whole number of 0 or more, got {value!r}")
    return value


def _sequences(inputs: Mapping[str, Tensor], manifest: Manifest) -> Sequences:
    """The request's sequences without their padding, and the states they begin in."""
    allowed = [info.name for info in inputs_of(manifest)]
    if unknown := sorted(inputs.keys() - set(allowed)):
        raise InvalidRequest(f"input {unknown[0]!r}: there is none; allowed are {', '.join(allowed)}")
    if "sequences" not in inputs:
        raise InvalidRequest("input 'sequences' is missing")
    sequences = _floats(inputs["sequences"])
    if sequences.ndim != 3 or 0 in sequences.shape or sequences.shape[2] != manifest.input_size:
        expected = f"(batch, time, {manifest.input_size}), neither of them 0"
        raise InvalidRequest(f"input 'sequences': shape {list(sequences.shape)}, must be {expected}")
    batch, steps, features = sequences.shape
    lengths = _lengths(inputs.get("lengths"), batch, steps)
    valid = np.arange(steps) < lengths[:, None]
    values = sequences.reshape(-1, features) if valid.all() else sequences[valid]
    _check_finite("sequences", values)
    shape = (manifest.num_layers * manifest.num_directions, batch, manifest.hidden_size)
    states = [_state(inputs[name], shape) if name in inputs else np.zeros(shape, np.float32) for name in ("h0", "c0")]
    return Sequences(values, lengths, State(*states) if {"h0", "c0"} & inputs.keys() else None)


def _floats(tensor: Tensor) -> Array:
    if tensor.datatype not in _FLOATS:
        raise InvalidRequest(f"input {tensor.name!r}: datatype {tensor.datatype}, allowed are {', '.join(_FLOATS)}")
    with np.errstate(over="ignore"):
        return tensor.values.astype(np.float32, copy=False)


def _state(tensor: Tensor, shape: tuple[int, ...]) -> Array:
    values = _floats(tensor)
    if values.shape != shape:
        raise InvalidRequest(f"input {tensor.name!r}: shape {list(values.shape)}, must be {list(shape)}")
    _check_finite(tensor.name, values)
    return values


def _check_finite(name: str, values: Array) -> None:
    if not np.isfinite(values).all():
        raise InvalidRequest(f"input {name!r}: every value must be finite as a 32-bit float")


def _lengths(tensor: Tensor | None, batch: int, steps: int) -> NDArray[np.int64]:
    if tensor is None:
        return np.full(batch, steps, np.int64)
    if tensor.datatype not in {"INT64", "INT32"}:
        raise InvalidRequest(f"input 'lengths': datatype {tensor.datatype}, allowed are INT64 and INT32")
    if tensor.values.shape != (batch,):
        raise InvalidRequest(f"input 'lengths': shape {list(tensor.values.shape)}, must be [{batch}]")
    lengths = tensor.values.astype(np.int64)
    if (lengths < 1).any() or (lengths > steps).any():
        raise InvalidRequest(f"input 'lengths': each must be from 1 to {steps}, the steps in 'sequences'")
    return lengths


def _output(wanted: RequestedOutput, prediction: Prediction, engine: Engine, steps: int) -> Tensor:
    """One output as a tensor, padded with zeros to as many `steps` as the request's sequences."""
    labels = engine.manifest.labels
    if wanted.name == "label":
        chosen = prediction.outputs["probabilities"].argmax(axis=1)
        return Tensor("label", "BYTES", np.array([labels[index].encode() for index in chosen], object))
    if wanted.name in prediction.outputs:
        values = prediction.outputs[wanted.name]
    else:
        values = _stack(wanted.name, prediction.traces or [])
    if wanted.classes:
        return Tensor(wanted.name, "BYTES", _classify(values, labels, wanted.classes))
    if values.ndim == 3 and wanted.name not in {"hn", "cn"} and values.shape[1] < steps:
        values = np.pad(values, ((0, 0), (0, steps - values.shape[1]), (0, 0)))
    return Tensor(wanted.name, "FP32", values)


def _stack(name: str, traces: list[list[Layer]]) -> Array:
    """Layer `name` of every trace, (B, T, …), T the longest of them."""
    rows = [next(layer.values for layer in layers if layer.name == name) for layers in traces]
    stacked = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]), np.float32)
    for row, values in enumerate(rows):
        stacked[row, : len(values)] = values
    return stacked


def _classify(values: Array, labels: tuple[str, ...], count: int) -> NDArray[Any]:
    """The `count` highest of each row of `values` (B, K) as `value:index:label`, highest first (B, count)."""
    best = np.argsort(-values, axis=1, kind="stable")[:, :count]
    texts = [[f"{row[index]:f}:{index}:{labels[index]}".encode() for index in order] for row, order in zip(values, best, strict=True)]
    return np.array(texts, object)


_ENCODERS: Final = {b"gzip": 31, b"deflate": 15}  # as `wbits` of zlib


def compress(body: bytes, encoding: bytes) -> bytes:
    """Compress `body` as `encoding`, a key of `_ENCODERS`."""
    encoder = zlib.compressobj(level=1, wbits=_ENCODERS[encoding])
    return encoder.compress(body) + encoder.flush()


def decompress(body: bytes, encoding: bytes | None, *, max_bytes: int) -> bytes:
    """Undo a request's Content-Encoding; raise `TooLarge` before more than `max_bytes` come of it."""
    if encoding is None or encoding == b"identity":
        return body
    if encoding not in _ENCODERS:
        raise Unsupported(f"Content-Encoding {encoding.decode('latin-1')!r}, allowed are gzip and deflate")
    decoder = zlib.decompressobj(wbits=_ENCODERS[encoding])
    try:
        content = decoder.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not what Content-Encoding says: {error}") from None
    if len(content) > max_bytes:
        raise TooLarge(f"body of more than {max_bytes} bytes once decompressed, at most that many are taken")
    if not decoder.eof or decoder.unused_data:
        raise InvalidRequest("the compressed body is cut off, or more follows it")
    return content
