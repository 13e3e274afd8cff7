"""What holds for every request: errors of one shape, request ids, keys, timings, clients that leave, one log line."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from serving import BODY, PREDICT, RawClient, ask, behind_a_gate, close_gate, serving

from model.bundle import Bundle, Manifest
from service import api_v1, edge, engine
from service.backends import Array, Backend, Batch, Runtime, RuntimeName, load_backend
from service.errors import ClientGone
from service.http import Asked, Response
from service.timing import STAGES

SECRET = "/a/path/of/ours"


class FailingBackend:
    """A real backend that fails whenever a batch holds a sequence that begins with 666."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.name = backend.name
        self.device = backend.device
        self.precision = backend.precision

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        if (batch.sequences[:, 0, 0] == 666).any():
            raise RuntimeError(f"failed in {SECRET}")
        return self._backend.run(batch, outputs)


def check_error(response: httpx.Response, status: int) -> str:
    """Check what all errors share; return the message."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    document = response.json()
    assert list(document) == ["error"]
    assert document["error"]
    assert "Traceback" not in response.text
    assert SECRET not in response.text
    message: str = document["error"]
    return message


@pytest.mark.parametrize(
    ("method", "path", "sent", "error"),
    [
        ("POST", PREDICT, {"content": b"{"}, (400, "malformed JSON")),
        ("POST", PREDICT, {"content": b""}, (400, "malformed JSON")),
        ("POST", PREDICT, {"json": {"sequences": [[[1, 2]]]}}, (400, "sequences[0][0]: 2 features, the model takes 3")),
        (
            "POST",
            "/v1/models/nobody/predict",
            {"json": BODY},
            (404, "'nobody' is not served; there are: bidirectional"),
        ),
        ("POST", "/v1/models/tiny/versions/9/predict", {"json": BODY}, (404, "no served version '9'; there are: 1")),
        ("GET", "/v1/models/nobody", {}, (404, "'nobody' is not served")),
        ("GET", "/v1/models/tiny/versions/9", {}, (404, "no served version '9'")),
        ("GET", "/v1/models/tiny/versions/" + "9" * 5000, {}, (404, "no served version")),
        ("GET", "/v1/models/nobody/examples", {}, (404, "'nobody' is not served")),
        ("GET", "/nowhere", {}, (404, "nothing is served under /nowhere")),
        ("POST", "/v1/predict/", {"json": BODY}, (404, "nothing is served under /v1/predict/")),
        ("GET", "/v1/models/", {}, (404, "nothing is served under /v1/models/")),
        ("GET", "/static/nothing.js", {}, (404, "nothing is served under /static/nothing.js")),
        ("GET", "/static/../app.py", {}, (404, "nothing is served")),
        ("GET", "/static/%2e%2e/app.py", {}, (404, "nothing is served")),
        ("POST", PREDICT, {"json": {"sequences": [[[1, 2, 3]] * 60]}}, (413, "60 time steps, at most 50")),
        ("POST", PREDICT, {"json": {"sequences": [[[1, 2, 3]]] * 20}}, (413, "at most 16 sequences")),
        ("POST", PREDICT, {"json": BODY | {"trace": "gates"}}, (413, "at most 60")),
        ("POST", PREDICT, {"content": b" " * 5001}, (413, "5001 bytes, at most 5000")),
    ],
)
def test_every_wrong_request_is_told_what_is_allowed(
    repository: Path, method: str, path: str, sent: dict[str, Any], error: tuple[int, str]
) -> None:
    status, message = error
    sizes = ["--max-sequence-length=50", "--max-batch-size=16", "--max-queue-size=16"]
    limits = [*sizes, "--max-trace-values=60", "--max-body-bytes=5000"]
    response = ask(repository, method, path, *limits, **sent)
    assert message in check_error(response, status)
    assert (response.headers.get("connection") == "close") == (status == 413)


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/predict", "POST"),
        (PREDICT, "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/models/tiny", "GET, HEAD"),
        ("/health/live", "GET, HEAD"),
        ("/metrics", "GET, HEAD"),
        ("/v2/logging", "GET, HEAD, POST"),
        ("/v2/repository/index", "POST"),
        ("/static/swagger-ui/swagger-ui.css", "GET, HEAD"),
        ("/static/v2/repository/index", "GET, HEAD"),
    ],
)
def test_a_wrong_method_is_told_the_right_one(repository: Path, path: str, allowed: str) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            for method in {"GET", "POST", "HEAD", "OPTIONS", "DELETE", "PUT"} - set(allowed.split(", ")):
                response = await served.client.request(method, path)
                if method == "HEAD":
                    assert response.status_code == 405
                else:
                    message = check_error(response, 405)
                    assert message == f"method {method} is not allowed here; allowed: {allowed}"
                assert response.headers["allow"] == allowed

    asyncio.run(run())


@pytest.mark.parametrize(
    "path", ["/health/ready", "/v1/models/tiny", "/v2/models/tiny/config", "/metrics", "/", "/docs"]
)
def test_a_head_is_answered_as_a_get_without_the_body(repository: Path, path: str) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            got, head = [await served.client.request(method, path) for method in ("GET", "HEAD")]
            assert (got.status_code, head.status_code) == (200, 200)
            assert (bool(got.content), head.content) == (True, b"")
            varying = ("x-request-id", "content-length" if path == "/metrics" else "")
            got_headers, head_headers = [
                {key: value for key, value in answer.headers.items() if key not in varying} for answer in (got, head)
            ]
            assert head_headers == got_headers

    asyncio.run(run())


async def in_chunks(size: int, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b" " * size


def test_the_body_limit_holds_without_a_content_length(repository: Path) -> None:
    response = ask(repository, "POST", PREDICT, "--max-body-bytes=1000", content=in_chunks(100, 11))
    assert "at most" in check_error(response, 413)
    response = ask(repository, "POST", PREDICT, "--max-body-bytes=1000", content=in_chunks(100, 10))
    check_error(response, 400)


def test_a_body_over_the_limit_is_not_read_to_its_end(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository, "--max-body-bytes=1000") as served:
            announced = RawClient([])
            await announced.post(served.service.edge, PREDICT, (b"content-length", b"1001"))
            assert announced.sent[0]["status"] == 413
            assert not announced.waiting.is_set()
            endless = RawClient([{"type": "http.request", "body": b" " * 400, "more_body": True}] * 9)
            await endless.post(served.service.edge, PREDICT)
            assert endless.sent[0]["status"] == 413
            assert not endless.waiting.is_set()

    asyncio.run(run())


def test_a_chunked_body_is_put_together(repository: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        whole = json.dumps(BODY).encode()
        for start in range(0, len(whole), 7):
            yield whole[start : start + 7]

    assert ask(repository, "POST", PREDICT, content=pieces()).status_code == 200


def test_a_backend_that_fails_is_told_without_internals_and_spares_the_neighbours(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(bundle: Bundle, name: RuntimeName, runtime: Runtime) -> FailingBackend:
        return FailingBackend(load_backend(bundle, name, runtime))

    monkeypatch.setattr(engine, "load_backend", load)

    async def run() -> None:
        async with serving(repository) as served:
            poison = {"sequences": [[[666, 0, 0]]]}
            posts = [served.client.post(PREDICT, json=body) for body in (BODY, poison, BODY)]
            before, failed, after = await asyncio.gather(*posts)
            assert check_error(failed, 500) == "the model failed on this request"
            assert (before.status_code, after.status_code) == (200, 200)

    asyncio.run(run())


@pytest.mark.parametrize(("method", "path"), [("POST", PREDICT), ("GET", "/v1/models/tiny")])
def test_a_bug_is_told_without_its_stack_and_logged_with_it_in_one_record(
    repository: Path, method: str, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(api_v1, "encode_json", fail)
    monkeypatch.setattr(Manifest, "pipeline", fail)
    response = ask(repository, method, path, json=BODY)
    assert check_error(response, 500) == "internal error"
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info
    assert SECRET in caplog.text
    assert record.__dict__["fields"]["request_id"] == response.headers["x-request-id"]


PATHS = [("POST", PREDICT), ("GET", "/v1/models"), ("GET", "/nowhere"), ("GET", PREDICT), ("GET", "/health/live")]


@pytest.mark.parametrize("given", ["abc-123", "A.b_c:d/e+f=", "x" * 128])
def test_a_request_id_is_taken_and_echoed_on_every_answer(repository: Path, given: str) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            for method, path in PATHS:
                response = await served.client.request(method, path, headers={"X-Request-Id": given})
                assert response.headers.get_list("x-request-id") == [given], path

    asyncio.run(run())


@pytest.mark.parametrize("given", [None, "", "x" * 129, "a b", 'a"b', "a\x1bb", "<script>", "\xe9"])
def test_a_hostile_or_missing_request_id_is_replaced(repository: Path, given: str | None) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            headers = {} if given is None else {"X-Request-Id": given.encode("latin-1")}
            made = [
                (await served.client.request(method, path, headers=headers)).headers["x-request-id"]
                for method, path in PATHS
            ]
            assert all(re.fullmatch("[0-9a-f]{32}", one) for one in made)
            assert len(set(made)) == len(made)

    asyncio.run(run())


def test_server_timing_shows_the_stages_that_were_booked(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            response = await served.client.post(PREDICT, json=BODY | {"trace": "gates"})
            shown = {
                stage: float(duration)
                for stage, duration in re.findall(r"(\w+);dur=([\d.]+)", response.headers["server-timing"])
            }
            assert list(shown) == list(STAGES)
            for stage, duration_ms in shown.items():
                booked_s = await served.metric("lstm_stage_duration_seconds_sum", stage=stage)
                assert duration_ms == pytest.approx(booked_s * 1e3, abs=6e-4)
            whole_s = await served.metric("lstm_request_duration_seconds_sum")
            assert sum(shown.values()) == pytest.approx(whole_s * 1e3, abs=6e-3)
            assert "server-timing" not in (await served.client.post(PREDICT, content=b"{")).headers
            assert await served.metric("lstm_request_duration_seconds_count") == 1

    asyncio.run(run())


@pytest.fixture
def keys(tmp_path: Path) -> str:
    (tmp_path / "keys").write_text("sesame\n")
    return f"--api-keys-file={tmp_path / 'keys'}"


PROTECTED = ["/v1/models", "/v1/models/tiny", "/metrics", "/docs", "/openapi.json"]
OPEN = ["/health/live", "/health/ready", "/", "/static/page/main.js", "/static/swagger-ui/LICENSE"]


def test_a_key_is_needed_everywhere_but_for_health_and_the_page(repository: Path, keys: str) -> None:
    async def run() -> None:
        async with serving(repository, keys) as served:
            client = served.client
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic sesame"}):
                for path in (*PROTECTED, "/nowhere", "/health", "/static"):
                    response = await client.get(path, headers=headers)
                    check_error(response, 401)
                    assert response.headers["www-authenticate"] == "Bearer"
                check_error(await client.post(PREDICT, json=BODY, headers=headers), 401)
                check_error(await client.post("/v1/models/nobody/predict", json=BODY, headers=headers), 401)
                check_error(await client.post("/v1/shapes", json={}, headers=headers), 401)
            for path in OPEN:
                assert (await client.get(path)).status_code == 200
            held = {"Authorization": "Bearer sesame"}
            for path in PROTECTED:
                assert (await client.get(path, headers=held)).status_code == 200, path
            assert (await client.post(PREDICT, json=BODY, headers=held)).status_code == 200

    asyncio.run(run())


@pytest.mark.parametrize(
    "path",
    [
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/health/live/../../metrics",
        "/static/../v1/models",
        "/static/page/../../metrics",
    ],
)
def test_no_detour_over_an_open_path_leads_past_the_keys(repository: Path, keys: str, path: str) -> None:
    async def run() -> None:
        async with serving(repository, keys) as served:
            client = RawClient([{"type": "http.request", "body": b""}])
            scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
            await served.service.edge(scope, client.receive, client.send)
            assert client.sent[0]["status"] in {401, 404}

    asyncio.run(run())


def test_a_key_is_asked_for_before_the_body_is_read(repository: Path, keys: str) -> None:
    async def run() -> None:
        async with serving(repository, keys) as served:
            client = RawClient([])
            await client.post(served.service.edge, PREDICT)
            assert client.sent[0]["status"] == 401
            assert not client.waiting.is_set()

    asyncio.run(run())


WHOLE = {"type": "http.request", "body": json.dumps(BODY).encode(), "more_body": False}


def test_a_client_that_leaves_within_its_body_is_dropped_and_counted(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def run() -> None:
        async with serving(repository) as served:
            backends["tiny"].batches.clear()
            client = RawClient([{**WHOLE, "more_body": True}])
            client.gone.set()
            await client.post(served.service.edge, PREDICT)
            assert await served.metric("lstm_dropped_total", reason="disconnected") == 1
            assert not backends["tiny"].batches

    asyncio.run(run())


def test_a_client_that_leaves_while_it_waits_is_dropped_before_compute_and_counted(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends = behind_a_gate(monkeypatch)

    async def run() -> None:
        async with serving(repository) as served:
            backend = backends["tiny"]
            close_gate(backend)
            running = asyncio.create_task(served.client.post(PREDICT, json=BODY))
            await backend.gate.has_been_entered()
            client = RawClient([WHOLE])
            waiting = asyncio.ensure_future(client.post(served.service.edge, PREDICT))
            await client.waiting.wait()
            client.gone.set()
            await waiting
            backend.gate.open()
            assert (await running).status_code == 200
            assert await served.metric("lstm_dropped_total", reason="disconnected") == 1
            assert await served.metric("lstm_queue_size") == 0
            assert (await served.client.post(PREDICT, json=BODY)).status_code == 200
            assert len(backend.batches) == 2, "of the client that stayed and the one that came after"

    asyncio.run(run())


def test_when_the_time_is_over_the_answer_is_504(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = behind_a_gate(monkeypatch)

    async def run() -> None:
        async with serving(repository, "--request-timeout-ms=30") as served:
            close_gate(backends["tiny"])
            late = await served.client.post(PREDICT, json=BODY)
            backends["tiny"].gate.open()
            check_error(late, 504)
            assert await served.metric("lstm_dropped_total", reason="deadline") == 1

    asyncio.run(run())


def test_when_the_queue_is_full_the_answer_is_429_at_once(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = behind_a_gate(monkeypatch)
    one = {"sequences": [[[1, 2, 3]]]}

    async def run() -> None:
        async with serving(repository, "--max-batch-size=1", "--max-queue-size=1") as served:
            gate = backends["tiny"].gate
            close_gate(backends["tiny"])
            running = asyncio.create_task(served.client.post(PREDICT, json=one))
            await gate.has_been_entered()
            others = {asyncio.create_task(served.client.post(PREDICT, json=one)) for _ in range(2)}
            done, waiting = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
            unread = await served.client.post(PREDICT, content=b"no JSON at all")
            gate.open()
            (refused,) = [task.result() for task in done]
            check_error(refused, 429)
            check_error(unread, 429)
            assert refused.headers["retry-after"] == "1"
            assert [(await task).status_code for task in (running, *waiting)] == [200, 200]
            assert await served.metric("lstm_rejected_total", reason="queue_full") == 2

    asyncio.run(run())


def test_a_request_has_one_log_line_at_most(repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run(level: int) -> list[logging.LogRecord]:
        async with serving(repository) as served:
            caplog.set_level(level, logger="service")
            caplog.clear()
            await served.client.post(PREDICT, json=BODY)
            await served.client.post(PREDICT, content=b"{", headers={"X-Request-Id": "mine"})
            await served.client.get("/nowhere?secret=1")
            served.service.drain()
            await served.client.get("/health/ready")
            return [record for record in caplog.records if record.name.startswith("service")]

    assert len(asyncio.run(run(logging.INFO))) == 3
    fine, wrong, lost, unready = asyncio.run(run(logging.DEBUG))
    assert [record.levelname for record in (fine, wrong, lost, unready)] == ["DEBUG", "INFO", "INFO", "INFO"]
    fields: dict[str, Any] = wrong.__dict__["fields"]
    assert fields.pop("duration_ms") > 0
    assert fields.pop("error").startswith("malformed JSON")
    assert fields == {
        "request_id": "mine",
        "method": "POST",
        "path": PREDICT,
        "status": 400,
        "model": "tiny/1",
    }
    assert lost.__dict__["fields"]["path"] == "/nowhere"
    assert unready.__dict__["fields"]["status"] == 503


def test_keys_are_in_no_log_at_debug(repository: Path, keys: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for key in ("sesame", "hunter2"):
        ask(repository, "POST", PREDICT, keys, json=BODY, headers={"Authorization": f"Bearer {key}"})
    assert "request" in caplog.text
    assert "sesame" not in caplog.text
    assert "hunter2" not in caplog.text


def test_requests_at_once_each_get_their_own_answer(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            rng = np.random.default_rng(0)
            bodies = [{"sequences": [rng.normal(size=(3, 3)).round(3).tolist()]} for _ in range(20)]
            alone = [(await served.client.post(PREDICT, json=body)).json() for body in bodies]
            together = await asyncio.gather(*(served.client.post(PREDICT, json=body) for body in bodies))
            for one, expected in zip(together, alone, strict=True):
                np.testing.assert_allclose(one.json()["probabilities"], expected["probabilities"], atol=1e-6)

    asyncio.run(run())


class _Asking:
    """A request on the short way, whose body is there."""

    method, path, gone = "POST", PREDICT, False

    def header(self, _: bytes) -> bytes | None:
        return None


def test_large_bodies_that_take_long_are_each_read_in_a_turn_of_their_own(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = json.dumps(BODY).encode()
    just_small, large = (small.ljust(edge._LARGE_BODY_BYTES + more) for more in (0, 1))

    async def test() -> None:
        async with serving(repository) as served:
            turn, read_in, given = 0, [], []
            api = served.service.edge.inference_api(PREDICT)
            assert api is not None
            read = api.read

            def note(*arguments: Any) -> Asked:
                read_in.append(turn)
                return read(*arguments)

            async def answered(*bodies: bytes) -> None:
                nonlocal turn
                for body in bodies:
                    served.service.edge.begin(_Asking(), body, api, given.append)
                while len(given) < len(bodies):
                    turn += 1
                    await asyncio.sleep(0)
                assert {(response.status, response.body) for response in given} == {(200, given[0].body)}
                given.clear()

            monkeypatch.setattr(api, "read", note)
            await answered(*[large] * 4)
            assert read_in == [0] * 4, "together they do not take long"
            monkeypatch.setattr(edge, "_READING_S", 0.0)
            for _ in range(2):  # and again
                turn = 0
                read_in.clear()
                await answered(*[large] * 4, small, just_small)
                assert read_in[:3] == [0] * 3, "the first of the large ones, and the small ones"
                assert len({*read_in}) == 4

    asyncio.run(test())


@pytest.mark.parametrize("reads_long", [False, True])
def test_who_is_given_up_before_anything_was_done_is_answered_and_booked(
    repository: Path, monkeypatch: pytest.MonkeyPatch, reads_long: bool
) -> None:
    monkeypatch.setattr(edge, "_READING_S", -1.0 if reads_long else 1.0)
    body = json.dumps(BODY | {"trace": "layers"}).encode().ljust(edge._LARGE_BODY_BYTES + 1)

    async def test() -> None:
        async with serving(repository) as served:
            given: list[Response] = []
            api = served.service.edge.inference_api(PREDICT)
            assert api is not None
            exchange = served.service.edge.begin(_Asking(), body, api, given.append)
            served.service.edge.give_up(exchange, ClientGone("the client left"))
            while not given:
                await asyncio.sleep(0)
            assert [response.status for response in given] == [499]
            assert await served.metric("lstm_dropped_total", reason="disconnected") == 1
            labels = {"model": "tiny", "version": "1", "api": "v1", "code": "499"}
            assert await served.metric("lstm_requests_total", **labels) == 1

    asyncio.run(test())
