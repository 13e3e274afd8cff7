"""`service.backends.fastest`: each batch goes to the runtime that is the fastest at its shape, and that alone."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from fake_backend import STATE_SHAPE, FakeBackend
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import BODY, PREDICT, serving

from model.bundle import open_bundle
from service import engine
from service.backends import Backend, Batch, Runtime, RuntimeName, load_backend
from service.backends.fastest import FastestBackend
from service.batcher import QueueLimits
from service.costs import Costs, Timings
from service.engine import EngineLimits, load
from service.policy import Limits

BOTH = Runtime(("onnx", "torchscript"), "cpu", 1)
LIMITS = EngineLimits(Limits(8, 100), QueueLimits(9, 900), max_sequence_length=50, max_trace_values=99999)
# ONNX Runtime is the faster one for a row, TorchScript for 8 rows; they meet between 4 and 5.
CROSSING: dict[RuntimeName, Timings] = {
    "onnx": {(1, 10): 1.0, (8, 10): 8.0},
    "torchscript": {(1, 10): 4.5, (8, 10): 4.4},
}


def make_batch(rows: int, steps: int) -> Batch:
    layers, hidden_size = STATE_SHAPE
    state = np.zeros((layers, rows, hidden_size), np.float32)
    return Batch(np.zeros((rows, steps, 2), np.float32), np.full(rows, steps), state, state)


@pytest.mark.parametrize(
    ("rows", "name"), [(1, "onnx"), (4, "onnx"), (5, "torchscript"), (8, "torchscript"), (50, "torchscript")]
)
def test_a_batch_is_computed_by_the_runtime_that_is_the_fastest_at_its_shape(rows: int, name: RuntimeName) -> None:
    backends: dict[RuntimeName, FakeBackend] = {"onnx": FakeBackend(), "torchscript": FakeBackend()}
    fastest = FastestBackend(backends, Costs(CROSSING))
    results = fastest.run(make_batch(rows, 10), ["probabilities"])
    assert results["probabilities"].shape == (rows, 4)
    assert {key: len(backend.batches) for key, backend in backends.items()} == {"onnx": 0, "torchscript": 0} | {name: 1}
    assert (fastest.name, fastest.device) == ("auto", "cpu")


@pytest.mark.parametrize("kind", ["tiny", "both"])
def test_whichever_runtime_computes_the_numbers_agree(repository: Path, kind: str) -> None:
    bundle = open_bundle(repository / kind / "1")
    manifest = bundle.manifest
    backends: dict[RuntimeName, Backend] = {name: load_backend(bundle, name, BOTH) for name in BOTH.backends}
    fastest = FastestBackend(backends, Costs(CROSSING))

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 99))
    def agree(lengths: list[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        shape = (manifest.num_layers * manifest.num_directions, len(lengths), manifest.hidden_size)
        h0, c0 = rng.normal(size=(2, *shape)).astype(np.float32)
        values = rng.normal(size=(len(lengths), max(lengths), manifest.input_size)).astype(np.float32)
        batch = Batch(values, np.array(lengths), h0, c0)
        got = fastest.run(batch, manifest.outputs)
        for backend in backends.values():
            expected = backend.run(batch, manifest.outputs)
            for name in manifest.outputs:
                np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=1e-5, err_msg=name)

    agree()


@pytest.mark.parametrize(
    ("onnx", "torchscript", "kept"),
    [
        (CROSSING["onnx"], CROSSING["torchscript"], "auto"),
        ({(1, 10): 1.0}, {(1, 10): 2.0}, "onnx"),
        ({(1, 10): 2.0}, {(1, 10): 1.0}, "torchscript"),
    ],
)
def test_a_runtime_that_is_the_fastest_nowhere_is_not_kept(
    repository: Path, monkeypatch: pytest.MonkeyPatch, onnx: Timings, torchscript: Timings, kept: str
) -> None:
    timed: dict[str, Timings] = {"onnx": onnx, "torchscript": torchscript}
    monkeypatch.setattr(engine, "measure", lambda *_, **__: timed)
    loaded = load(open_bundle(repository / "tiny" / "1"), BOTH, LIMITS)
    assert loaded.backend.name == kept
    assert loaded.costs.timings == timed, "what was measured of it stays to be shown"


def test_one_runtime_alone_is_what_computes(repository: Path) -> None:
    loaded = load(open_bundle(repository / "tiny" / "1"), Runtime(("onnx",), "cpu", 1), LIMITS)
    assert loaded.backend.name == "onnx"
    assert loaded.costs.timings.keys() == {"onnx"}


def test_a_model_that_both_runtimes_compute_is_described_and_answers(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.Runtime", lambda *_: BOTH)
    monkeypatch.setattr(Costs, "chosen_anywhere", lambda _: {"onnx", "torchscript"})

    async def run() -> None:
        async with serving(repository) as served:
            assert (await served.client.get("/v1/models/tiny")).json()["runtime"]["backend"] == "auto"
            assert (await served.client.get("/v2/models/tiny")).json()["platform"] == "onnx_onnxv1"
            assert (await served.client.get("/v2/models/tiny/config")).json()["backend"] == "onnxruntime"
            assert (await served.client.get("/v2/models/tiny/stats")).status_code == 200
            assert (await served.client.post(PREDICT, json=BODY)).status_code == 200

    asyncio.run(run())
