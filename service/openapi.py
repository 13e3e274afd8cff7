"""The OpenAPI description. FastAPI writes its own routes' part from their signatures. The inference paths, which
`service.edge` answers without the framework, are described here by hand, and so are errors and keys, for all paths.

A test holds it against real requests and answers.
"""

from typing import Any

from service import openapi_v2

Json = dict[str, Any]

DESCRIPTION = (
    "LSTM sequence classification over HTTP, with what every layer computed on request.\n\n"
    'Every error has the body `{"error": "what was got, what is allowed"}`. Any other path is 404, any other method '
    "405 with `Allow`. Every answer carries `X-Request-Id`, the client's own if it sent one of at most 128 characters "
    "out of letters, digits and `._:/+=-`. A bearer key is needed, on all paths but those of health and the trace "
    "page, if the service was started with `LSTM_API_KEYS_FILE`."
)

_ERRORS = {
    400: "Malformed, of the wrong shape, not finite, or empty; or a model that cannot be loaded",
    401: "A key is needed, or this one is not valid",
    404: "No such model or version",
    413: "Body, batch, sequence or trace over its limit; the connection is closed",
    429: "Too much is waiting already",
    500: "A bug of the service",
    501: "A part of the protocol, or a Content-Encoding, that the service does not have",
    503: "Not ready, shutting down, or the model is being unloaded",
    504: "The request's time ran out",
}
_RETRY: Json = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
_ERROR_HEADERS: dict[int, Json] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}}},
    429: _RETRY,
    503: _RETRY,
}
_STAGES: Json = {
    "Server-Timing": {
        "description": "milliseconds of decode, queue, compute_input, compute_infer, compute_output and encode",
        "schema": {"type": "string"},
    }
}

_NUMBERS: Json = {"type": "array", "items": {"type": "number"}}
_STRINGS: Json = {"type": "array", "items": {"type": "string"}}
_SCHEMAS: Json = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "additionalProperties": False,
        "properties": {"error": {"type": "string", "description": "what was got, and what is allowed"}},
    },
    "PredictRequest": {
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
    },
    "PredictAnswer": {
        "type": "object",
        "required": ["model_name", "model_version", "classes", "labels", "probabilities"],
        "additionalProperties": False,
        "properties": {
            "model_name": {"type": "string"},
            "model_version": {"type": "string"},
            "classes": {**_STRINGS, "description": "K names"},
            "labels": {**_STRINGS, "description": "the most probable class of each sequence"},
            "probabilities": {"type": "array", "items": _NUMBERS, "description": "(B, K); each row sums to 1"},
            "traces": {
                "type": "array",
                "description": "one a sequence, if asked for",
                "items": {
                    "type": "object",
                    "required": ["layers"],
                    "additionalProperties": False,
                    "properties": {"layers": {"type": "array", "items": {"$ref": "#/components/schemas/Layer"}}},
                },
            },
        },
    },
    "Layer": {
        "type": "object",
        "required": ["name", "shape", "values"],
        "additionalProperties": False,
        "properties": {
            "name": {"type": "string"},
            "shape": {"type": "array", "items": {"type": "integer"}, "description": "(T, width) or (width)"},
            "values": {"type": "array", "items": {"oneOf": [{"type": "number"}, _NUMBERS]}},
        },
    },
}

# A held-out sequence of the reference data set, and what its model answered.
EXAMPLE_REQUEST: Json = {
    "sequences": [
        [
            [-0.15, 0.0, -0.21, 0.28, 0.22],
            [0.0, 0.48, 0.14, 0.12, -0.3],
            [0.34, 0.31, 0.17, -0.19, -0.26],
            [-0.27, -0.05, 0.09, 0.43, 1.07],
            [0.06, -0.08, 0.14, 1.21, 0.09],
            [0.27, 0.09, 1.15, 0.2, 0.03],
            [0.38, 1.19, -0.15, -0.03, 0.44],
            [0.92, 0.35, 0.47, -0.38, 0.31],
            [0.18, -0.11, 0.27, -0.11, -0.13],
            [-0.38, -0.12, -0.02, 0.15, -0.19],
        ]
    ]
}
EXAMPLE_ANSWER: Json = {
    "model_name": "reference",
    "model_version": "1",
    "classes": ["falling", "rising", "zigzag"],
    "labels": ["falling"],
    "probabilities": [[0.99495184, 0.0010823727, 0.003965747]],
}


def errors(*statuses: int) -> dict[int | str, Json]:
    """The `responses` of an operation that can end in these error `statuses`."""
    described: dict[int | str, Json] = {}
    for status in statuses:
        described[status] = {"description": _ERRORS[status], **_content({"$ref": "#/components/schemas/Error"})}
        if status in _ERROR_HEADERS:
            described[status]["headers"] = _ERROR_HEADERS[status]
    return described


def json_body(properties: Json) -> Json:
    """FastAPI's `openapi_extra` of an operation whose body may be left out."""
    return {"requestBody": _content({"type": "object", "properties": properties})}


def complete(document: Json) -> Json:
    """Make FastAPI's `document` whole: the inference paths, the shared schemas, the keys."""
    paths = {**_inference_paths(), **document["paths"]}
    for path, operations in paths.items():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # FastAPI's own; no parameter of ours can be malformed
            operation["security"] = [] if path.startswith(("/health/", "/v2/health/")) else [{}, {"bearer": []}]
    schemas = {
        name: schema
        for name, schema in document.get("components", {}).get("schemas", {}).items()
        if not name.endswith("ValidationError")
    }
    bearer = {"type": "http", "scheme": "bearer", "description": "a key of LSTM_API_KEYS_FILE, if there is one"}
    components = {"schemas": _SCHEMAS | openapi_v2.SCHEMAS | schemas, "securitySchemes": {"bearer": bearer}}
    return {**document, "paths": paths, "components": components}


def _inference_paths() -> Json:
    """The `paths` of the predict and infer requests."""
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    version = {**name, "name": "version"}
    infer_errors = _by_text(errors(*_ERRORS))
    return {
        "/v1/predict": _predict("predict", "Classify sequences with the default model", []),
        "/v1/models/{name}/predict": _predict("predict_model", "Classify sequences with a model", [name]),
        "/v1/models/{name}/versions/{version}/predict": _predict(
            "predict_version", "Classify sequences with one version of a model", [name, version]
        ),
        **openapi_v2.infer_paths(name, version, infer_errors, _STAGES),
    }


def _predict(operation_id: str, summary: str, parameters: list[Json]) -> Json:
    answered = {
        "description": "Probabilities and labels, in the order of the sequences",
        "headers": _STAGES,
        **_content({"$ref": "#/components/schemas/PredictAnswer"}, example=EXAMPLE_ANSWER),
    }
    operation = {
        "tags": ["inference"],
        "operationId": operation_id,
        "summary": summary,
        "parameters": parameters,
        "requestBody": {
            "required": True,
            **_content({"$ref": "#/components/schemas/PredictRequest"}, example=EXAMPLE_REQUEST),
        },
        "responses": {"200": answered, **_by_text(errors(*_ERRORS))},
    }
    return {"post": operation}


def _by_text(responses: dict[int | str, Json]) -> Json:
    return {str(status): responses[status] for status in sorted(responses, key=int)}


def _content(schema: Json, **example: Json) -> Json:
    return {"content": {"application/json": {"schema": schema, **example}}}
