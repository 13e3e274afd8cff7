"""Inference in the Open Inference Protocol (V2): the same engine, under names that other servers' clients know.

A plain coroutine that `service.edge` calls before any framework. Follows kserve/open-inference-protocol
(inference_rest.md) and Triton's extensions for binary tensors, classification, and scheduling.
"""

import os
from dataclasses import dataclass
from typing import Final
from weakref import ReferenceType, WeakKeyDictionary, ref

from model.bundle import Manifest
from service.api_v2_tensors import check_inputs, check_outputs, make_output, read_sequences
from service.binary_tensors import from_bytes
from service.compression import compress
from service.engine import Engine, Prediction, Query
from service.errors import InvalidRequest, TooLarge
from service.http import JSON, Asked, Header, Request, Response
from service.open_inference import (
    BINARY_HEADER,
    DescribedInput,
    Description,
    InferDecoder,
    InferRequest,
    RequestedOutput,
    encode_response,
)
from service.registry import Registry
from service.settings import Settings
from service.tensors import Sequences, TraceLevel

DEFAULT_OUTPUTS: Final = (RequestedOutput("probabilities"), RequestedOutput("label"))
_BINARY: Final = (b"content-type", b"application/octet-stream")
_UINT64: Final = 2**64
_QUICK_VALUES: Final = 16_384  # more than this is not encoded on the event loop


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a request's JSON means for one engine."""

    engine: ReferenceType[Engine]
    wanted: tuple[RequestedOutput, ...]
    outputs: frozenset[str]
    trace: TraceLevel | None
    timeout_s: float
    priority: int
    steps: int
    values: int  # in all the outputs

    def query(self, sequences: Sequences) -> Query:
        """What is asked of the engine."""
        return Query(sequences, self.timeout_s, outputs=self.outputs, trace=self.trace, priority=self.priority)


class InferApi:
    """Answers infer requests: bytes to a `Query`, one call of the engine, a `Prediction` to tensors."""

    name: Final = "v2"
    verb: Final = "infer"

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._timeout_s = settings.request_timeout_ms / 1e3
        self._max_values = settings.max_trace_values
        self._decoder = InferDecoder()
        self._plans: WeakKeyDictionary[Description, _Plan] = WeakKeyDictionary()

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
        decoded = self._decode(body, request.header(BINARY_HEADER), engine.manifest)
        plan = self._plan(decoded.description, engine)
        query = plan.query(read_sequences(decoded.inputs, engine.manifest))
        how = (decoded.description, plan, request.header(b"accept-encoding"))
        return Asked(query, is_large=plan.values > _QUICK_VALUES, how=how)

    def write(self, asked: Asked, prediction: Prediction, engine: Engine) -> Response:
        """Encode one answer. A large one is encoded in a thread."""
        description, plan, accepted = asked.how
        body, headers = _encode(description, plan, prediction, engine, accepted)
        return Response(200, body, headers)

    def _decode(self, body: bytes, header: bytes | None, manifest: Manifest) -> InferRequest:
        """Decode a request; a header length of 0 says that the body is nothing but the one tensor `sequences`."""
        if header is None:
            return self._decoder.decode(body, header_length=None)
        if not header.isdigit() or len(header) > 20:
            raise InvalidRequest("Inference-Header-Content-Length must be a number of bytes")
        if int(header):
            return self._decoder.decode(body, header_length=int(header))
        shape = (1, len(body) // (4 * manifest.input_size), manifest.input_size)
        tensor = from_bytes("sequences", "FP32", shape, memoryview(body))
        described = DescribedInput("sequences", "FP32", shape, len(body), None)
        return InferRequest(Description("", {"binary_data_output": True}, (described,), ()), {"sequences": tensor})

    def _plan(self, description: Description, engine: Engine) -> _Plan:
        """What `description` means for `engine`; raise `InvalidRequest` or `TooLarge` if that cannot be done."""
        known = self._plans.get(description)
        if known is not None and known.engine() is engine:
            return known
        if description.parameters.get("sequence_id", 0) not in (0, ""):
            raise InvalidRequest("parameters.sequence_id: no state is kept here; send the last hn and cn as h0 and c0")
        batch, steps = check_inputs(description.inputs, engine.manifest)
        wanted = description.outputs or DEFAULT_OUTPUTS
        values = check_outputs(wanted, engine, batch=batch, steps=steps)
        if values > self._max_values:
            raise TooLarge(f"these outputs would hold {values} values, at most {self._max_values} may")
        names = {output.name for output in wanted}
        timeout_us = _count(description, "timeout")
        plan = _Plan(
            ref(engine),
            wanted,
            outputs=frozenset(names & set(engine.manifest.outputs)),
            trace=_trace_level(names & set(engine.traced_names)),
            timeout_s=min(self._timeout_s, timeout_us / 1e6) if timeout_us else self._timeout_s,
            priority=_count(description, "priority"),
            steps=steps,
            values=values,
        )
        self._plans[description] = plan
        return plan


def _count(description: Description, name: str) -> int:
    value = description.parameters.get(name, 0)
    if type(value) is not int or not 0 <= value < _UINT64:
        raise InvalidRequest(f"parameters.{name} must be a whole number from 0 to 2^64-1")
    return value


def _trace_level(traced: set[str]) -> TraceLevel | None:
    if not traced:
        return None
    return "layers" if traced == {"standardised"} else "gates"


def _encode(
    description: Description, plan: _Plan, prediction: Prediction, engine: Engine, accepted: bytes | None
) -> tuple[bytes, tuple[Header, ...]]:
    """The answer's body and headers."""
    all_binary = description.parameters.get("binary_data_output", False) is True
    body, header_length = encode_response(
        model=engine.name,
        version=engine.version,
        request_id=description.id or os.urandom(16).hex(),
        outputs=[
            (
                make_output(output, prediction, engine.manifest.labels, steps=plan.steps),
                all_binary if output.binary is None else output.binary,
            )
            for output in plan.wanted
        ],
    )
    headers = [JSON] if header_length is None else [_BINARY, (BINARY_HEADER, b"%d" % header_length)]
    body, encoding = compress(body, accepted)
    if encoding is not None:
        headers.append((b"content-encoding", encoding))
    return body, tuple(headers)
