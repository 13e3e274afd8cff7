"""The whole service: from starting over ready to draining, and the pages beside the API."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from factories import make_bundle
from prometheus_client.parser import text_string_to_metric_families
from serving import BODY, PREDICT, ask, behind_a_gate, close_gate, serving

from service.app import Service
from service.backends import Runtime
from service.control import Control
from service.readiness import Readiness
from service.settings import SettingsError, load_settings


def test_before_it_has_loaded_it_is_live_but_not_ready(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository, load=False) as served:
            assert (await served.client.get("/health/live")).json() == {"live": True}
            for method, path in (
                ("GET", "/health/ready"),
                ("POST", PREDICT),
                ("POST", "/v1/predict"),
                ("GET", "/v1/models"),
            ):
                response = await served.client.request(method, path, json=BODY if method == "POST" else None)
                assert response.status_code == 503, path
                assert response.headers["retry-after"] == "1"
                assert "still loading" in response.json()["error"]
            await served.service.load()
            assert (await served.client.get("/health/ready")).json() == {"ready": True}
            assert (await served.client.post(PREDICT, json=BODY)).status_code == 200

    asyncio.run(run())


def test_while_draining_it_is_live_not_ready_and_answers_with_a_farewell(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            assert "connection" not in (await served.client.post(PREDICT, json=BODY)).headers
            served.service.drain()
            ready = await served.client.get("/health/ready")
            assert (ready.status_code, ready.headers["retry-after"]) == (503, "1")
            assert ready.json() == {"error": "not ready: shutting down"}
            assert (await served.client.get("/health/live")).status_code == 200
            last = await served.client.post(PREDICT, json=BODY)
            assert (last.status_code, last.headers["connection"]) == (200, "close")

    asyncio.run(run())


def test_told_to_stop_while_it_loads_it_does_not_become_ready(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository, load=False) as served:
            served.service.drain()
            await served.service.load()
            assert (await served.client.get("/health/ready")).status_code == 503

    asyncio.run(run())


def test_without_a_model_it_says_what_to_do(tmp_path: Path) -> None:
    response = ask(tmp_path, "GET", "/health/ready")
    assert response.status_code == 503
    assert "python -m model train" in response.json()["error"]


def test_an_empty_repository_makes_it_ready_when_it_is_filled(repository: Path, tmp_path: Path) -> None:
    async def run() -> None:
        async with serving(tmp_path, "--reload-interval-s=0.01") as served:
            assert (await served.client.get("/health/ready")).status_code == 503
            shutil.copytree(repository / "tiny", tmp_path / "tiny")
            async with asyncio.timeout(10):
                while (await served.client.get("/health/ready")).status_code != 200:
                    await asyncio.sleep(0.01)
            assert (await served.client.post(PREDICT, json=BODY)).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize("change", ["replaced", "unloaded"])
def test_a_request_whose_body_comes_slowly_is_answered_by_the_version_it_was_routed_to(
    repository: Path, tmp_path: Path, change: str
) -> None:
    shutil.copytree(repository / "tiny", tmp_path / "tiny")
    routed, changed = asyncio.Event(), asyncio.Event()

    async def slow_body() -> AsyncIterator[bytes]:
        body = json.dumps(BODY).encode()
        yield body[:10]
        routed.set()
        await changed.wait()
        yield body[10:]

    async def run() -> None:
        async with serving(tmp_path, "--reload-interval-s=0") as served:
            request = asyncio.create_task(served.client.post(PREDICT, content=slow_body()))
            await routed.wait()
            if change == "replaced":
                make_bundle(tmp_path, "tiny", seed=5)
            answer = await served.client.post(
                f"/v2/repository/models/tiny/{'load' if change == 'replaced' else 'unload'}", json={}
            )
            assert answer.status_code == 200
            assert (await served.client.post(PREDICT, json=BODY)).status_code == (200 if change == "replaced" else 404)
            changed.set()
            answer = await request
            assert (answer.status_code, answer.json()["model_version"]) == (200, "1")

    asyncio.run(run())


def test_it_goes_on_following_the_repository_after_a_bug(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with serving(tmp_path, "--reload-interval-s=0.01") as served:
            with monkeypatch.context() as patch:
                patch.setattr("service.registry.survey", lambda _: 1 / 0)
                async with asyncio.timeout(10):
                    while "ZeroDivisionError" not in caplog.text:
                        await asyncio.sleep(0.01)
            shutil.copytree(repository / "tiny", tmp_path / "tiny")
            async with asyncio.timeout(10):
                while (await served.client.post(PREDICT, json=BODY)).status_code != 200:
                    await asyncio.sleep(0.01)

    asyncio.run(run())
    assert "the repository could not be followed" in caplog.text


def test_the_scrape_can_be_parsed_and_counts_what_was_asked(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            await served.client.post(PREDICT, json=BODY)
            await served.client.post("/v1/models/invented/predict", json=BODY)
            await served.client.get("/v1/models/invented/versions/7")
            scrape = await served.client.get("/metrics")
            assert scrape.headers["content-type"].startswith("text/plain; version=")
            families = list(text_string_to_metric_families(scrape.text))
            models = {
                label for family in families for s in family.samples for label in [s.labels.get("model")] if label
            }
            assert models == {"tiny", "stacked", "bidirectional", "both"}
            assert "invented" not in scrape.text
            count = {"model": "tiny", "version": "1", "api": "v1", "code": "200"}
            assert await served.metric("lstm_requests_total", **count) == 1
            lost = {"model": "", "version": "", "api": "v1", "code": "404"}
            assert await served.metric("lstm_requests_total", **lost) == 2
            assert await served.metric("lstm_rejected_total", reason="not_found") == 1, "of inference paths"
            assert await served.metric("lstm_sequence_length_sum") == 3
            assert await served.metric("lstm_prediction_confidence_count") == 2

    asyncio.run(run())


def test_the_documentation_needs_nothing_from_elsewhere(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            page = (await served.client.get("/docs")).text
            assert "http://" not in page
            assert "https://" not in page
            for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
                assert f"static/swagger-ui/{asset}" in page
                assert (await served.client.get(f"/static/swagger-ui/{asset}")).status_code == 200

    asyncio.run(run())


def test_a_file_without_keys_ends_the_start(repository: Path, tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("")
    settings = load_settings([f"--repository={repository}", f"--api-keys-file={empty}"], {})
    with pytest.raises(SettingsError, match="holds no key"):
        Service(settings, Runtime(("onnx",), "cpu", 1), Readiness(1), Control(1))


def test_while_a_run_hangs_it_is_neither_live_nor_ready_and_the_request_gets_its_504(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = behind_a_gate(monkeypatch)

    async def run() -> None:
        arguments = ("--hang-timeout-s=0.05", "--request-timeout-ms=100")
        async with serving(repository, *arguments) as served:

            async def health() -> list[int]:
                served.service.beat()
                paths = ("/health/live", "/v2/health/live", "/health/ready", "/v2/health/ready")
                return [(await served.client.get(path)).status_code for path in paths]

            assert await health() == [200] * 4
            close_gate(hangs := made["tiny"])
            request = asyncio.create_task(served.client.post(PREDICT, json=BODY))
            await hangs.gate.has_been_entered()
            assert (await request).status_code == 504
            assert await health() == [503] * 4
            registry = served.service._registry
            await registry.unload_model("tiny")
            assert await health() == [503] * 4  # what hangs does so though nobody can ask for it any more
            await registry.load_model("tiny")
            hangs.gate.open()
            while registry.longest_run_s:
                await asyncio.sleep(0.01)
            assert (await served.client.post(PREDICT, json=BODY)).status_code == 200
            assert await health() == [200] * 4

    asyncio.run(run())
