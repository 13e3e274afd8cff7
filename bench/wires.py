"""How a request is written and an answer is read, for each protocol that a server speaks.

JSON numbers are the shortest decimals that are the same float32, as orjson writes them. Requests are whole, headers
included, and made before the clock starts: neither load generator spends anything on them.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import orjson
from numpy.typing import NDArray

from bench.workload import Sequences

Probabilities = NDArray[np.float32]  # (B, K)
_HEADER_LENGTH: Final = "inference-header-content-length"
_COUNT: Final = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Body:
    """What is sent in one request, and the headers that say what it is."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Wire:
    """One protocol. `path` may hold `{model}`; `decode` takes the answer's headers, names in lower case, and body."""

    path: str
    encode: Callable[[Sequences], Body]
    decode: Callable[[Mapping[str, str], bytes], Probabilities]

    def request(self, model: str, sequences: Sequences) -> bytes:
        """A whole HTTP/1.1 request."""
        body = self.encode(sequences)
        lines = [f"POST {self.path.format(model=model)} HTTP/1.1", "Host: 127.0.0.1"]
        lines += [f"{name}: {value}" for name, value in body.headers.items()]
        lines += [f"Content-Length: {len(body.content)}", "", ""]
        return "\r\n".join(lines).encode() + body.content


def _json(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def _encode_simple(sequences: Sequences) -> Body:
    return Body(_json({"sequences": sequences}), {"Content-Type": "application/json"})


def _decode_simple(_: Mapping[str, str], body: bytes) -> Probabilities:
    return np.array(orjson.loads(body)["probabilities"], np.float32)


def _encode_raw(sequences: Sequences) -> Body:
    content = _COUNT.pack(len(sequences)) + np.stack(sequences).tobytes()
    return Body(content, {"Content-Type": "application/octet-stream"})


def _decode_raw(_: Mapping[str, str], body: bytes) -> Probabilities:
    (count,) = _COUNT.unpack_from(body)
    return np.frombuffer(body, "<f4", offset=_COUNT.size).reshape(count, -1)


def _v2_input(batch: NDArray[np.float32], **more: object) -> dict[str, Any]:
    return {"name": "sequences", "shape": batch.shape, "datatype": "FP32", **more}


def _encode_v2(sequences: Sequences) -> Body:
    batch = np.stack(sequences)
    content = _json({"inputs": [_v2_input(batch, data=batch.ravel())], "outputs": [{"name": "probabilities"}]})
    return Body(content, {"Content-Type": "application/json"})


def _encode_v2_binary(sequences: Sequences) -> Body:
    """Triton's binary tensor data extension: a JSON head without the values, then the values."""
    batch = np.stack(sequences)
    head = _json(
        {
            "inputs": [_v2_input(batch, parameters={"binary_data_size": batch.nbytes})],
            "outputs": [{"name": "probabilities", "parameters": {"binary_data": True}}],
        }
    )
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    return Body(head + batch.tobytes(), headers)


def _decode_v2(headers: Mapping[str, str], body: bytes) -> Probabilities:
    split = int(headers.get(_HEADER_LENGTH, len(body)))
    (output,) = json.loads(body[:split])["outputs"]
    if "data" in output:
        return np.array(output["data"], np.float32).reshape(output["shape"])
    return np.frombuffer(body[split:], "<f4", math.prod(output["shape"])).reshape(output["shape"])


SIMPLE: Final = Wire("/v1/models/{model}/predict", _encode_simple, _decode_simple)
SIMPLE_AT_PREDICT: Final = Wire("/predict", _encode_simple, _decode_simple)
# For a server without a binary protocol of its own: uint32 B, then (B, T, F) float32; back come uint32 B, (B, K).
RAW: Final = Wire("/raw", _encode_raw, _decode_raw)
V2: Final = Wire("/v2/models/{model}/infer", _encode_v2, _decode_v2)
V2_BINARY: Final = Wire("/v2/models/{model}/infer", _encode_v2_binary, _decode_v2)
