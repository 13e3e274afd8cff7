"""Inference in the Open Inference Protocol (V2): the same engine, under names that other servers' clients know.

A plain coroutine that `service.edge` calls before any framework. Follows kserve/open-inference-protocol
(inference_rest.md) and Triton's extensions for binary tensors, classification, and scheduling.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from service.api_v2_tensors import TensorInfo, check_inputs, check_outputs, make_output, read_sequences
from service.binary_tensors import Tensor, from_bytes
from service.compression import compress
from service.engine import Engine, Prediction, Query
from service.errors import InvalidRequest, TooLarge
from service.http import JSON, Asked, Header, Request, RequestIds, Response
from service.open_inference import (
    BINARY_HEADER,
    DescribedInput,
    Description,
    InferDecoder,
    RequestedOutput,
    describe_binary,
    encode_header,
    encode_response,
)
from service.registry import Registry
from service.settings import Settings
from service.tensors import Sequences, TraceLevel, encode_json

DEFAULT_OUTPUTS: Final = (RequestedOutput("probabilities"), RequestedOutput("label"))
_BINARY: Final = (b"content-type", b"application/octet-stream")
_UINT64: Final = 2**64
_MAX_KNOWN, _MAX_KNOWN_BYTES, _MAX_KNOWN_ROWS = 256, 2048, 1024
_ID_MARK: Final = "\x00 where the id goes"
_QUICK_VALUES: Final = 16_384  # more than this is not encoded on the event loop


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a request's JSON means for one engine."""

    request_id: str
    all_binary: bool  # unless an output says otherwise
    wanted: tuple[RequestedOutput, ...]
    outputs: frozenset[str]
    trace: TraceLevel | None
    timeout_s: float
    priority: int
    shape: tuple[int, ...]  # of the sequences (B, T, F)
    values: int  # in all the outputs
    short: "_ShortPlan | None" = None

    def query(self, sequences: Sequences) -> Query:
        """What is asked of the engine."""
        return Query(sequences, self.timeout_s, outputs=self.outputs, trace=self.trace, priority=self.priority)


@dataclass(frozen=True, slots=True)
class _ShortPlan:
    """More of a request that is nothing but sequences in binary, answered by outputs in binary: then little is left."""

    lengths: NDArray[np.int64]
    begin: bytes  # of the answer's JSON, up to its id
    end: bytes


class InferApi:
    """Answers infer requests: bytes to a `Query`, one call of the engine, a `Prediction` to tensors.

    Clients that send their tensors in binary send the same JSON in front of them again and again: what it means is
    worked out once, and known by its bytes, until there is too much of it.
    """

    name: Final = "v2"
    verb: Final = "infer"

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._timeout_s = settings.request_timeout_ms / 1e3
        self._max_values = settings.max_trace_values
        self._decoder = InferDecoder()
        self._known: dict[tuple[int, bytes], _Plan] = {}
        self._ids = RequestIds()

    def route(self, path: str) -> Engine | None:
        """The engine that an infer path names; None if it is none: `/v2/models/{name}[/versions/{version}]/infer`."""
        match path.split("/"):
            case ["", "v2", "models", name, "infer"]:
                return self._registry.find(name)
            case ["", "v2", "models", name, "versions", version, "infer"]:
                return self._registry.find(name, version)
        return None

    def read(self, request: Request, body: bytes, engine: Engine) -> Asked:
        """Decode one request; raise a `ServiceError` for whatever is wrong with it."""
        header_length = _header_length(request.header(BINARY_HEADER))
        plan, sequences = self._read_known(body, header_length, engine)
        if plan is None or sequences is None:
            plan, sequences = self._read(body, header_length, engine)
        how = (plan, request.header(b"accept-encoding"))
        return Asked(plan.query(sequences), is_large=plan.values > _QUICK_VALUES, how=how)

    def write(self, asked: Asked, prediction: Prediction, engine: Engine) -> Response:
        """Encode one answer. A large one is encoded in a thread."""
        plan, accepted = asked.how
        body, header_length = self._encode(plan, prediction, engine)
        headers: tuple[Header, ...] = (JSON,)
        if header_length is not None:
            headers = (_BINARY, (BINARY_HEADER, b"%d" % header_length))
        body, encoding = compress(body, accepted)
        if encoding is not None:
            headers = (*headers, (b"content-encoding", encoding))
        return Response(200, body, headers)

    def _read_known(
        self, body: bytes, header_length: int | None, engine: Engine
    ) -> tuple[_Plan, Sequences] | tuple[None, None]:
        """Read a request whose JSON is known to leave little to do; None if it is not."""
        if not header_length:
            return None, None
        plan = self._known.get((engine.serial, body[:header_length]))
        if plan is None or plan.short is None:
            return None, None
        batch, steps, features = plan.shape
        if len(body) - header_length != 4 * batch * steps * features:
            return None, None
        values = np.frombuffer(body, np.float32, offset=header_length).reshape(-1, features)
        if np.count_nonzero(np.isfinite(values)) < values.size:  # in less than half the time that `all` takes
            return None, None
        return plan, Sequences(values, plan.short.lengths, None, steps)

    def _read(self, body: bytes, header_length: int | None, engine: Engine) -> tuple[_Plan, Sequences]:
        """Read any request. A header length of 0 says that the body is nothing but the one tensor `sequences`."""
        if header_length == 0:
            description, tensors = _raw_request(body, engine.manifest.input_size)
            plan = self._plan(description, engine)
        else:
            plan, tensors = self._decoder.decode(
                body, header_length=header_length, plan=lambda description: self._plan(description, engine)
            )
        if header_length and plan.short is not None and header_length <= _MAX_KNOWN_BYTES:
            if len(self._known) == _MAX_KNOWN:
                self._known.clear()
            self._known[engine.serial, body[:header_length]] = plan
        return plan, read_sequences(tensors, engine.manifest)

    def _plan(self, description: Description, engine: Engine) -> _Plan:
        """What `description` means for `engine`; raise `InvalidRequest` or `TooLarge` if that cannot be done."""
        if description.parameters.get("sequence_id", 0) not in (0, ""):
            raise InvalidRequest("parameters.sequence_id: no state is kept here; send the last hn and cn as h0 and c0")
        shape = check_inputs(description.inputs, engine.manifest)
        wanted = description.outputs or DEFAULT_OUTPUTS
        infos = check_outputs(wanted, engine, batch=shape[0], steps=shape[1])
        values = sum(math.prod(info.shape) for info in infos)
        if values > self._max_values:
            raise TooLarge(f"these outputs would hold {values} values, at most {self._max_values} may")
        names = {output.name for output in wanted}
        timeout_us = _count(description, "timeout")
        plan = _Plan(
            description.id,
            _flag(description, "binary_data_output"),
            wanted,
            outputs=frozenset(names & set(engine.manifest.outputs)),
            trace=_trace_level(names & set(engine.traced_names)),
            timeout_s=min(self._timeout_s, timeout_us / 1e6) if timeout_us else self._timeout_s,
            priority=_count(description, "priority"),
            shape=shape,
            values=values,
        )
        return replace(plan, short=_shorten(plan, description, infos, engine))

    def _encode(self, plan: _Plan, prediction: Prediction, engine: Engine) -> tuple[bytes, int | None]:
        """The answer's body, and the length of its JSON if binary data follows."""
        request_id = plan.request_id or self._ids.make().decode()
        if plan.short is not None:
            header = b"".join((plan.short.begin, encode_json(request_id), plan.short.end))
            blobs = [prediction.outputs[output.name].tobytes() for output in plan.wanted]
            return b"".join((header, *blobs)), len(header)
        return encode_response(
            model=engine.name,
            version=engine.version,
            request_id=request_id,
            outputs=[
                (
                    make_output(output, prediction, engine.manifest.labels, steps=plan.shape[1]),
                    plan.all_binary if output.binary is None else output.binary,
                )
                for output in plan.wanted
            ],
        )


def _header_length(header: bytes | None) -> int | None:
    if header is None:
        return None
    if not header.isdigit() or len(header) > 20:
        raise InvalidRequest("Inference-Header-Content-Length must be a number of bytes")
    return int(header)


def _raw_request(body: bytes, input_size: int) -> tuple[Description, dict[str, Tensor]]:
    """A body that is one sequence and nothing else."""
    shape = (1, len(body) // (4 * input_size), input_size)
    tensor = from_bytes("sequences", "FP32", shape, memoryview(body))
    described = DescribedInput("sequences", "FP32", shape, len(body))
    return Description("", {"binary_data_output": True}, (described,), ()), {"sequences": tensor}


def _shorten(plan: _Plan, description: Description, infos: Sequence[TensorInfo], engine: Engine) -> _ShortPlan | None:
    """The rest of `plan` if the request is nothing but sequences in binary, and so is its answer."""
    (first, *others) = description.inputs
    binary = all(plan.all_binary if output.binary is None else output.binary for output in plan.wanted)
    plain = all(output.name in plan.outputs and not output.classes for output in plan.wanted)
    if others or first.size is None or first.datatype != "FP32" or not binary or not plain:
        return None
    if plan.shape[0] > _MAX_KNOWN_ROWS:  # whose lengths are made here, before their values are known to be there
        return None
    header = encode_header(
        model=engine.name,
        version=engine.version,
        request_id=_ID_MARK,
        outputs=[describe_binary(i.name, i.datatype, i.shape, 4 * math.prod(i.shape)) for i in infos],
    )
    begin, _, end = header.partition(encode_json(_ID_MARK))
    batch, steps, _ = plan.shape
    lengths = np.array([steps] * batch)
    lengths.flags.writeable = False  # many requests share them
    return _ShortPlan(lengths, begin, end)


def _flag(description: Description, name: str) -> bool:
    value = description.parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameters.{name} must be true or false, got {value!r}")
    return value


def _count(description: Description, name: str) -> int:
    value = description.parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < _UINT64:
        raise InvalidRequest(f"parameters.{name} must be a whole number from 0 to 2^64-1")
    return value


def _trace_level(traced: set[str]) -> TraceLevel | None:
    if not traced:
        return None
    return "layers" if traced == {"standardised"} else "gates"
