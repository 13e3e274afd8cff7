"""V2 beside inference: health, metadata, configuration, statistics, the repository, settings of traces and logs.

FastAPI routes that read their bodies themselves: clients send JSON without a Content-Type, or nothing at all. Follows
kserve/open-inference-protocol (inference_rest.md) and Triton's extension_{model_configuration, statistics,
model_repository, trace, logging}.md.
"""

import json
import logging
from importlib.metadata import version as installed_version
from typing import Any, Final

from fastapi import APIRouter
from fastapi.responses import Response as RawResponse
from starlette.requests import Request as RawRequest

from service.api_v2 import EXTENSIONS, TensorInfo, inputs_of, outputs_of
from service.engine import Engine
from service.errors import InvalidRequest, Unavailable, Unsupported
from service.metrics import Metrics
from service.readiness import Readiness
from service.registry import Registry
from service.tensors import encode_json

_PLATFORMS: Final = {"onnx": "onnx_onnxv1", "torchscript": "pytorch_torchscript"}
_BACKENDS: Final = {"onnx": "onnxruntime", "torchscript": "pytorch"}
_MAX_BODY_BYTES: Final = 65_536


class ModelsV2:
    """Describes the service and its models, and loads and unloads them, in V2's words."""

    def __init__(self, registry: Registry, readiness: Readiness, metrics: Metrics) -> None:
        self._registry = registry
        self._readiness = readiness
        self._metrics = metrics

    def router(self) -> APIRouter:
        """The routes under `/v2`, but for inference."""
        router = APIRouter(prefix="/v2", tags=["open inference protocol"])
        get, post = ["GET"], ["POST"]
        model, one = "/models/{name}", "/models/{name}/versions/{version}"
        for path, endpoint, methods in (
            ("/health/live", self.live, get),
            ("/health/ready", self.ready, get),
            ("", self.server_metadata, get),
            ("/models", self.list_models, get),
            ("/models/stats", self.all_statistics, get),
            (model, self.model_metadata, get),
            (one, self.version_metadata, get),
            (f"{model}/ready", self.model_ready, get),
            (f"{one}/ready", self.version_ready, get),
            (f"{model}/config", self.model_config, get),
            (f"{one}/config", self.version_config, get),
            (f"{model}/stats", self.model_statistics, get),
            (f"{one}/stats", self.version_statistics, get),
            ("/repository/index", self.repository_index, post),
            ("/repository/models/{name}/load", self.load_model, post),
            ("/repository/models/{name}/unload", self.unload_model, post),
        ):
            router.add_api_route(path, endpoint, methods=methods)
        return router
