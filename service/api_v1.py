"""The simple API: `/v1`. Predictions are a plain coroutine that `service.edge` calls before any framework; the rest,
which describes the models, are FastAPI routes.
"""

from typing import Any, Final

import numpy as np
import orjson
from fastapi import APIRouter
from fastapi.responses import Response as RawResponse
from pydantic import BaseModel, ConfigDict

from model.bundle import Epoch, Examples, Stage
from service import openapi
from service.backends import Array, BackendName, DeviceName, Precision, RuntimeName
from service.engine import Engine, Prediction, Query
from service.errors import Unavailable
from service.http import Asked, Request, Response
from service.registry import Registry
from service.settings import Settings
from service.tensors import PredictDecoder, encode_json
from service.trace import Layer


class PredictApi:
    """Answers predict requests: bytes to a `Query`, one call of the engine, a `Prediction` to bytes."""

    name: Final = "v1"
    verb: Final = "predict"

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._timeout_s = settings.request_timeout_ms / 1e3
        self._max_rows = settings.max_queue_size
        self._decoder = PredictDecoder()

    def route(self, path: str) -> Engine | None:
        """The engine that a predict path names; None if `path` is not one of these three.

        `/v1/predict`, `/v1/models/{name}/predict`, `/v1/models/{name}/versions/{version}/predict`
        """
        match path.split("/"):
            case ["", "v1", "predict"]:
                return self._registry.find()
            case ["", "v1", "models", name, "predict"]:
                return self._registry.find(name)
            case ["", "v1", "models", name, "versions", version, "predict"]:
                return self._registry.find(name, version)
        return None

    def read(self, request: Request, body: bytes, engine: Engine) -> Asked:  # noqa: ARG002  # V2 needs headers
        """Decode one request; raise a `ServiceError` for whatever is wrong with it."""
        decoded = self._decoder.decode(body, input_size=engine.manifest.input_size, max_rows=self._max_rows)
        query = Query(decoded.sequences, self._timeout_s, trace=decoded.trace)
        return Asked(query, is_large=decoded.trace is not None)

    def write(self, asked: Asked, prediction: Prediction, engine: Engine) -> Response:  # noqa: ARG002  # V2 needs it
        """Encode one answer. A large one is encoded in a thread."""
        document = _prediction_document(engine, prediction.probabilities)
        if prediction.traces is not None:
            document["traces"] = _encode_traces(prediction.traces)
        return Response(200, encode_json(document))


def _prediction_document(engine: Engine, probabilities: Array) -> dict[str, Any]:
    classes = engine.manifest.labels
    return {
        "model_name": engine.name,
        "model_version": engine.version,
        "classes": classes,
        "labels": [classes[index] for index in probabilities.argmax(axis=1).tolist()],
        "probabilities": probabilities,
    }


def _encode_traces(traces: list[list[Layer]]) -> list[dict[str, Any]]:
    """Encode each array by itself: the encoder holds the interpreter's lock, and other requests must get between."""
    return [
        {
            "layers": [
                {
                    "name": layer.name,
                    "shape": layer.values.shape,
                    "values": orjson.Fragment(encode_json(np.ascontiguousarray(layer.values))),
                }
                for layer in layers
            ]
        }
        for layers in traces
    ]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True)


class ServedModel(_Answer):
    """A model's name and its served versions, ascending."""

    name: str
    versions: list[str]


class ModelList(_Answer):
    """All that is served. `default_model` is none while the one that was set is not served."""

    default_model: str | None
    models: list[ServedModel]


class TimedRun(_Answer):
    """How long a run of `sequences`, each of `steps`, took when the version was loaded."""

    sequences: int
    steps: int
    seconds: float


class WhereItRuns(_Answer):
    """How one model version is computed, and where. Backend `auto` computes each batch by the faster of `timings`."""

    backend: BackendName
    device: DeviceName
    precision: Precision
    timings: dict[RuntimeName, tuple[TimedRun, ...]]


class ModelDescription(_Answer):
    """One served model version. `manifest`: its manifest, without the training trace, which stands beside it."""

    name: str
    version: str
    runtime: WhereItRuns
    pipeline: tuple[Stage, ...]
    training_trace: tuple[Epoch, ...]
    manifest: dict[str, Any]


class ModelsApi:
    """Describes what is served. These are FastAPI routes: they are rare, and their documentation writes itself."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def router(self) -> APIRouter:
        """The routes under `/v1/models`."""
        router = APIRouter(prefix="/v1/models", tags=["models"], responses=openapi.errors(401, 500, 503))
        of_one = openapi.errors(404)
        examples: dict[int | str, dict[str, Any]] = {**of_one, 200: {"model": Examples}}
        router.add_api_route("", self.list_models)
        router.add_api_route("/{name}", self.describe_model, responses=of_one)
        router.add_api_route("/{name}/versions/{version}", self.describe_version, responses=of_one)
        router.add_api_route("/{name}/examples", self.model_examples, responses=examples)
        router.add_api_route("/{name}/versions/{version}/examples", self.version_examples, responses=examples)
        return router

    async def list_models(self) -> ModelList:
        """List every served model with its versions, and say which one is the default."""
        versions: dict[str, list[str]] = {}
        for engine in self._registry:
            versions.setdefault(engine.name, []).append(engine.version)
        models = [ServedModel(name=name, versions=numbers) for name, numbers in versions.items()]
        try:
            default = self._registry.find().name
        except Unavailable:
            if not models:
                raise
            default = None
        return ModelList(default_model=default, models=models)

    async def describe_model(self, name: str) -> ModelDescription:
        """Describe a model's highest version: manifest, pipeline with shapes, training trace, where it runs."""
        return _description(self._registry.find(name))

    async def describe_version(self, name: str, version: str) -> ModelDescription:
        """Describe one version of a model."""
        return _description(self._registry.find(name, version))

    async def model_examples(self, name: str) -> RawResponse:
        """A few held-out sequences of the model's data set, with their true labels."""
        return RawResponse(self._registry.find(name).examples, media_type="application/json")

    async def version_examples(self, name: str, version: str) -> RawResponse:
        """The examples of one version of a model."""
        return RawResponse(self._registry.find(name, version).examples, media_type="application/json")


def _description(engine: Engine) -> ModelDescription:
    manifest = engine.manifest
    return ModelDescription(
        name=engine.name,
        version=engine.version,
        runtime=_runtime(engine),
        pipeline=manifest.pipeline(),
        training_trace=manifest.trace,
        manifest=manifest.model_dump(mode="json", exclude={"trace"}),
    )


def _runtime(engine: Engine) -> WhereItRuns:
    timings = {
        name: tuple(
            TimedRun(sequences=rows, steps=steps, seconds=seconds) for (rows, steps), seconds in sorted(of_one.items())
        )
        for name, of_one in engine.costs.timings.items()
    }
    backend = engine.backend
    return WhereItRuns(backend=backend.name, device=backend.device, precision=backend.precision, timings=timings)
