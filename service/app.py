"""Puts the service together: the one place where every part meets every other."""

import asyncio
import logging
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse, PlainTextResponse
from fastapi.responses import Response as RawResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.requests import Request as RawRequest
from starlette.routing import Match

from service import openapi
from service.api_page import PageApi
from service.api_v1 import ModelsApi, PredictApi
from service.api_v2 import InferApi
from service.api_v2_control import ControlApi
from service.api_v2_models import DescribeApi
from service.backends import Runtime
from service.batcher import QueueLimits
from service.control import Control
from service.edge import Edge
from service.engine import EngineLimits
from service.errors import InternalError, MethodNotAllowed, NotFound, ServiceError, Unavailable
from service.http import error_response
from service.keys import ApiKeys
from service.metrics import CONTENT_TYPE, Metrics
from service.policy import Limits
from service.readiness import Readiness, WorkerState
from service.registry import Registry
from service.settings import Settings

_STATIC = Path(__file__).parent / "static"

logger = logging.getLogger(__name__)


class Service:
    """Everything that one process serves with. `edge` is the ASGI callable."""

    def __init__(self, settings: Settings, runtime: Runtime, readiness: Readiness, control: Control) -> None:
        self.readiness = readiness
        self._control = control
        self._reload_interval_s = settings.reload_interval_s
        self._hang_timeout_s = settings.hang_timeout_s
        self._following: asyncio.Task[None] | None = None
        self._metrics = Metrics()
        limits = EngineLimits(
            Limits(settings.max_batch_size, settings.max_batch_steps, settings.max_queue_delay_ms / 1e3),
            QueueLimits(settings.max_queue_size, settings.max_queue_steps),
            settings.max_sequence_length,
            settings.max_trace_values,
        )
        self._registry = Registry(settings, runtime, limits=limits, metrics=self._metrics, control=control)
        self.edge = Edge(
            self._framework_app(settings),
            apis=(PredictApi(self._registry, settings), InferApi(self._registry, settings)),
            keys=ApiKeys(settings.api_keys_file) if settings.api_keys_file else None,
            metrics=self._metrics,
            readiness=readiness,
            max_body_bytes=settings.max_body_bytes,
        )

    async def load(self) -> None:
        """Load and warm the models, and follow the repository from then on: requests may come once it holds one.

        Raises `BackendError` if the device fails.
        """
        self._control.listen()
        await self._registry.load()
        self._say_if_ready()
        self._following = asyncio.create_task(self._follow())

    def look_at_repository(self) -> None:
        """Have every worker look at the repository now."""
        self._control.ring()

    def drain(self) -> None:
        """Say that no more requests should be sent here; those that come are still answered."""
        self.readiness.set(WorkerState.DRAINING)

    def beat(self) -> None:
        """Say that the event loop turns, and whether a model run hangs: then the service is neither live nor ready."""
        self.readiness.beat()
        longest_s = self._registry.longest_run_s
        state = self.readiness.state
        if longest_s > self._hang_timeout_s and state is WorkerState.SERVING:
            logger.error("a model run has taken %.0f s and is taken to hang", longest_s)
            self.readiness.set(WorkerState.HANGING)
        elif longest_s <= self._hang_timeout_s and state is WorkerState.HANGING:
            logger.warning("the model run that was taken to hang has come to an end")
            self.readiness.set(WorkerState.SERVING)

    async def close(self) -> None:
        """Release the models, and leave nothing unbooked."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
        self._control.stop_listening()
        await self._registry.close()
        self._metrics.book()  # a worker's files are read on after it has ended

    async def _follow(self) -> None:
        """Serve what the repository and the operators want: look every so often, and whenever the bell rings."""
        heard = 0
        while True:
            await self._control.rung(heard, timeout_s=self._reload_interval_s or None)
            heard = self._control.rings
            try:
                await self._registry.sync()
            except Exception:
                logger.exception("the repository could not be followed; what is loaded goes on being served")
            self._say_if_ready()

    def _say_if_ready(self) -> None:
        if not self._registry.missing and self.readiness.state is WorkerState.STARTING:
            self.readiness.set(WorkerState.SERVING)

    def _framework_app(self, settings: Settings) -> FastAPI:
        """All that is not inference. The documentation is served from our own files: it works without the internet."""
        app = FastAPI(
            title="lstm-serve",
            version=version("lstm-serve"),
            description=openapi.DESCRIPTION,
            docs_url=None,
            redoc_url=None,
            redirect_slashes=False,
            generate_unique_id_function=lambda route: route.name,
        )
        app.include_router(ModelsApi(self._registry).router())
        describe = DescribeApi(self._registry, settings, readiness=self.readiness, metrics=self._metrics)
        app.include_router(describe.router())
        app.include_router(ControlApi(self._registry, settings).router())
        unavailable = openapi.errors(500, 503)
        app.add_api_route("/health/live", self._live, name="live", tags=["health"], responses=unavailable)
        app.add_api_route("/health/ready", self._ready, name="ready", tags=["health"], responses=unavailable)
        app.add_api_route(
            "/metrics",
            self._scrape,
            name="metrics",
            tags=["metrics"],
            response_class=PlainTextResponse,
            responses=openapi.errors(401, 500),
        )
        app.include_router(PageApi().router())
        app.add_api_route("/docs", self._docs, include_in_schema=False)
        app.mount("/static", StaticFiles(directory=_STATIC))
        for kind in (HTTPException, ServiceError, Exception):
            app.add_exception_handler(kind, _handle)
        generate = app.openapi
        app.openapi = lambda: openapi.complete(generate())  # type: ignore[method-assign]  # FastAPI's documented way
        return app

    async def _live(self) -> dict[str, bool]:
        """Say that the process runs, its event loop turns, and no worker's model run hangs."""
        if not self.readiness.live:
            raise Unavailable("a model run hangs")
        return {"live": True}

    async def _ready(self) -> dict[str, bool]:
        """Say whether requests may be sent: models loaded and warm, on every worker, and not shutting down."""
        if not self.readiness.ready:
            draining = self.readiness.state is WorkerState.DRAINING
            why = "shutting down" if draining else "" if self.readiness.live else "a model run hangs"
            raise Unavailable(f"not ready: {why or self._registry.missing or 'a worker is not ready yet'}")
        return {"ready": True}

    async def _scrape(self) -> RawResponse:
        """All metrics of all workers, in Prometheus' text format."""
        return RawResponse(self._metrics.render(), media_type=CONTENT_TYPE)

    async def _docs(self) -> HTMLResponse:
        folder = "static/swagger-ui"
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title="lstm-serve",
            swagger_js_url=f"{folder}/swagger-ui-bundle.js",
            swagger_css_url=f"{folder}/swagger-ui.css",
            swagger_favicon_url="data:,",
        )


async def _handle(request: RawRequest, error: Exception) -> RawResponse:
    """Answer the framework's own errors, 404 and 405 among them, as all others are; the edge logs a bug's stack."""
    if isinstance(error, HTTPException):
        error = _translate(request, error)
    response = error_response(error if isinstance(error, ServiceError) else InternalError("internal error"))
    return RawResponse(response.body, response.status, {k.decode(): v.decode() for k, v in response.headers})


def _translate(request: RawRequest, error: HTTPException) -> ServiceError:
    if error.status_code == MethodNotAllowed.status:
        is_static = request.url.path.startswith("/static/")  # it is mounted, for whatever method
        return MethodNotAllowed(request.method, allowed="GET, HEAD" if is_static else _allowed_methods(request))
    return NotFound(f"nothing is served under {request.url.path}")


def _allowed_methods(request: RawRequest) -> str:
    """Those of all routes with this path: the framework names the first one's. Who may GET may ask for HEAD."""

    def is_allowed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)

    return ", ".join(filter(is_allowed, ("GET", "POST"))).replace("GET", "GET, HEAD")
