"""V2 as a part of the service. That its clients understand it, and what it refuses, is shown in tests/contract/."""

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import BODY, PREDICT, ask, behind_a_gate, close_gate, serving

INFER = "/v2/models/tiny/infer"


def body_of(shape: tuple[int, ...] = (2, 4, 3), **fields: Any) -> dict[str, Any]:
    data = np.random.default_rng(0).normal(size=shape).round(3).ravel().tolist()
    return {"inputs": [{"name": "sequences", "datatype": "FP32", "shape": shape, "data": data}], **fields}


def test_inferences_are_counted_under_their_protocol(repository: Path) -> None:
    async def run() -> None:
        async with serving(repository) as served:
            assert (await served.client.post(INFER, json=body_of())).status_code == 200
            assert (await served.client.post(INFER, json={})).status_code == 400
            assert (await served.client.post(PREDICT, json=BODY)).status_code == 200
            assert (await served.client.get("/v2/models/tiny")).status_code == 200
            of_tiny = {"model": "tiny", "version": "1"}
            assert await served.metric("lstm_requests_total", **of_tiny, api="v2", code="200") == 1
            assert await served.metric("lstm_requests_total", **of_tiny, api="v2", code="400") == 1
            assert await served.metric("lstm_requests_total", **of_tiny, api="v1", code="200") == 1
            assert await served.metric("lstm_requests_total", model="", version="", api="v2", code="200") == 1
            assert await served.metric("lstm_inferences_total", **of_tiny) == 4
            assert await served.metric("lstm_request_duration_seconds_count") == 2

    asyncio.run(run())


def test_both_protocols_share_a_batch(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = behind_a_gate(monkeypatch)

    async def run() -> None:
        async with serving(repository) as served:
            backend = backends["tiny"]
            close_gate(backend)
            first = asyncio.create_task(served.client.post(PREDICT, json=BODY))
            await backend.gate.has_been_entered()
            others = [
                asyncio.create_task(served.client.post(path, json=body))
                for path, body in ((PREDICT, BODY), (INFER, body_of()))
            ]
            while await served.metric("lstm_queue_size") < 4:
                await asyncio.sleep(0.01)
            backend.gate.open()
            assert [(await one).status_code for one in (first, *others)] == [200] * 3
            assert [len(batch.lengths) for batch in backend.batches] == [2, 4]

    asyncio.run(run())


def test_only_what_is_wanted_is_asked_of_the_backend(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backends = behind_a_gate(monkeypatch)

    async def run() -> None:
        async with serving(repository) as served:
            backends["tiny"].outputs.clear()
            for name in ("label", "hn", "logits"):
                await served.client.post(INFER, json=body_of(outputs=[{"name": name}]))
            assert backends["tiny"].outputs == [
                ("probabilities",),
                ("hn", "probabilities"),
                ("logits", "probabilities"),
            ]

    asyncio.run(run())


def test_probes_need_no_key_and_all_else_does(repository: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert ask(repository, "GET", path, f"--api-keys-file={keys}").status_code == 200
    for method, path in (("GET", "/v2"), ("POST", INFER), ("POST", "/v2/repository/models/tiny/unload")):
        assert ask(repository, method, path, f"--api-keys-file={keys}").status_code == 401


@pytest.mark.parametrize("answers", [{}, {"outputs": [{"name": "probabilities"}, {"name": "cell_state"}]}])
def test_a_long_answer_is_that_of_a_short_one(repository: Path, answers: dict[str, Any]) -> None:
    long, short = (ask(repository, "POST", INFER, json=body_of((2, steps, 3), **answers)) for steps in (5000, 3))
    assert long.status_code == short.status_code == 200
    assert [output["name"] for output in long.json()["outputs"]] == [o["name"] for o in short.json()["outputs"]]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"priority": -1}, "parameters.priority"),
        ({"priority": 1.5}, "parameters.priority"),
        ({"priority": True}, "parameters.priority"),
        ({"timeout": 2**64}, "parameters.timeout"),
        ({"timeout": "1"}, "parameters.timeout"),
        ({"binary_data_output": "yes"}, "parameters.binary_data_output"),
        ({"binary_data_output": 1}, "parameters.binary_data_output"),
        ({"sequence_id": 1}, "parameters.sequence_id"),
        ({"sequence_id": "one"}, "parameters.sequence_id"),
        ({"sequence_id": []}, "parameters.sequence_id"),
    ],
)
def test_a_parameter_that_means_something_must_be_right(
    repository: Path, parameters: dict[str, Any], said: str
) -> None:
    response = ask(repository, "POST", INFER, json=body_of(parameters=parameters))
    assert response.status_code == 400
    assert said in response.json()["error"]


def test_parameters_that_mean_nothing_here_are_left_alone(repository: Path) -> None:
    parameters = {"sequence_id": 0, "sequence_start": False, "mine": [1], "timeout": 0, "priority": 0}
    assert ask(repository, "POST", INFER, json=body_of(parameters=parameters, id=None)).status_code == 200
