"""What goes wrong around the service: a run that hangs, a poisoned sequence, a spoilt repository, keys that change."""

import asyncio
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import numpy as np
import onnx
import pytest
from factories import make_bundle
from load import Fleet, Question
from onnx import TensorProto
from processes import ONNX_ALONE, ServiceProcess, running_service

from model.bundle import MANIFEST, ONNX, TORCHSCRIPT
from model.bundle.storage import SEAL, seal

LIMIT_S = 30
PREDICT = "/v1/models/tiny/predict"
BODY = {"sequences": [[[0.1, 0.2], [0.3, 0.4]]]}


def wait_until(is_so: Callable[[], bool], service: ServiceProcess) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        assert time.monotonic() < deadline, service.log
        time.sleep(0.02)


def test_a_run_that_hangs_gets_its_504_and_its_worker_is_replaced(tmp_path: Path) -> None:
    # What takes far longer than LSTM_HANG_TIMEOUT_S is to the service what never ends.
    make_bundle(tmp_path, "slow", input_size=2, hidden_size=1024, bidirectional=True)
    settings = ("--workers=2", "--hang-timeout-s=1", "--request-timeout-ms=500", "--backend=onnx", "--threads=1")
    with running_service(tmp_path, *settings) as service:
        service.wait_until("/health/ready", 200)
        before = service.serving_processes()
        endless = {"sequences": np.zeros((1, 10_000, 2)).tolist()}
        answer = httpx.post(f"{service.url}/v1/predict", json=endless, timeout=LIMIT_S)
        assert (answer.status_code, "time ran out" in answer.text) == (504, True)
        service.process.send_signal(signal.SIGSTOP)  # or the parent may replace the worker before anybody looks
        wait_until(lambda: httpx.get(f"{service.url}/health/live", timeout=LIMIT_S).status_code == 503, service)
        service.process.send_signal(signal.SIGCONT)
        wait_until(lambda: len({*service.serving_processes()} - {*before}) == 1, service)
        service.wait_until("/health/ready", 200)
        good = {"sequences": [[[0.1, 0.2]]]}
        for _ in range(10):  # connections of their own, so that both workers answer
            assert httpx.post(f"{service.url}/v1/predict", json=good, timeout=LIMIT_S).status_code == 200
    assert any("is taken to hang" in line for line in service.log)


def test_a_short_sequence_does_not_wait_for_all_of_a_long_one(tmp_path: Path) -> None:
    make_bundle(tmp_path, "deep", input_size=2, hidden_size=256, num_layers=2)
    with running_service(tmp_path, ONNX_ALONE, "--workers=1") as service, ThreadPoolExecutor(1) as client:
        service.wait_until("/health/ready", 200)
        long_ones = json.dumps({"sequences": np.zeros((32, 2000, 2)).tolist()})
        answer = client.submit(httpx.post, f"{service.url}/v1/predict", content=long_ones, timeout=LIMIT_S)
        service.wait_until("/metrics", 200, lambda metrics: re.search(r"lstm_executions_total.* [1-9]", metrics.text))
        short_one = httpx.post(f"{service.url}/v1/predict", json={"sequences": [[[0.1, 0.2]]]}, timeout=LIMIT_S)
        assert short_one.status_code == 200
        assert not answer.done()
        assert answer.result().status_code == 200


JUMPING_CLOCK = """
import random, time

now, now_ns = time.time, time.time_ns
time.time = lambda: now() + random.uniform(-1e9, 1e9)
time.time_ns = lambda: now_ns() + random.randrange(-10**18, 10**18)
"""


def test_a_clock_that_jumps_by_decades_whenever_it_is_read_changes_nothing(
    heavy: Path, questions: list[Question], repository: "Repository", tmp_path: Path
) -> None:
    shutil.copytree(heavy / "heavy", repository.folder / "heavy")
    (tmp_path / "sitecustomize.py").write_text(JUMPING_CLOCK)

    async def run(service: ServiceProcess) -> None:
        fleet = Fleet(service.port, questions)
        await fleet.closed_loop(8, 1)
        repository.publish(2)
        await fleet.closed_loop(8, 1)
        assert all(outcome.is_right for outcome in fleet.outcomes)  # no deadline has passed, no connection was idle
        await fleet.close()

    settings = (ONNX_ALONE, "--workers=2", "--reload-interval-s=0.05")
    with running_service(repository.folder, *settings, environ={"PYTHONPATH": str(tmp_path)}) as service:
        service.wait_until("/health/ready", 200)
        before = service.serving_processes()
        asyncio.run(run(service))
        wait_until(lambda: index(service).get("2") == "READY", service)
        assert service.serving_processes() == before  # none was taken to hang
        assert abs(metric(service, "lstm_last_inference_timestamp_seconds") - time.time()) > 1e3  # so it did jump
        start = time.monotonic()
        assert service.terminate() == 0
        assert time.monotonic() - start < 5


def test_a_poisoned_sequence_fails_alone(heavy: Path, questions: list[Question]) -> None:
    # To TorchScript infinite minus infinite is not a number, which spoils the whole answer; ONNX Runtime saturates.
    poison = json.dumps({"sequences": [[[3.4e38, -3.4e38]] * 50]}).encode()

    async def run(service: ServiceProcess) -> list[httpx.Response]:
        fleet = Fleet(service.port, questions)
        async with httpx.AsyncClient(base_url=service.url, timeout=LIMIT_S) as client:
            load = asyncio.create_task(fleet.closed_loop(16, 2))
            answers = []
            while not load.done() or len(answers) <= 5:  # as slow as the machine may be
                if load.done():
                    load = asyncio.create_task(fleet.closed_loop(16, 2))
                answers.append(await client.post("/v1/models/heavy/predict", content=poison))
        assert all(outcome.is_right for outcome in fleet.outcomes)
        await fleet.close()
        return answers

    with running_service(heavy, "--backend=torchscript") as service:
        service.wait_until("/health/ready", 200)
        answers = asyncio.run(run(service))
    assert len(answers) > 5
    assert {(answer.status_code, "values too large" in answer.text) for answer in answers} == {(400, True)}


class Repository:
    """A repository under a running service, a shelf beside it, and what the service says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.shelf = folder / "bundles", folder / "shelf"
        for _ in range(2):
            make_bundle(self.shelf, "tiny", input_size=2)
        self.folder.mkdir()
        self.publish(1)

    def publish(self, version: int, spoil: Callable[[Path], None] | None = None) -> None:
        """Let version 1 or 2 appear in one step, spoilt before."""
        staging = self.folder / ".staging-test"
        shutil.copytree(self.shelf / "tiny" / str(version), staging)
        if spoil is not None:
            spoil(staging)
        (self.folder / "tiny").mkdir(exist_ok=True)
        staging.rename(self.folder / "tiny" / str(version))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


# Root may read what nobody may, unless it gives up that right.
WITHOUT_ROOTS_RIGHTS = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


@pytest.fixture
def following(repository: Repository) -> Iterator[ServiceProcess]:
    settings = (ONNX_ALONE, "--reload-interval-s=0.05", "--workers=2")
    with running_service(repository.folder, *settings, prefix=WITHOUT_ROOTS_RIGHTS) as process:
        process.wait_until("/health/ready", 200)
        yield process


def index(service: ServiceProcess) -> dict[str, str]:
    """State and reason of each version, as one worker tells it."""
    found = httpx.post(f"{service.url}/v2/repository/index", timeout=LIMIT_S).json()
    return {one["version"]: f"{one['state']} {one['reason']}".strip() for one in found}


def metric(service: ServiceProcess, name: str) -> float:
    lines = httpx.get(f"{service.url}/metrics", timeout=LIMIT_S).text.splitlines()
    return float(next(line for line in lines if line.startswith(name)).split()[-1])


def messages(service: ServiceProcess, text: str) -> int:
    return sum(text in line for line in service.log)


def version_served(service: ServiceProcess) -> str:
    answer = httpx.post(service.url + PREDICT, json=BODY, timeout=LIMIT_S)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model_version"])


@contextmanager
def deleted(folder: Path) -> Iterator[None]:
    away = folder.rename(folder.parent / "away")
    try:
        yield
    finally:
        away.rename(folder)


@contextmanager
def unreadable(folder: Path) -> Iterator[None]:
    folder.chmod(0)
    try:
        yield
    finally:
        folder.chmod(0o755)


@pytest.mark.parametrize("out_of_reach", [deleted, unreadable])
def test_what_is_deleted_or_unreadable_is_served_from_memory_and_followed_again_when_it_is_back(
    repository: Repository,
    following: ServiceProcess,
    out_of_reach: Callable[[Path], AbstractContextManager[None]],
) -> None:
    with out_of_reach(repository.folder):
        wait_until(lambda: messages(following, "repository cannot be read") == 2, following)  # once by each worker
        assert metric(following, "lstm_repository_readable") == 0
        assert "served from memory" in index(following)["1"]
        assert version_served(following) == "1"
        assert httpx.get(f"{following.url}/health/ready").status_code == 200
    repository.publish(2)
    wait_until(lambda: metric(following, "lstm_repository_readable") == 1, following)
    wait_until(lambda: index(following).get("2") == "READY", following)
    assert version_served(following) == "2"
    assert messages(following, "repository cannot be read") == 2


def test_half_a_copy_is_refused_and_served_when_it_is_whole(repository: Repository, following: ServiceProcess) -> None:
    folder = repository.folder / "tiny" / "2"
    folder.mkdir()
    for file in sorted((repository.shelf / "tiny" / "2").iterdir(), reverse=True):  # the graphs last
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[: len(content) // 2])
        if file.name <= MANIFEST:
            wait_until(lambda: index(following).get("2", "").startswith("UNAVAILABLE"), following)
        assert version_served(following) == "1"
        (folder / file.name).write_bytes(content)
    wait_until(lambda: index(following)["2"] == "READY", following)
    assert version_served(following) == "2"


def reseal(folder: Path, file: str, content: bytes) -> None:
    """Put `content` in place of a file and let the manifest say that it belongs there."""
    (folder / file).write_bytes(content)
    change_files(folder, {file: {"sha256": sha256(content).hexdigest(), "size_bytes": len(content)}})


def change_files(folder: Path, entries: dict[str, dict[str, object] | None]) -> None:
    """Let the manifest, and its seal, list these files so, and those with None not at all."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    listed = (manifest["files"] | entries).items()
    manifest["files"] = {file: entry for file, entry in listed if entry is not None}
    content = json.dumps(manifest).encode()
    (folder / MANIFEST).write_bytes(content)
    (folder / SEAL).write_bytes(seal(content))


def other_bytes(folder: Path) -> None:
    content = bytearray((folder / ONNX).read_bytes())
    content[-1] ^= 1
    (folder / ONNX).write_bytes(content)


def link_out(folder: Path) -> None:
    outside = folder.parent.parent / "outside.pt"
    shutil.move(folder / TORCHSCRIPT, outside)
    (folder / TORCHSCRIPT).symlink_to(outside)


def hole(folder: Path) -> None:
    os.truncate(folder / ONNX, 2**40)


def huge(folder: Path) -> None:
    reseal(folder, ONNX, (folder / ONNX).read_bytes() + bytes(2**27))


def change_graph(folder: Path, change: Callable[[onnx.GraphProto], object]) -> None:
    model = onnx.load(folder / ONNX)
    change(model.graph)
    reseal(folder, ONNX, model.SerializeToString())


def data_elsewhere(folder: Path) -> None:
    def change(graph: onnx.GraphProto) -> None:
        graph.initializer[0].data_location = TensorProto.EXTERNAL
        graph.initializer[0].external_data.add(key="location", value="/etc/passwd")

    change_graph(folder, change)


def gigabytes(folder: Path) -> None:
    size = onnx.numpy_helper.from_array(np.array([2**36], np.int64), "size")
    node = onnx.helper.make_node("ConstantOfShape", ["size"], ["gigabytes"])
    change_graph(folder, lambda graph: (graph.initializer.append(size), graph.node.insert(0, node)))


def unlisted(folder: Path) -> None:
    change_files(folder, {TORCHSCRIPT: None})
    assert (folder / TORCHSCRIPT).exists()


@pytest.fixture(scope="module")
def invaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Repository, ServiceProcess]]:
    """A repository that gets one malicious version after another, and the service over it."""
    repository = Repository(tmp_path_factory.mktemp("invaded"))
    with running_service(repository.folder, "--reload-interval-s=0.05", "--workers=2") as process:
        process.wait_until("/health/ready", 200)
        yield repository, process


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (other_bytes, "model.onnx: content differs from the sha256"),
        (link_out, "model.pt: not a readable regular file"),
        (hole, "model.onnx: content differs: it is larger than"),
        (huge, "'model.onnx' of "),
        (data_elsewhere, "model.onnx: no graph of ours: a tensor has field"),
        (gigabytes, "model.onnx: no graph of ours: operator 'ConstantOfShape' is not allowed"),
        (unlisted, "'model.pt' is missing"),
    ],
)
def test_a_malicious_bundle_is_refused_and_the_version_before_it_is_served(
    invaded: tuple[Repository, ServiceProcess], spoil: Callable[[Path], None], reason: str
) -> None:
    repository, service = invaded
    repository.publish(2, spoil)
    wait_until(lambda: reason in index(service).get("2", ""), service)
    assert index(service)["2"].startswith("UNAVAILABLE")
    assert version_served(service) == "1"
    assert metric(service, 'lstm_model_load_failures_total{model="tiny"}') >= 1
    shutil.rmtree(repository.folder / "tiny" / "2")
    wait_until(lambda: "2" not in index(service), service)
    assert len(service.serving_processes()) == 2
    assert not any("is replaced" in line for line in service.log)


def test_metrics_are_kept_off_the_disk_so_that_a_full_one_ends_no_worker(following: ServiceProcess) -> None:
    for pid in following.serving_processes():
        mapped = {line.split()[-1] for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if ".db" in line}
        assert mapped
        assert all(file.startswith("/dev/shm/") for file in mapped)


def test_without_a_key_nothing_but_health_is_answered_and_the_file_is_followed(
    repository: Repository, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("first\n")
    with running_service(repository.folder, ONNX_ALONE, f"--api-keys-file={keys}", "--workers=2") as service:
        service.wait_until("/health/ready", 200)

        def status(method: str, path: str, key: str = "") -> int:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return httpx.request(method, service.url + path, json=BODY, headers=headers, timeout=LIMIT_S).status_code

        described = httpx.get(f"{service.url}/openapi.json", headers={"Authorization": "Bearer first"}).json()["paths"]
        for path, methods in described.items():
            filled = path.format(name="tiny", version="1")
            for method in methods:
                expected = 200 if "/health/" in path else 401
                assert status(method, filled) == expected, (method, path)
                assert status(method, filled, "wrong") == expected, (method, path)
        for old, new in (("first", "second"), ("second", "third")):
            for _ in range(6):  # connections of their own, so that both workers answer
                assert (status("POST", PREDICT, old), status("POST", PREDICT, new)) == (200, 401)
            keys.write_text(f"{new}\n")
            for _ in range(6):
                assert (status("POST", PREDICT, old), status("POST", PREDICT, new)) == (401, 200)
