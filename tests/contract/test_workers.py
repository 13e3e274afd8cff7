"""With several workers every answer describes the whole service."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import ServiceProcess, running_service

BODY = {"inputs": [{"name": "sequences", "datatype": "FP32", "shape": [2, 1, 3], "data": [1, 2, 3, 4, 5, 6]}]}


@pytest.fixture
def workers(repository: Path) -> Iterator[ServiceProcess]:
    with running_service(repository, "--workers=2", "--threads=1") as process:
        process.wait_until("/health/ready", 200)
        yield process


def test_statistics_are_those_of_all_workers(workers: ServiceProcess) -> None:
    for _ in range(20):  # each on a connection of its own, which any worker may take
        assert httpx.post(workers.url + "/v2/models/tiny/infer", json=BODY).status_code == 200
    deadline = time.monotonic() + 30
    while True:  # the other worker books what it did a little later
        (stats,) = httpx.get(workers.url + "/v2/models/tiny/stats").json()["model_stats"]
        if stats["inference_stats"]["success"]["count"] == 20:
            break
        assert time.monotonic() < deadline, stats
        time.sleep(0.05)
    for _ in range(6):
        (stats,) = httpx.get(workers.url + "/v2/models/tiny/stats").json()["model_stats"]
        assert (stats["inference_count"], stats["execution_count"]) == (40, 20)
        assert stats["inference_stats"]["success"]["count"] == 20


def test_a_log_level_that_one_worker_alone_would_change_is_refused(workers: ServiceProcess) -> None:
    assert "logging" not in httpx.get(workers.url + "/v2").json()["extensions"]
    refused = httpx.post(workers.url + "/v2/logging", json={"log_verbose_level": 1})
    assert (refused.status_code, list(refused.json())) == (501, ["error"])
    assert "LSTM_LOG_LEVEL" in refused.json()["error"]
    assert httpx.post(workers.url + "/v2/logging", json={"log_info": True}).status_code == 200
