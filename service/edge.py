"""What holds for every request, in one place, whichever way it comes in.

Request id, API key, error answers, metrics, log line, `Connection: close` while draining. Inference is answered here,
without the framework: `begin` takes a request whose body is there, and calls back with the response without a task or a
turn of the event loop that could be spared; `infer` waits for the body and may be awaited. As an ASGI callable the edge
takes every request, and hands on to the FastAPI app what is not inference.
"""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from time import perf_counter
from typing import Final, Protocol

from service.compression import decompress
from service.engine import Engine, Prediction, Submission
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
    Asked,
    Header,
    Message,
    Receive,
    Request,
    RequestIds,
    Response,
    Scope,
    Send,
    error_response,
)
from service.keys import ApiKeys
from service.metrics import Metrics
from service.readiness import Readiness
from service.timing import Timing

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=-]{1,128}")
_OPEN = ("/health/", "/v2/health/", "/static/")  # and the page itself, which holds nothing secret
# To find the fault in a body can take 0.25 us a byte, and of many that end at once the last would be read a minute
# after the first, with nothing heard in between. Once those of more bytes than this have taken so many seconds of a
# turn of the loop, each of the rest is read in a turn of its own.
_LARGE_BODY_BYTES, _READING_S = 2**15, 0.05

Respond = Callable[[Response], None]

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

    def read(self, request: Request, body: bytes, engine: Engine) -> Asked:
        """Decode one request; raise a `ServiceError` for whatever is wrong with it."""

    def write(self, asked: Asked, prediction: Prediction, engine: Engine) -> Response:
        """Encode one answer. It may be called in a thread, and is if what was asked for is large."""


class _Unreadable:
    """What came in place of a request: no HTTP, a head without end. Satisfies `service.http.Request`."""

    method: Final = ""
    path: Final = ""
    gone: Final = False

    def header(self, _: bytes) -> bytes | None:
        """No header could be read."""
        return None


class Exchange:
    """One inference request, or another, on its way to its answer: what is remembered of it.

    It keeps no error that was raised, whose traceback would keep it; nor, once it is answered, who waited for it. What
    refers to itself stays until the garbage collector looks: thousands of bodies, where many requests come.
    """

    __slots__ = ("api", "engine", "given_up", "headers", "pending", "request", "request_id", "respond", "start_s")

    def __init__(self, request: Request, request_id: bytes, *, api: str) -> None:
        self.request = request
        self.request_id = request_id
        self.api = api
        self.headers: list[Header] = [(b"x-request-id", request_id)]
        self.engine: Engine | None = None
        self.given_up: ServiceError | None = None
        self.pending: Submission | asyncio.Task[Response] | None = None
        self.respond: Respond | None = None
        self.start_s = perf_counter()

    def answer(self, response: Response) -> None:
        """Hand `response` to who waits for it, once."""
        respond, self.respond, self.pending = self.respond, None, None
        if respond is not None:
            respond(response)

    def fields(self, status: int, error: ServiceError | None) -> dict[str, object]:
        """What the log says of it."""
        fields: dict[str, object] = {
            "request_id": self.request_id.decode(),
            "method": self.request.method,
            "path": self.request.path,
            "status": status,
            "duration_ms": round((perf_counter() - self.start_s) * 1e3, 3),
        }
        if self.engine is not None:
            fields["model"] = f"{self.engine.name}/{self.engine.version}"
        if error is not None:
            fields["error"] = str(error)
        return fields


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
        max_body_bytes: int,
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self._app = app
        self._names = {api.name for api in apis}
        self._by_verb = {api.verb: api for api in apis}
        self._keys = keys
        self._metrics = metrics
        self._readiness = readiness
        self._ids = RequestIds()
        self._reading = asyncio.Lock()  # a large body in a turn of its own
        self._read_s = 0.0  # how long large ones were read in this turn

    def inference_api(self, path: str) -> InferenceApi | None:
        """The API in which a request to `path` asks for an inference; None if it does not."""
        api = self._by_verb.get(path[path.rfind("/") + 1 :])
        if api is None or not path.startswith(f"/{api.name}/"):
            return None
        return None if path.count("/") % 2 else api  # /v1/models/predict describes a model of that name

    def begin(self, request: Request, body: bytes, api: InferenceApi, respond: Respond) -> Exchange:
        """Answer a request to a path of which `api` is the `inference_api`, and book it: `respond` is called once.

        Until then it can be given up.
        """
        exchange = self._exchange(request, api.name)
        exchange.respond = respond
        try:
            engine = self._admit(exchange, api)
            timing = Timing()
            if len(body) > _LARGE_BODY_BYTES and self._read_s > _READING_S:
                self._answer_later(exchange, self._read_and_predict(exchange, api, body, timing))
                return exchange
            asked = self._read(request, body, api, engine)
            then = partial(self._answer, exchange, api, asked, timing)
            exchange.pending = None if asked.is_large else engine.submit(asked.query, timing, then)
        except Exception as error:
            exchange.answer(self._refuse(exchange, error))
        else:
            if exchange.pending is None:
                self._answer_later(exchange, self._predict(exchange, api, asked, timing))
        return exchange

    def give_up(self, exchange: Exchange, error: ServiceError) -> None:
        """Answer a request that has not been answered with `error`; drop it if it has not begun to run."""
        if isinstance(exchange.pending, asyncio.Task):
            exchange.given_up = error
            exchange.pending.cancel()
        elif exchange.pending is not None:
            exchange.pending.cancel()
            exchange.answer(self._refuse(exchange, error))

    def refuse(self, request: Request, api: InferenceApi, error: ServiceError) -> Response:
        """Book a request that never came in full; return the answer to it."""
        return self._refuse(self._exchange(request, api.name), error)

    def refuse_unreadable(self, error: ServiceError) -> Response:
        """Book what came in place of a request; return the answer to it, which ends the connection."""
        exchange = self._exchange(_Unreadable(), "other")
        self._book(exchange, error.status, error=error)
        response = error_response(error)
        response.headers = (*response.headers, *dict.fromkeys((*exchange.headers, CLOSE)))
        return response

    async def infer(self, request: AsgiRequest, api: InferenceApi) -> Response:
        """Read the body of a request to a path of which `api` is the `inference_api`; answer and book it."""
        exchange = self._exchange(request, api.name)
        try:
            engine = self._admit(exchange, api)
            with engine.in_use:
                body = await request.body(max_bytes=self.max_body_bytes)
                timing = Timing()
                if encoding := request.header(b"content-encoding"):
                    body = await asyncio.to_thread(decompress, body, encoding, max_bytes=self.max_body_bytes)
                predicting = self._read_and_predict(exchange, api, body, timing)
                del body
                return await predicting
        except (Exception, asyncio.CancelledError) as error:
            return self._refuse(exchange, error)

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

    def _exchange(self, request: Request, api: str) -> Exchange:
        request_id = request.header(b"x-request-id")
        if request_id is None or not _REQUEST_ID.fullmatch(request_id):
            request_id = self._ids.make()
        exchange = Exchange(request, request_id, api=api)
        if self._readiness.drains:
            exchange.headers.append(CLOSE)
        return exchange

    def _admit(self, exchange: Exchange, api: InferenceApi) -> Engine:
        """The engine that is to answer; raise a `ServiceError` if there is none for whoever asks."""
        request = exchange.request
        self._check_key(request)
        engine = exchange.engine = api.route(request.path)
        if engine is None:
            raise NotFound(f"nothing is served under {request.path}")
        if request.method != "POST":
            raise MethodNotAllowed(request.method, allowed="POST")
        engine.refuse_if_full()
        return engine

    def _check_key(self, request: Request) -> None:
        if self._keys is not None and request.path != "/" and not request.path.startswith(_OPEN):
            self._keys.check(request.header(b"authorization"))

    def _answer(
        self, exchange: Exchange, api: InferenceApi, asked: Asked, timing: Timing, outcome: Prediction | ServiceError
    ) -> None:
        """Respond with what a submission came to."""
        if isinstance(outcome, ServiceError):
            response = self._refuse(exchange, outcome)
        else:
            engine = _engine(exchange)
            try:
                response = self._succeed(exchange, engine, api.write(asked, outcome, engine), timing)
            except Exception as error:
                response = self._refuse(exchange, error)
        exchange.answer(response)

    def _answer_later(self, exchange: Exchange, predicting: Coroutine[None, None, Response]) -> None:
        """Respond to what takes more than one run, or is large."""
        exchange.pending = asyncio.create_task(predicting)
        exchange.pending.add_done_callback(partial(self._answer_at_last, exchange))

    def _answer_at_last(self, exchange: Exchange, predicting: asyncio.Task[Response]) -> None:
        # Not raised here: this frame would refer to the error, and it to this frame.
        error = asyncio.CancelledError() if predicting.cancelled() else predicting.exception()
        exchange.answer(self._refuse(exchange, exchange.given_up or error) if error else predicting.result())

    def _read(self, request: Request, body: bytes, api: InferenceApi, engine: Engine) -> Asked:
        if len(body) <= _LARGE_BODY_BYTES:
            return api.read(request, body, engine)
        began_s = perf_counter()
        try:
            return api.read(request, body, engine)
        finally:
            self._read_s += perf_counter() - began_s
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._read_s = 0.0

    async def _read_and_predict(self, exchange: Exchange, api: InferenceApi, body: bytes, timing: Timing) -> Response:
        engine = _engine(exchange)
        with engine.in_use:
            async with self._reading:
                await asyncio.sleep(0)  # whatever else is ready goes first
                asked = api.read(exchange.request, body, engine)
            del body
            return await self._predict(exchange, api, asked, timing)

    async def _predict(self, exchange: Exchange, api: InferenceApi, asked: Asked, timing: Timing) -> Response:
        engine = _engine(exchange)
        with engine.in_use:
            prediction = await engine.predict(asked.query, timing)
            if asked.is_large:  # other requests get between
                response = await asyncio.to_thread(api.write, asked, prediction, engine)
            else:
                response = api.write(asked, prediction, engine)
            return self._succeed(exchange, engine, response, timing)

    async def _pass_on(self, request: AsgiRequest, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, with the headers that every answer has. A HEAD is answered as a GET, without the body."""
        segment = request.path.removeprefix("/").partition("/")[0]
        exchange = self._exchange(request, segment if segment in self._names else "other")
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *exchange.headers]
            await send(message)

        try:
            self._check_key(request)
            of_get = {**scope, "method": "GET"} if request.method == "HEAD" else scope  # the server drops the body
            await self._app(of_get, receive, send_with_headers)
        except (Exception, asyncio.CancelledError) as error:
            response = self._refuse(exchange, error, started=status)
            if not status:
                await _send(response, send)
        else:
            self._book(exchange, status)

    def _succeed(self, exchange: Exchange, engine: Engine, response: Response, timing: Timing) -> Response:
        """Book an inference that succeeded, and say how long it took."""
        timing.encoded = perf_counter()
        engine.metrics.succeeded(timing)
        exchange.headers.append((b"server-timing", timing.header()))
        self._book(exchange, response.status)
        response.headers = (*response.headers, *exchange.headers)
        return response

    def _refuse(self, exchange: Exchange, error: BaseException, *, started: int = 0) -> Response:
        """Book what went wrong; return the answer to it, unless one of status `started` has begun.

        What is no `ServiceError` is a bug.
        """
        if isinstance(error, asyncio.CancelledError):
            error = _cancelled(exchange.request)
        bug = None
        if not isinstance(error, ServiceError):
            bug, error = error, InternalError("internal error")
        if isinstance(error, ClientGone | DeadlineExceeded):
            self._metrics.dropped(error.reason)
        elif not isinstance(error, InternalError):
            self._metrics.rejected(error.reason)
        if exchange.engine is not None:
            exchange.engine.metrics.failed(perf_counter() - exchange.start_s)
        self._book(exchange, started or error.status, error=error, bug=bug)
        response = error_response(error)
        response.headers = (*response.headers, *exchange.headers)
        return response

    def _book(
        self, exchange: Exchange, status: int, *, error: ServiceError | None = None, bug: BaseException | None = None
    ) -> None:
        """Count the answer and log it: our failures as errors, the client's as information, the rest for debugging.

        Not to be ready is no failure: whoever waits for it asks again and again.
        """
        engine = exchange.engine
        model, version = ("", "") if engine is None else (engine.name, engine.version)
        self._metrics.answered(model=model, version=version, api=exchange.api, status=status)
        level = logging.DEBUG
        if bug is not None:
            level = logging.ERROR
        elif status >= 400:
            is_unready = status == Unavailable.status and exchange.request.path.endswith("/ready")
            is_failure = status >= 500 and status != Unsupported.status and not is_unready
            level = logging.ERROR if is_failure else logging.INFO
        if logger.isEnabledFor(level):
            logger.log(level, "request", exc_info=bug, extra={"fields": exchange.fields(status, error)})


def _engine(exchange: Exchange) -> Engine:
    assert exchange.engine is not None, "of a request that was admitted"
    return exchange.engine


def _cancelled(request: Request) -> ServiceError:
    if request.gone:
        return ClientGone("the client left before its answer was ready")
    return Unavailable("the service shuts down and could not wait for this request")  # the drain limit has passed


async def _send(response: Response, send: Send) -> None:
    headers = [*response.headers, (b"content-length", b"%d" % len(response.body))]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})
