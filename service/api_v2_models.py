"""V2 beside inference: health, metadata, configuration and statistics of the server and its models.

FastAPI routes. Follows kserve/open-inference-protocol (inference_rest.md) and Triton's extension_model_configuration.md
and extension_statistics.md.
"""

from importlib.metadata import version as installed_version
from typing import Any, Final

from fastapi import APIRouter

from service import openapi
from service.api_v2_tensors import TensorInfo, inputs_of, outputs_of
from service.backends import BackendName
from service.engine import Engine
from service.errors import Unavailable
from service.metrics import Metrics
from service.readiness import Readiness
from service.registry import Registry
from service.settings import Settings
from service.statistics import Statistics, Total

# Those that work, with any number of workers.
EXTENSIONS: Final = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
# Where both compute, the one that is named in what a bundle tells Triton.
_PLATFORMS: Final[dict[BackendName, str]] = {
    "onnx": "onnx_onnxv1",
    "torchscript": "pytorch_torchscript",
    "auto": "onnx_onnxv1",
}
_BACKENDS: Final[dict[BackendName, str]] = {"onnx": "onnxruntime", "torchscript": "pytorch", "auto": "onnxruntime"}

Json = dict[str, Any]


class DescribeApi:
    """Describes the service and its models in V2's words."""

    def __init__(self, registry: Registry, settings: Settings, *, readiness: Readiness, metrics: Metrics) -> None:
        self._registry = registry
        self._settings = settings
        self._readiness = readiness
        self._metrics = metrics

    def router(self) -> APIRouter:
        """The routes under `/v2` that are asked with GET and change nothing."""
        router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=openapi.errors(500))
        asked, of_one = openapi.errors(401), openapi.errors(401, 404, 503)
        model, version = "/models/{name}", "/models/{name}/versions/{version}"
        router.add_api_route("/health/live", self.v2_live, responses=openapi.errors(503))
        router.add_api_route("/health/ready", self.v2_ready, responses=openapi.errors(503))
        router.add_api_route("", self.v2_server, responses=asked)
        router.add_api_route("/models", self.v2_list_models, responses=asked)
        router.add_api_route("/models/stats", self.v2_all_statistics, responses=asked)
        router.add_api_route(model, self.v2_model, responses=of_one)
        router.add_api_route(version, self.v2_version, responses=of_one)
        router.add_api_route(f"{model}/ready", self.v2_model_ready, responses=of_one)
        router.add_api_route(f"{version}/ready", self.v2_version_ready, responses=of_one)
        router.add_api_route(f"{model}/config", self.v2_model_config, responses=of_one)
        router.add_api_route(f"{version}/config", self.v2_version_config, responses=of_one)
        router.add_api_route(f"{model}/stats", self.v2_model_statistics, responses=of_one)
        router.add_api_route(f"{version}/stats", self.v2_version_statistics, responses=of_one)
        return router

    async def v2_live(self) -> Json:
        """Say that the process runs, its event loop turns, and no worker's model run hangs."""
        if not self._readiness.live:
            raise Unavailable("a model run hangs")
        return {"live": True}

    async def v2_ready(self) -> Json:
        """Say whether requests may be sent, to any worker."""
        if not self._readiness.ready:
            raise Unavailable("not ready: starting, shutting down, or a model run hangs; GET /health/ready says which")
        return {"ready": True}

    async def v2_server(self) -> Json:
        """Name the server, and the extensions of the protocol that work."""
        logging = ("logging",) if self._settings.num_workers == 1 else ()
        return {
            "name": "lstm-serve",
            "version": installed_version("lstm-serve"),
            "extensions": (*EXTENSIONS, *logging),
        }

    async def v2_list_models(self) -> Json:
        """List the names of the models that are served."""
        return {"models": sorted({engine.name for engine in self._registry})}

    async def v2_model(self, name: str) -> Json:
        """Describe a model's highest version: its inputs and outputs, and which versions are served."""
        return self._metadata(self._registry.find(name))

    async def v2_version(self, name: str, version: str) -> Json:
        """Describe one version of a model."""
        return self._metadata(self._registry.find(name, version))

    async def v2_model_ready(self, name: str) -> Json:
        """Say that a model can be asked."""
        return {"name": self._registry.find(name).name, "ready": True}

    async def v2_version_ready(self, name: str, version: str) -> Json:
        """Say that one version of a model can be asked."""
        return {"name": self._registry.find(name, version).name, "ready": True}

    async def v2_model_config(self, name: str) -> Json:
        """Describe a model's highest version as Triton's ModelConfig."""
        return self._configuration(self._registry.find(name))

    async def v2_version_config(self, name: str, version: str) -> Json:
        """Describe one version of a model as Triton's ModelConfig."""
        return self._configuration(self._registry.find(name, version))

    async def v2_all_statistics(self) -> Json:
        """Count and time the inferences of every version that is served, over all workers."""
        return self._statistics(list(self._registry))

    async def v2_model_statistics(self, name: str) -> Json:
        """Count and time the inferences of every served version of a model."""
        found = self._registry.find(name)
        return self._statistics([engine for engine in self._registry if engine.name == found.name])

    async def v2_version_statistics(self, name: str, version: str) -> Json:
        """Count and time the inferences of one version of a model."""
        return self._statistics([self._registry.find(name, version)])

    def _metadata(self, engine: Engine) -> Json:
        return {
            "name": engine.name,
            "versions": [one.version for one in self._registry if one.name == engine.name],
            "platform": _PLATFORMS[engine.backend.name],
            "inputs": [_describe(info) for info in inputs_of(engine.manifest)],
            "outputs": [_describe(info) for info in outputs_of(engine)],
        }

    def _configuration(self, engine: Engine) -> Json:
        """No `max_batch_size`: the batch is an axis like others, since it is the second one of the states."""
        delay_us = round(self._settings.max_queue_delay_ms * 1e3)
        return {
            "name": engine.name,
            "platform": _PLATFORMS[engine.backend.name],
            "backend": _BACKENDS[engine.backend.name],
            "max_batch_size": 0,
            "input": [
                {**_configure(info), "optional": info.name != "sequences"} for info in inputs_of(engine.manifest)
            ],
            "output": [_configure(info) for info in outputs_of(engine)],
            "dynamic_batching": {"max_queue_delay_microseconds": delay_us},
        }

    def _statistics(self, engines: list[Engine]) -> Json:
        statistics = self._metrics.statistics()
        return {
            "model_stats": [
                _model_statistics(engine, statistics.get((engine.name, engine.version), Statistics()))
                for engine in engines
            ]
        }


def _describe(info: TensorInfo) -> Json:
    return {"name": info.name, "datatype": info.datatype, "shape": info.shape}


def _configure(info: TensorInfo) -> Json:
    data_type = "TYPE_STRING" if info.datatype == "BYTES" else f"TYPE_{info.datatype}"
    return {"name": info.name, "data_type": data_type, "dims": info.shape}


def _model_statistics(engine: Engine, statistics: Statistics) -> Json:
    timed = {name: statistics.requests.get(name, Total()) for name in ("success", "fail")}
    for stage in ("queue", "compute_input", "compute_infer", "compute_output"):
        timed[stage] = statistics.stages.get(stage, Total())
    for cache in ("cache_hit", "cache_miss"):
        timed[cache] = Total()  # there is none
    return {
        "name": engine.name,
        "version": engine.version,
        "last_inference": round(statistics.last_inference_s * 1e3),
        "inference_count": statistics.inferences,
        "execution_count": statistics.executions,
        "inference_stats": {
            name: {"count": total.count, "ns": round(total.seconds * 1e9)} for name, total in timed.items()
        },
        "response_stats": {},
        "batch_stats": [],
        "memory_usage": [],
    }
