"""The OpenAPI description of V2's infer requests, which `service.edge` answers without the framework."""

from typing import Any

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_SHAPE: Json = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_VALUES: Json = {"type": "array", "items": {}, "description": "nested or flat, row-major"}
_BINARY: Json = {"schema": {"type": "string", "format": "binary"}}
_HEADER_LENGTH = "Inference-Header-Content-Length"
_DATATYPES = [
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "BF16", "FP32", "FP64", "BYTES"),
]

SCHEMAS: Json = {
    "InferRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {**_STRING, "description": "comes back in the answer; one is made if there is none"},
            "parameters": {
                "type": "object",
                "description": "what else it holds is left alone",
                "properties": {
                    "timeout": {"type": "integer", "minimum": 0, "description": "microseconds; only to shorten"},
                    "priority": {"type": "integer", "minimum": 0, "description": "1 goes first; 0 is none, and last"},
                    "binary_data_output": {"type": "boolean"},
                },
            },
            "inputs": {
                "type": "array",
                "minItems": 1,
                "items": {
                    "type": "object",
                    "required": ["name", "shape", "datatype"],
                    "properties": {
                        "name": {**_STRING, "enum": ["sequences", "lengths", "h0", "c0"]},
                        "shape": _SHAPE,
                        "datatype": {"enum": _DATATYPES},
                        "data": _VALUES,
                        "parameters": {
                            "type": "object",
                            "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
                        },
                    },
                },
            },
            "outputs": {
                "type": "array",
                "description": "probabilities and label if left out",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": _STRING,
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "binary_data": {"type": "boolean"},
                                "classification": {"type": "integer", "minimum": 0},
                            },
                        },
                    },
                },
            },
        },
    },
    "InferAnswer": {
        "type": "object",
        "required": ["model_name", "model_version", "id", "outputs"],
        "additionalProperties": False,
        "properties": {
            "model_name": _STRING,
            "model_version": _STRING,
            "id": _STRING,
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "shape", "datatype"],
                    "additionalProperties": False,
                    "properties": {
                        "name": _STRING,
                        "shape": _SHAPE,
                        "datatype": {"enum": ["FP32", "BYTES"]},
                        "data": {"type": "array", "items": {"type": ["number", "string"]}, "description": "row-major"},
                        "parameters": {
                            "type": "object",
                            "required": ["binary_data_size"],
                            "properties": {"binary_data_size": {"type": "integer"}},
                        },
                    },
                },
            },
        },
    },
}

EXAMPLE_REQUEST: Json = {
    "inputs": [
        {
            "name": "sequences",
            "shape": [1, 2, 5],
            "datatype": "FP32",
            "data": [-0.15, 0.0, -0.21, 0.28, 0.22, 0.0, 0.48, 0.14, 0.12, -0.3],
        }
    ],
    "outputs": [{"name": "probabilities"}, {"name": "hidden_states", "parameters": {"binary_data": False}}],
}


def infer_paths(name: Json, version: Json, responses: Json, headers: Json) -> Json:
    """The `paths` of infer requests; `name` and `version` are path parameters, `responses` the errors."""
    return {
        "/v2/models/{name}/infer": _infer("infer", "Run a model", [name], responses, headers),
        "/v2/models/{name}/versions/{version}/infer": _infer(
            "infer_version", "Run one version of a model", [name, version], responses, headers
        ),
    }


def _infer(operation_id: str, summary: str, parameters: list[Json], responses: Json, headers: Json) -> Json:
    length: Json = {
        "name": _HEADER_LENGTH,
        "in": "header",
        "schema": {"type": "integer", "minimum": 0},
        "description": "bytes of JSON before the binary tensors; 0 if the body is the one tensor sequences",
    }
    answered: Json = {
        "description": "The outputs; as octets if any of them is binary, then with their JSON part's length",
        "headers": {**headers, _HEADER_LENGTH: {"schema": {"type": "integer"}}},
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/InferAnswer"}},
            "application/octet-stream": _BINARY,
        },
    }
    body: Json = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/InferRequest"},
                "example": EXAMPLE_REQUEST,
            },
            "application/octet-stream": _BINARY,
        },
    }
    operation: Json = {
        "tags": ["open inference protocol"],
        "operationId": operation_id,
        "summary": summary,
        "parameters": [*parameters, length],
        "requestBody": body,
        "responses": {"200": answered, **responses},
    }
    return {"post": operation}
