"""Clients go on while versions are published, spoilt, deleted, a model is unloaded and loaded: none of them fails."""

import json
import shutil
import threading
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import pytest
from factories import make_bundle, ragged
from processes import IS_SOAK, ServiceProcess, running_service

from model.bundle import MANIFEST, ONNX, open_bundle
from model.bundle.storage import SEAL, seal

pytestmark = pytest.mark.alone

BODY = {"sequences": ragged(np.random.default_rng(0), (5, 3))}
STEADY, TOGGLED = "/v1/models/steady", "/v1/models/toggled"


def publish(repository: Path, shelf: Path, version: int, *, corrupt: bool = False) -> None:
    """Make another version of `steady` appear in one step, out of one of two that are on the shelf."""
    staging = repository / ".staging-test"
    shutil.copytree(shelf / "steady" / str(1 + version % 2), staging)
    manifest = json.loads((staging / MANIFEST).read_bytes()) | {"version": version}
    content = json.dumps(manifest).encode()
    (staging / MANIFEST).write_bytes(content)
    (staging / SEAL).write_bytes(seal(content))
    if corrupt:
        with (staging / ONNX).open("r+b") as file:
            file.truncate(100)
    staging.rename(repository / "steady" / str(version))


class Clients:
    """Threads that ask as long as they may, and the tally of what they were told."""

    def __init__(self, url: str) -> None:
        self.answers: Counter[str] = Counter()
        self.failures: list[str] = []
        self.newest = 1
        self._url = url
        self._lock = threading.Lock()
        self._stop = threading.Event()
        asks = (self._ask_steady, self._ask_steady, self._ask_what_is_told, self._ask_toggled)
        self._threads = [threading.Thread(target=self._run, args=(ask,)) for ask in asks]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, ask: Any) -> None:
        connections = 0
        while not self._stop.is_set():
            connections += 1  # a new one now and then, so that every worker is asked
            with httpx.Client(base_url=self._url, timeout=30) as client:
                for _ in range(20):
                    try:
                        ask(client)
                    except httpx.HTTPError as error:
                        self._note("failure", repr(error))

    def _ask_steady(self, client: httpx.Client) -> None:
        """Of this model there is a version at any time."""
        answer = client.post(f"{STEADY}/predict", json=BODY)
        self._note("steady" if answer.status_code == 200 else "failure", answer.text)

    def _ask_what_is_told(self, client: httpx.Client) -> None:
        """A version that any worker tells of can be had from every worker, unless it has been replaced since."""
        told = client.get(STEADY).json()["version"]
        answer = httpx.post(f"{self._url}{STEADY}/versions/{told}/predict", json=BODY, timeout=30)
        if answer.status_code == 404 and int(told) < self.newest:
            self._note("replaced", answer.text)
        else:
            self._note("told" if answer.status_code == 200 else "failure", answer.text)

    def _ask_toggled(self, client: httpx.Client) -> None:
        """This one may be unloaded, and says so."""
        answer = client.post(f"{TOGGLED}/predict", json=BODY)
        if answer.status_code == 404 and "unloaded" in answer.text:
            self._note("unloaded", answer.text)
        else:
            self._note("toggled" if answer.status_code == 200 else "failure", answer.text)

    def _note(self, kind: str, text: str) -> None:
        with self._lock:
            self.answers[kind] += 1
            if kind == "failure":
                self.failures.append(text)


class Operator:
    """Changes the repository, one round after another, and sees to it that the service follows."""

    def __init__(self, service: ServiceProcess, repository: Path, shelf: Path) -> None:
        self._service = service
        self._repository = repository
        self._shelf = shelf
        self._version = 1
        self.rss_mib: list[float] = []
        self.descriptors: list[int] = []
        self.seen_after_s: list[float] = []

    def round(self, clients: Clients) -> None:
        self._version += 1
        clients.newest = self._version
        start = time.monotonic()
        publish(self._repository, self._shelf, self._version)
        self._wait_for(str(self._version), "READY", "")
        self.seen_after_s.append(time.monotonic() - start)
        publish(self._repository, self._shelf, self._version + 1, corrupt=True)
        self._post("toggled/unload")
        self._wait_for(str(self._version + 1), "UNAVAILABLE", "model.onnx: content differs")
        self._post("toggled/load")
        shutil.rmtree(self._repository / "steady" / str(self._version + 1))
        self.rss_mib.append(self._service.resident_mb())
        workers = self._service.serving_processes()
        self.descriptors.append(sum(len([*Path(f"/proc/{worker}/fd").iterdir()]) for worker in workers))

    def _wait_for(self, version: str, state: str, reason: str) -> None:
        """Wait until 5 new connections in a row are told of it."""
        deadline, told = time.monotonic() + 20, 0
        while told < 5:
            index = httpx.post(f"{self._service.url}/v2/repository/index", timeout=30).json()
            found = [one for one in index if (one["name"], one["version"], one["state"]) == ("steady", version, state)]
            told = told + 1 if found and reason in found[0].get("reason", "") else 0
            assert time.monotonic() < deadline, index
            time.sleep(0.01)

    def _post(self, action: str) -> None:
        httpx.post(f"{self._service.url}/v2/repository/models/{action}", json={}, timeout=30).raise_for_status()


def reload_under_load(folder: Path, *, seconds: float, workers: int) -> tuple[Clients, Operator]:
    shelf, repository = folder / "shelf", folder / "bundles"
    for seed in range(2):
        make_bundle(shelf, "steady", seed=seed)
    make_bundle(repository, "toggled")
    (repository / "steady").mkdir()
    publish(repository, shelf, 1)
    open_bundle(repository / "steady" / "1")
    with running_service(repository, "--workers", str(workers), "--reload-interval-s", "0.1") as service:
        service.wait_until("/health/ready", 200)
        clients, operator = Clients(service.url), Operator(service, repository, shelf)
        deadline = time.monotonic() + seconds
        try:
            while time.monotonic() < deadline or len(operator.rss_mib) < 5:
                operator.round(clients)
        finally:
            clients.end()
        assert service.terminate() == 0, service.log
    return clients, operator


@pytest.mark.parametrize("workers", [2] if IS_SOAK else [1, 2])
def test_no_request_fails_and_memory_stays(tmp_path: Path, workers: int) -> None:
    clients, operator = reload_under_load(tmp_path, seconds=1800 if IS_SOAK else 8, workers=workers)
    rounds, seen_s = len(operator.rss_mib), operator.seen_after_s
    warm, last = (slice(rounds // 3, rounds // 3 + 20), slice(-20, None)) if IS_SOAK else (slice(1, 2), slice(-1, None))
    rss, descriptors = ([median(of[part]) for part in (warm, last)] for of in (operator.rss_mib, operator.descriptors))
    print(f"\n{rounds} versions; {dict(clients.answers)};")
    print(f"RSS {rss[0]:.1f} -> {rss[1]:.1f} MiB, descriptors {descriptors[0]:.0f} -> {descriptors[1]:.0f};")
    print(f"seen by all after {median(seen_s):.2f} s (median), {max(seen_s):.2f} s (longest)")
    assert clients.failures == []
    assert min(clients.answers[kind] for kind in ("steady", "told", "toggled", "unloaded")) > 0
    assert rss[1] < rss[0] * (1.02 if IS_SOAK else 1.05)
    assert descriptors[1] <= descriptors[0] + 4 * workers  # as many clients come and go
