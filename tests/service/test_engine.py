"""`service.engine`: real models behind a backend that counts, on a loop with a fake clock."""

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import fake_clock
import numpy as np
import pytest
from factories import make_bundle
from fake_backend import CountingBackend, Gate
from fake_clock import FakeClock, settle
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bundle import Bundle, open_bundle
from service import engine as engine_module
from service.backends import Array, Batch, Runtime, load_backend
from service.batcher import QueueLimits
from service.costs import Costs
from service.engine import Engine, EngineLimits, Loaded, Prediction, Query, load
from service.errors import DeadlineExceeded, InvalidRequest, TooLarge
from service.metrics import Metrics
from service.policy import Limits
from service.tensors import Sequences, State, TraceLevel
from service.timing import Timing
from service.trace import Layer, Tracer

SLOW = Costs(
    {"onnx": {(1, 1): 1.0, (8, 1): 1.0}}
)  # so that every run is in the backend's thread, where a gate can hold it
ONNX = Runtime(("onnx",), "cpu", 1)
LIMITS = EngineLimits(Limits(8, 200), QueueLimits(100, 10_000), max_sequence_length=20, max_trace_values=20_000)


class GatedTracer(Tracer):
    """Traces behind a gate."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.gate = Gate()

    def trace(
        self, sequence: Array, row: dict[str, Array], level: TraceLevel, *, state: State | None, ends: Array | None
    ) -> list[Layer]:
        self.gate.go_through()
        return super().trace(sequence, row, level, state=state, ends=ends)


class Setup:
    """An engine over the bundle of this kind, and what it is made of."""

    def __init__(
        self,
        repository: Path,
        kind: str = "tiny",
        limits: EngineLimits = LIMITS,
        *,
        runtime: Runtime = ONNX,
        max_run_steps: int | None = None,
    ) -> None:
        bundle = open_bundle(repository / kind / "1")
        self.backend = CountingBackend(load_backend(bundle, runtime.backends[0], runtime))
        self.tracer = GatedTracer(bundle)
        loaded = Loaded(bundle, self.backend, SLOW, self.tracer, b"", 0.0, max_run_steps)
        self.engine = Engine(loaded, limits=limits, metrics=Metrics())

    def ask(
        self, lengths: list[int], trace: TraceLevel | None = None, *, timeout_s: float = 30.0, seed: int = 0
    ) -> asyncio.Task[Prediction]:
        query = Query(make_sequences(lengths, seed), timeout_s, trace=trace)
        return asyncio.create_task(self.engine.predict(query, Timing()))


def make_sequences(lengths: list[int], seed: int = 0) -> Sequences:
    values = np.random.default_rng(seed).normal(size=(sum(lengths), 3)).astype(np.float32)
    return Sequences(values, np.array(lengths, np.int64))


@pytest.mark.parametrize("level", ["layers", "gates"])
def test_a_traced_request_shares_its_batch_with_untraced_ones(repository: Path, level: TraceLevel) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository)
        traced, *others = await asyncio.gather(setup.ask([3], level), setup.ask([2]), setup.ask([4, 1]))
        assert [len(batch.lengths) for batch in setup.backend.batches] == [4]
        assert traced.traces is not None
        assert [other.traces for other in others] == [None, None]

    fake_clock.run(test)


def test_without_a_trace_nothing_but_probabilities_is_asked_of_the_backend(repository: Path) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository)
        await setup.ask([3])
        assert setup.backend.outputs == [("probabilities",)]

    fake_clock.run(test)


@pytest.mark.parametrize("kind", ["tiny", "bidirectional"])
def test_untraced_requests_do_not_wait_for_a_trace(repository: Path, kind: str) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository, kind)
        setup.tracer.gate.close()
        traced, neighbour = setup.ask([3], "gates"), setup.ask([2])
        await neighbour
        await setup.tracer.gate.has_been_entered()
        await setup.ask([5])
        assert not traced.done()
        setup.tracer.gate.open()
        assert (await traced).traces

    fake_clock.run(test)


def test_the_deadline_holds_for_the_trace_too(repository: Path) -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(repository)
        setup.tracer.gate.close()
        traced = setup.ask([3], "gates", timeout_s=5.0)
        await setup.tracer.gate.has_been_entered()
        await clock.advance(5.0)
        with pytest.raises(DeadlineExceeded, match="before it was traced"):
            await traced
        setup.tracer.gate.open()
        assert (await setup.ask([3], "gates")).traces

    fake_clock.run(test)


def test_the_deadline_holds_for_the_runs_that_only_a_trace_needs(repository: Path) -> None:
    async def test(clock: FakeClock) -> None:
        setup = Setup(repository, "bidirectional")
        setup.backend.gate.close()
        setup.backend.hangs_after = 1
        traced = setup.ask([3], "gates", timeout_s=5.0)
        await setup.backend.gate.has_been_entered()
        await clock.advance(3.0)
        setup.backend.gate.open()
        await setup.backend.gate.has_been_entered()
        await clock.advance(2.0)
        with pytest.raises(DeadlineExceeded):
            await traced
        setup.backend.gate.open()

    fake_clock.run(test)


def test_what_was_computed_before_the_engine_closed_is_still_traced(repository: Path) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository)
        setup.backend.gate.close()
        traced = setup.ask([3, 2], "gates")
        await setup.backend.gate.has_been_entered()
        closing = asyncio.create_task(setup.engine.close())
        await settle()
        setup.backend.gate.open()
        await closing
        prediction = await traced
        assert prediction.traces is not None
        assert len(prediction.traces) == 2

    fake_clock.run(test)


def test_a_sequence_that_is_too_long_is_named(repository: Path) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository)
        with pytest.raises(TooLarge, match=r"sequences\[2\]: 21 time steps, at most 20 are taken"):
            await setup.ask([3, 20, 21])
        assert setup.backend.batches == []
        assert len((await setup.ask([3, 20])).probabilities) == 2

    fake_clock.run(test)


def test_a_trace_that_is_too_large_is_refused_with_its_size(repository: Path) -> None:
    async def test(_: FakeClock) -> None:
        size = Tracer(open_bundle(repository / "tiny" / "1")).size(make_sequences([9, 9]), "gates")
        setup = Setup(repository, limits=replace(LIMITS, max_trace_values=size - 1))
        with pytest.raises(TooLarge, match=f"{size} values, at most {size - 1}"):
            await setup.ask([9, 9], "gates")
        assert setup.backend.batches == []
        assert (await setup.ask([9, 8], "gates")).traces
        assert (await setup.ask([9, 9], "layers")).traces

    fake_clock.run(test)


@pytest.mark.parametrize("kind", ["tiny", "both"])
def test_a_row_is_answered_the_same_alone_as_in_any_batch(repository: Path, kind: str) -> None:
    @settings(max_examples=15, deadline=None)
    @given(st.lists(st.integers(1, 20), min_size=2, max_size=20), st.integers(0, 99))
    def invariant(lengths: list[int], seed: int) -> None:
        async def test(_: FakeClock) -> None:
            setup = Setup(repository, kind)
            together = await setup.ask(lengths, seed=seed)
            for row, sequence in enumerate(make_sequences(lengths, seed)):
                query = Query(Sequences(sequence, np.array([len(sequence)])), timeout_s=30)
                alone = await setup.engine.predict(query, Timing())
                np.testing.assert_allclose(together.probabilities[row], alone.probabilities[0], rtol=0, atol=1e-6)

        fake_clock.run(test)

    invariant()


@pytest.mark.parametrize("level", ["layers", "gates"])
@pytest.mark.parametrize("kind", ["tiny", "both"])
def test_a_traced_answer_is_the_untraced_answer(repository: Path, kind: str, level: TraceLevel) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository, kind)
        lengths = [4, 1, 7, *range(1, 15)]  # more than one batch holds
        traced, untraced = await setup.ask(lengths, level), await setup.ask(lengths)
        np.testing.assert_allclose(traced.probabilities, untraced.probabilities, rtol=0, atol=1e-6)
        assert traced.traces is not None
        for layers, row, length in zip(traced.traces, untraced.probabilities, lengths, strict=True):
            arrays = {layer.name: layer.values for layer in layers}
            assert arrays["input_sequence"].shape == (length, 3)
            np.testing.assert_allclose(arrays["softmax"], row, rtol=0, atol=1e-6)

    fake_clock.run(test)


@pytest.mark.parametrize("kind", ["tiny", "stacked"])
@pytest.mark.parametrize("cut", [1, 4])
def test_a_trace_goes_on_from_the_state_that_a_sequence_begins_with(repository: Path, kind: str, cut: int) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository, kind)
        whole = make_sequences([6])
        states = frozenset({"hn", "cn"})

        async def trace(values: Array, state: State | None = None) -> Prediction:
            part = Sequences(values, np.array([len(values)]), state)
            return await setup.engine.predict(Query(part, 30, outputs=states, trace="gates"), Timing())

        expected, first = await trace(whole.values), await trace(whole.values[:cut])
        second = await trace(whole.values[cut:], State(first.outputs["hn"], first.outputs["cn"]))
        assert expected.traces
        assert first.traces
        assert second.traces
        for layer, before, after in zip(expected.traces[0], first.traces[0], second.traces[0], strict=True):
            values = after.values if layer.values.ndim == 1 else np.concatenate([before.values, after.values])
            np.testing.assert_allclose(values, layer.values, rtol=0, atol=1e-5, err_msg=layer.name)

    fake_clock.run(test)


def test_both_directions_of_a_trace_begin_with_the_state_that_was_given(repository: Path) -> None:
    async def test(_: FakeClock) -> None:
        setup = Setup(repository, "both")
        state = State(*np.random.default_rng(3).normal(size=(2, 4, 1, 4)).astype(np.float32))
        sequences = Sequences(make_sequences([5]).values, np.array([5]), state)
        prediction = await setup.engine.predict(Query(sequences, 30, trace="gates"), Timing())
        assert prediction.traces
        arrays = {layer.name: layer.values for layer in prediction.traces[0]}
        for suffix in ("_0", "_1"):
            hidden_states = arrays["output_gate" + suffix] * np.tanh(arrays["cell_state" + suffix])
            np.testing.assert_allclose(hidden_states, arrays["lstm" + suffix], rtol=0, atol=1e-5)
        np.testing.assert_allclose(arrays["step_probabilities"][-1], arrays["softmax"], rtol=0, atol=1e-5)

    fake_clock.run(test)


def test_values_on_which_the_network_overflows_are_refused_and_named(tmp_path: Path) -> None:
    async def test(_: FakeClock) -> None:
        bundle = make_bundle(tmp_path, hidden_size=64)
        loaded = load(bundle, Runtime(("torchscript",), "cpu", 1), LIMITS)
        engine = Engine(loaded, limits=LIMITS, metrics=Metrics())
        sequences = make_sequences([2, 2])
        sequences.values[2:] = [3e38, -3e38, 3e38]
        with pytest.raises(InvalidRequest, match=r"sequences\[1\]: values too large"):
            await engine.predict(Query(sequences, timeout_s=30.0), Timing())

    fake_clock.run(test)


def test_the_shapes_to_come_are_run_before_anything_is_served(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = open_bundle(repository / "both" / "1")
    backend = CountingBackend(load_backend(bundle, "onnx", ONNX))
    monkeypatch.setattr(engine_module, "load_backend", lambda *_: backend)
    data = bundle.manifest.data
    limits = EngineLimits(Limits(8, 42), QueueLimits(9, 900), max_sequence_length=6, max_trace_values=9)
    assert (data.min_length, data.max_length) == (2, 8)  # so the limits cut the longest to 6, and of 8 to 5
    loaded = load(bundle, ONNX, limits)

    def shape(batch: Batch) -> tuple[int, ...]:
        return batch.sequences.shape[:2]

    shapes = {(rows, steps) for rows in (1, 2, 4) for steps in (1, 6)} | {(8, 1), (8, 5)}
    assert {shape(batch) for batch in backend.batches} == shapes
    assert loaded.costs.timings["onnx"].keys() == {shape(batch) for batch in backend.batches}
    assert loaded.duration_s > 0


@pytest.mark.parametrize(
    "runtime",
    [ONNX, Runtime(("torchscript",), "cpu", 1), Runtime(("onnx",), "cpu", 1, "int8")],
    ids=["onnx", "torchscript", "int8"],
)
@pytest.mark.parametrize("kind", ["tiny", "stacked"])
def test_what_takes_several_runs_is_answered_as_in_one(repository: Path, kind: str, runtime: Runtime) -> None:
    tolerance = 0 if runtime.precision == "int8" else 1e-6

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.integers(1, 40), st.integers(0, 99))
    def invariant(lengths: list[int], max_run_steps: int, seed: int) -> None:
        async def test(_: FakeClock) -> None:
            whole = Setup(repository, kind, runtime=runtime)
            query = Query(make_sequences(lengths, seed), 30, frozenset(whole.engine.manifest.outputs), "gates")
            expected = await whole.engine.predict(query, Timing())
            bounded = Setup(repository, kind, runtime=runtime, max_run_steps=max_run_steps)
            got = await bounded.engine.predict(query, Timing())
            assert got.outputs.keys() == expected.outputs.keys()
            for name, array in got.outputs.items():
                assert array.dtype == np.float32
                assert array.flags.c_contiguous
                np.testing.assert_allclose(array, expected.outputs[name], rtol=0, atol=tolerance, err_msg=name)
                padding = array[expected.outputs[name].view(np.int32) == 0]
                assert not padding.view(np.int32).any(), "zeros in the padding, no -0.0"
            assert got.traces
            assert expected.traces
            for of_one, as_expected in zip(got.traces, expected.traces, strict=True):
                for layer, same in zip(of_one, as_expected, strict=True):
                    np.testing.assert_allclose(layer.values, same.values, rtol=0, atol=1e-5, err_msg=layer.name)
            batches = bounded.backend.batches
            assert all(
                rows * steps <= max(rows, max_run_steps) for rows, steps, _ in (one.sequences.shape for one in batches)
            )
            assert sum(int(batch.lengths.sum()) for batch in batches) == sum(lengths), "each step once"

        fake_clock.run(test)

    invariant()


@pytest.mark.parametrize(("kind", "is_bounded"), [("tiny", True), ("stacked", True), ("both", False)])
def test_a_run_is_bounded_unless_the_network_has_a_backward_direction(
    repository: Path, kind: str, *, is_bounded: bool
) -> None:
    limits = replace(LIMITS, batch=Limits(2, 200))
    loaded = load(open_bundle(repository / kind / "1"), ONNX, limits)
    assert loaded.max_run_steps == (2**24 // (4 * 4 * 4) if is_bounded else None), "of 4 gates of 4 units of 4 bytes"


def test_no_larger_run_is_timed_than_will_be_made(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_MAX_RUN_BYTES", 9 * 4 * 4 * 4)
    loaded = load(open_bundle(repository / "tiny" / "1"), ONNX, LIMITS)
    shapes = loaded.costs.timings["onnx"].keys()
    assert max(rows * steps for rows, steps in shapes) <= loaded.max_run_steps == 9
    assert max(rows for rows, _ in shapes) == 8


def test_long_sequences_take_no_more_memory_than_short_ones(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, hidden_size=128, num_layers=2)
    script = f"""
import asyncio
from dataclasses import replace
from pathlib import Path
import numpy as np
from model.bundle import open_bundle
from service.backends import Runtime
from service.batcher import QueueLimits
from service.costs import Costs
from service.engine import Engine, EngineLimits, Query, load
from service.metrics import Metrics
from service.policy import Limits
from service.tensors import Sequences
from service.timing import Timing

async def main():
    limits = EngineLimits(Limits(64, 65_536), QueueLimits(64, 65_536), max_sequence_length=1000, max_trace_values=1)
    loaded = load(open_bundle(Path({str(bundle.folder)!r})), Runtime(("onnx",), "cpu", 1), limits)
    cheap = Costs({{"onnx": {{(1, 1): 1e-9}}}})  # so that 64 run together, and no bound on time is met
    engine = Engine(replace(loaded, costs=cheap), limits=limits, metrics=Metrics())
    for steps in (100, 1000):
        sequences = Sequences(np.zeros((64 * steps, 3), np.float32), np.full(64, steps))
        await engine.predict(Query(sequences, 60), Timing())
        print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])

asyncio.run(main())
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    short_kb, long_kb = map(int, ran.stdout.split())
    assert long_kb - short_kb < 40_000, "as a whole it takes 180 MB more"
