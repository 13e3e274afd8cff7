"""What holds for every request, in one place, whichever way it comes in.

Request id, API key, error answers, metrics, log line, `Connection: close` while draining. `infer` answers inference
requests, without the framework, and that is all that `service.protocol` asks of it. As an ASGI callable the edge takes
every request, and hands on to the FastAPI app what is not inference.
"""

import asyncio
import logging
import os
import re
from collections.abc import Sequence
from itertools import count
from time import perf_counter
from typing import Protocol

from service.engine import Engine
from service.errors import (
    ClientGone,
    DeadlineExceeded,
    InternalError,
    MethodNotAllowed,
    NotFound,
    ServiceError,
    Unavailable,
    Unsupported,
)
from service.http import (
    CLOSE,
    ASGIApp,
    AsgiRequest,
    Header,
    Message,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    error_response,
)
from service.keys import ApiKeys
from service.metrics import Metrics
from service.readiness import Readiness

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_HEALTH = ("/health/", "/v2/health/")

logger = logging.getLogger(__name__)


class InferenceApi(Protocol):
    """One protocol in which inference is asked for; it translates between HTTP and the engine."""

    @property
    def name(self) -> str:
        """The first segment of its paths, which is also the metrics' label."""

    @property
    def verb(self) -> str:
        """The last segment of those paths of its that ask for an inference."""

    def route(self, path: str) -> Engine | None:
        """The engine that `path` asks for an inference; None if it is another kind of path."""

    async def answer(self, request: Request, engine: Engine) -> Response:
        """Answer one inference request; raise a `ServiceError` for whatever goes wrong."""


class Edge:
    """Wraps the FastAPI `app` and answers inference requests itself."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        apis: Sequence[InferenceApi],
        keys: ApiKeys | None,
        metrics: Metrics,
        readiness: Readiness,
    ) -> None:
        self._app = app
        self._names = {api.name for api in apis}
        self._by_verb = {api.verb: api for api in apis}
        self._keys = keys
        self._metrics = metrics
        self._readiness = readiness
        self._ids_begin = os.urandom(8).hex()
        self._ids = count(1)

    def inference_api(self, path: str) -> InferenceApi | None:
        """The API in which a request to `path` asks for an inference; None if it does not."""
        api = self._by_verb.get(path[path.rfind("/") + 1 :])
        return api if api is not None and path.startswith(f"/{api.name}/") else None

    async def infer(self, request: Request, api: InferenceApi) -> Response:
        """Answer a request to a path of which `api` is the `inference_api`, whatever happens, and book it."""
        exchange = self._exchange(request, api.name)
        try:
            response = await self._infer(request, api, exchange)
        except asyncio.CancelledError:
            response = self._refuse(exchange, _cancelled(request))
        except ServiceError as error:
            response = self._refuse(exchange, error)
        except Exception as error:
            response = self._refuse(exchange, error)
        exchange.status = response.status
        self._book(exchange)
        response.headers = (*response.headers, *exchange.headers)
        return response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection: a request, or the lifespan, which is the app's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = AsgiRequest(scope, receive)
        api = self.inference_api(request.path)
        if api is not None:
            response = await self.infer(request, api)
            request.stop_watching()
            await _send(response, send)
        else:
            await self._pass_on(request, scope, receive, send)

    async def _infer(self, request: Request, api: InferenceApi, exchange: "_Exchange") -> Response:
        self._check_key(request)
        engine = exchange.engine = api.route(request.path)
        if engine is None:
            raise NotFound(f"nothing is served under {request.path}")
        if request.method != "POST":
            raise MethodNotAllowed(request.method, allowed="POST")
        with engine.in_use:
            response = await api.answer(request, engine)
        if response.timing is not None:
            exchange.succeeded = True
            engine.metrics.succeeded(response.timing)
            exchange.headers.append((b"server-timing", response.timing.header()))
        return response

    async def _pass_on(self, request: AsgiRequest, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, with the headers that every answer has."""
        segment = request.path.removeprefix("/").partition("/")[0]
        exchange = self._exchange(request, segment if segment in self._names else "other")

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                message["headers"] = [*message["headers"], *exchange.headers]
            await send(message)

        try:
            self._check_key(request)
            await self._app(scope, receive, send_with_headers)
        except (Exception, asyncio.CancelledError) as error:
            fault = _cancelled(request) if isinstance(error, asyncio.CancelledError) else error
            response = self._refuse(exchange, fault)
            if not exchange.status:
                await _send(response, send_with_headers)
        self._book(exchange)

    def _check_key(self, request: Request) -> None:
        if self._keys is not None and not request.path.startswith(_HEALTH):
            self._keys.check(request.header(b"authorization"))

    def _exchange(self, request: Request, api: str) -> "_Exchange":
        request_id = request.header(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = f"{self._ids_begin}{next(self._ids):016x}".encode()
        exchange = _Exchange(request, request_id, api)
        if self._readiness.drains:
            exchange.headers.append(CLOSE)
        return exchange

    def _refuse(self, exchange: "_Exchange", error: Exception) -> Response:
        """Count what went wrong; return the answer to it. What is no `ServiceError` is a bug."""
        if not isinstance(error, ServiceError):
            exchange.bug, error = error, InternalError("internal error")
        exchange.error = error
        if isinstance(error, ClientGone | DeadlineExceeded):
            self._metrics.dropped(error.reason)
        elif not isinstance(error, InternalError):
            self._metrics.rejected(error.reason)
        return error_response(error)

    def _book(self, exchange: "_Exchange") -> None:
        """Count the answer and log it: our failures as errors, the client's as information, the rest for debugging."""
        engine, status = exchange.engine, exchange.status
        model, version = ("", "") if engine is None else (engine.name, engine.version)
        self._metrics.answered(model=model, version=version, api=exchange.api, status=status)
        if engine is not None and not exchange.succeeded:
            engine.metrics.failed(exchange.duration_s)
        of_the_client = status < 500 or status == Unsupported.status
        level = logging.DEBUG if status < 400 else logging.INFO if of_the_client else logging.ERROR
        if exchange.bug is not None:
            level = logging.ERROR
        if logger.isEnabledFor(level):
            logger.log(level, "request", exc_info=exchange.bug, extra={"fields": exchange.fields()})


class _Exchange:
    """What is remembered of one request, and the headers that its answer gets whatever it says."""

    __slots__ = ("_start", "api", "bug", "engine", "error", "headers", "request", "request_id", "status", "succeeded")

    def __init__(self, request: Request, request_id: bytes, api: str) -> None:
        self.request = request
        self.api = api
        self.request_id = request_id
        self.headers: list[Header] = [(b"x-request-id", request_id)]
        self.engine: Engine | None = None
        self.succeeded = False
        self.bug: Exception | None = None
        self.error: ServiceError | None = None
        self.status = 0
        self._start = perf_counter()

    @property
    def duration_s(self) -> float:
        """Seconds since its headers came, or, of one that came without ASGI, since its body was complete."""
        return perf_counter() - self._start

    def fields(self) -> dict[str, object]:
        """What the log says of this request."""
        fields: dict[str, object] = {
            "request_id": self.request_id.decode(),
            "method": self.request.method,
            "path": self.request.path,
            "status": self.status,
            "duration_ms": round(self.duration_s * 1e3, 3),
        }
        if self.engine is not None:
            fields["model"] = f"{self.engine.name}/{self.engine.version}"
        if self.error is not None:
            fields["error"] = str(self.error)
        return fields


def _cancelled(request: Request) -> ServiceError:
    if request.gone:
        return ClientGone("the client left before its answer was ready")
    return Unavailable("the service shuts down and could not wait for this request")  # uvicorn's drain limit has passed


async def _send(response: Response, send: Send) -> None:
    headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
