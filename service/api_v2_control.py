"""V2's routes that change the service, or would in Triton: repository, settings of traces and logs, shared memory.

The bodies are read here and not by FastAPI: clients send JSON without a Content-Type, or nothing at all. Follows
Triton's extension_model_repository.md, extension_trace.md, extension_logging.md and extension_shared_memory.md.
"""

import json
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends
from starlette.requests import ClientDisconnect
from starlette.requests import Request as RawRequest

from service import logs, openapi
from service.errors import ClientGone, InvalidRequest, TooLarge, Unsupported
from service.registry import Registry
from service.settings import Settings
from service.tensors import unique

_MAX_BODY_BYTES: Final = 65_536
_TRACES_OFF: Final = {
    "trace_level": ["OFF"],
    "trace_rate": "0",
    "trace_count": "0",
    "log_frequency": "0",
    "trace_file": "",
}

Json = dict[str, Any]


async def read_document(request: RawRequest) -> Json:
    """The JSON object in a request's body, whatever its Content-Type; an empty body is an empty object."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _MAX_BODY_BYTES:
                raise TooLarge(f"body of more than {_MAX_BODY_BYTES} bytes, at most that many are taken")
    except ClientDisconnect:
        raise ClientGone("the client left before its body was complete") from None
    try:
        document = json.loads(body, object_pairs_hook=unique) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"malformed JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest("the body must be empty or a JSON object")
    return document


Document = Annotated[Json, Depends(read_document)]


class ControlApi:
    """Loads and unloads models, and answers for the settings that Triton has and this service has not."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self._registry = registry
        self._workers = settings.num_workers

    def router(self) -> APIRouter:
        """The routes."""
        router = APIRouter(prefix="/v2", tags=["open inference protocol"], responses=openapi.errors(401, 500))
        with_body = openapi.errors(400, 413)
        of_one = openapi.errors(404, 503) | with_body
        refused = openapi.errors(501) | with_body
        post = ["POST"]
        add = router.add_api_route
        parameters = openapi.json_body({"parameters": {"type": "object"}})
        ready = openapi.json_body({"ready": {"type": "boolean"}})
        add("/repository/index", self.v2_index, methods=post, responses=with_body, openapi_extra=ready)
        path = "/repository/models/{name}"
        add(f"{path}/load", self.v2_load, methods=post, responses=of_one | refused, openapi_extra=parameters)
        add(f"{path}/unload", self.v2_unload, methods=post, responses=of_one, openapi_extra=parameters)
        for path, show, update, errors in (
            ("/trace/setting", self.v2_trace, self.v2_update_trace, {}),
            ("/models/{name}/trace/setting", self.v2_model_trace, self.v2_update_model_trace, openapi.errors(404, 503)),
            ("/logging", self.v2_logging, self.v2_update_logging, {}),
        ):
            add(path, show, responses=errors)
            add(path, update, methods=post, responses=refused | errors, openapi_extra=openapi.json_body({}))
        for kind in ("system", "cuda"):
            path = f"/{kind}sharedmemory"
            for suffix, methods in (
                ("status", ["GET"]),
                ("region/{region}/status", ["GET"]),
                ("region/{region}/register", post),
                ("unregister", post),
                ("region/{region}/unregister", post),
            ):
                add(f"{path}/{suffix}", _refuse_shared_memory, methods=methods, include_in_schema=False)
        return router

    async def v2_index(self, document: Document) -> list[Json]:
        """List every version that is to be served with its state, and the reason if it is not served."""
        ready_only = document.get("ready", False)
        if not isinstance(ready_only, bool):
            raise InvalidRequest("ready must be true or false")
        return [
            {"name": one.name, "version": str(one.version), "state": one.state, "reason": one.reason}
            for one in self._registry.index()
            if one.state == "READY" or not ready_only
        ]

    async def v2_load(self, name: str, document: Document) -> Json:
        """Load a model, or look again for its newest version; answer once every worker serves it."""
        parameters = _parameters(document)
        if parameters:
            given = ", ".join(map(repr, sorted(parameters)))
            raise Unsupported(f"load takes no parameters, got {given}: models come from the repository as they are")
        await self._registry.load_model(name)
        return {}

    async def v2_unload(self, name: str, document: Document) -> Json:
        """Unload all versions of a model; answer once no worker serves it."""
        unknown = sorted(_parameters(document).keys() - {"unload_dependents"})
        if unknown:
            raise InvalidRequest(f"parameter {unknown[0]!r}: there is none; allowed is unload_dependents")
        await self._registry.unload_model(name)
        return {}

    async def v2_trace(self) -> Json:
        """Show the settings of Triton's traces, which are always off: ask for layers as outputs instead."""
        return _TRACES_OFF

    async def v2_update_trace(self, document: Document) -> Json:
        """Accept what leaves Triton's traces off."""
        return _keep_traces_off(document)

    async def v2_model_trace(self, name: str) -> Json:
        """Show the settings of Triton's traces for one model."""
        self._registry.find(name)
        return _TRACES_OFF

    async def v2_update_model_trace(self, name: str, document: Document) -> Json:
        """Accept what leaves Triton's traces off for one model."""
        self._registry.find(name)
        return _keep_traces_off(document)

    async def v2_logging(self) -> Json:
        """Show what is logged."""
        return _log_settings()

    async def v2_update_logging(self, document: Document) -> Json:
        """Change what is logged, where one process does all the work."""
        wanted = _log_settings() | document
        if unknown := sorted(wanted.keys() - _log_settings().keys()):
            raise InvalidRequest(f"setting {unknown[0]!r}: there is none; allowed are {', '.join(_log_settings())}")
        if wanted["log_file"] != "" or wanted["log_format"] != "ISO8601":
            raise Unsupported("logs go to standard error with ISO 8601 times; log_file and log_format are fixed")
        flags = [wanted[name] for name in ("log_info", "log_warning", "log_error")]
        verbosity = wanted["log_verbose_level"]
        if not all(isinstance(flag, bool) for flag in flags) or type(verbosity) is not int or verbosity < 0:
            raise InvalidRequest("log_info, log_warning and log_error are true or false, log_verbose_level is a number")
        if wanted != _log_settings() and self._workers > 1:
            raise Unsupported(f"{self._workers} workers log here and one was asked: set LSTM_LOG_LEVEL and restart")
        levels = ("debug", "info", "warning", "error", "critical")
        logs.set_level(next(level for level, on in zip(levels, (verbosity > 0, *flags, True), strict=True) if on))
        return _log_settings()


def _parameters(document: Json) -> Json:
    parameters = document.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise InvalidRequest("parameters must be an object")
    return parameters


def _keep_traces_off(document: Json) -> Json:
    if unknown := sorted(document.keys() - _TRACES_OFF.keys()):
        raise InvalidRequest(f"setting {unknown[0]!r}: there is none; allowed are {', '.join(_TRACES_OFF)}")
    if any(value is not None and value != _TRACES_OFF[name] for name, value in document.items()):
        raise Unsupported("Triton's traces are off here; ask for a layer by name as an output, or /v1 with a trace")
    return _TRACES_OFF


def _log_settings() -> Json:
    level = logs.level()
    order = ("debug", "info", "warning", "error")
    return {
        "log_file": "",
        "log_info": level in order[:2],
        "log_warning": level in order[:3],
        "log_error": level in order,
        "log_verbose_level": int(level == "debug"),
        "log_format": "ISO8601",
    }


async def _refuse_shared_memory() -> None:
    raise Unsupported("tensors in shared memory are not taken; send them in the request")
