"""The whole service in this process, over ASGI, with real bundles and the real ONNX backend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_backend import CountingBackend
from prometheus_client.parser import text_string_to_metric_families

from model.bundle import Bundle
from service import batcher, engine
from service.app import Service
from service.backends import Runtime, RuntimeName, load_backend
from service.control import Control
from service.readiness import Readiness
from service.settings import load_settings

PREDICT = "/v1/models/tiny/predict"
BODY = {"sequences": [[[0.1, 0.2, 0.3], [1, 2, 3]], [[-1, 0, 1]]]}

Message = dict[str, Any]

_WAIT_S = 10


@dataclass
class Served:
    """A service and a client of it."""

    service: Service
    client: httpx.AsyncClient

    async def metric(self, name: str, **labels: str) -> float:
        """One sample of the scrape; 0 if there is none."""
        text = (await self.client.get("/metrics")).text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return float(sample.value)
        return 0.0


@asynccontextmanager
async def serving(repository: Path, *arguments: str, load: bool = True) -> AsyncIterator[Served]:
    settings = load_settings([f"--repository={repository}", *arguments], {})
    service = Service(settings, Runtime(("onnx",), "cpu", 1), Readiness(1), Control(1))
    if load:
        await service.load()
    transport = httpx.ASGITransport(service.edge, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield Served(service, client)
    await service.close()


def ask(repository: Path, method: str, path: str, *arguments: str, **request: Any) -> httpx.Response:
    """One request to a service that is made for it."""

    async def run() -> httpx.Response:
        async with serving(repository, *arguments) as served:
            return await served.client.request(method, path, **request)

    return asyncio.run(run())


def behind_a_gate(monkeypatch: pytest.MonkeyPatch) -> dict[str, CountingBackend]:
    """Put a gate before each backend that is loaded from now on; return those backends, by model, as they load."""
    made: dict[str, CountingBackend] = {}

    def load(bundle: Bundle, name: RuntimeName, runtime: Runtime) -> CountingBackend:
        backend = CountingBackend(load_backend(bundle, name, runtime))
        made[bundle.manifest.name] = backend
        return backend

    monkeypatch.setattr(engine, "load_backend", load)
    monkeypatch.setattr(batcher, "SHORT_RUN_S", 0.0)  # a gate holds a thread, not the event loop
    return made


def close_gate(backend: CountingBackend) -> None:
    """Hold what comes next to `backend`, which has been warmed up, and forget what came before."""
    backend.batches.clear()
    while backend.gate.entered.acquire(blocking=False):
        pass
    backend.gate.close()


@dataclass
class RawClient:
    """A client at the level of ASGI: it sends `messages`, then waits until it leaves."""

    messages: Sequence[Message]
    sent: list[Message] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._left = list(self.messages)

    async def receive(self) -> Message:
        if self._left:
            return self._left.pop(0)
        self.waiting.set()
        async with asyncio.timeout(_WAIT_S):  # a service that waits for what never comes fails its test
            await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def post(self, app: Callable[..., Awaitable[None]], path: str, *headers: tuple[bytes, bytes]) -> Awaitable[None]:
        scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": list(headers)}
        return app(scope, self.receive, self.send)
