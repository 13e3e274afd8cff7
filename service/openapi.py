"""The OpenAPI description of the inference paths, by hand: `service.edge` answers them without the framework.

A test holds it against real requests and answers.
"""

from typing import Any

_NUMBERS = {"type": "array", "items": {"type": "number", "format": "float"}}
_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string", "description": "what was got, and what is allowed"}},
}
_REQUEST = {
    "type": "object",
    "required": ["sequences"],
    "additionalProperties": False,
    "properties": {
        "sequences": {
            "type": "array",
            "minItems": 1,
            "description": "B sequences, each (T, F); T may differ between them",
            "items": {"type": "array", "minItems": 1, "items": {**_NUMBERS, "minItems": 1}},
        },
        "trace": {
            "description": "layers: what every layer computed; gates: also each LSTM's gates, step by step",
            "enum": [False, "layers", "gates"],
            "default": False,
        },
    },
}
_LAYER = {
    "type": "object",
    "required": ["name", "shape", "values"],
    "properties": {
        "name": {"type": "string"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "values": {"type": "array", "items": {"oneOf": [{"type": "number"}, _NUMBERS]}},
    },
}
_ANSWER = {
    "type": "object",
    "required": ["model_name", "model_version", "classes", "labels", "probabilities"],
    "properties": {
        "model_name": {"type": "string"},
        "model_version": {"type": "string"},
        "classes": {"type": "array", "items": {"type": "string"}, "description": "K names"},
        "labels": {"type": "array", "items": {"type": "string"}, "description": "the most probable class of each"},
        "probabilities": {"type": "array", "items": _NUMBERS, "description": "(B, K); each row sums to 1"},
        "traces": {
            "type": "array",
            "description": "one a sequence, if asked for",
            "items": {"type": "object", "properties": {"layers": {"type": "array", "items": _LAYER}}},
        },
    },
}
# One real sequence of the reference data set and the answer to it.
_EXAMPLE_REQUEST: dict[str, Any] = {"sequences": [], "trace": False}
_EXAMPLE_ANSWER: dict[str, Any] = {}
_ERRORS = {
    400: "malformed JSON, wrong rank or feature count, ragged rows, values that are no finite numbers, nothing",
    401: "a key is needed (LSTM_API_KEYS_FILE)",
    404: "no such model or version",
    413: "body, batch, sequence or trace over its limit",
    429: "too much is waiting already; see Retry-After",
    500: "a bug of the service",
    503: "not ready, shutting down, or the model is being unloaded; see Retry-After",
    504: "the request's time ran out",
}


def inference_paths() -> dict[str, Any]:
    """The `paths` of the predict requests."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    version = {**name, "name": "version"}
    return {
        "/v1/predict": _operation("predict", "Classify sequences with the default model", []),
        "/v1/models/{name}/predict": _operation("predict_model", "Classify sequences with a model", [name]),
        "/v1/models/{name}/versions/{version}/predict": _operation(
            "predict_version", "Classify sequences with one version of a model", [name, version]
        ),
    }


def _operation(operation_id: str, summary: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    body = {"required": True, "content": {"application/json": {"schema": _REQUEST, "example": _EXAMPLE_REQUEST}}}
    responses = {
        "200": {
            "description": "probabilities and labels, in the order of the sequences",
            "content": {"application/json": {"schema": _ANSWER, "example": _EXAMPLE_ANSWER}},
        }
    }
    for status, description in _ERRORS.items():
        responses[str(status)] = {"description": description, "content": {"application/json": {"schema": _ERROR}}}
    operation = {
        "tags": ["inference"],
        "operationId": operation_id,
        "summary": summary,
        "parameters": parameters,
        "requestBody": body,
        "responses": responses,
    }
    return {"post": operation}
