"""`service.costs`: what was measured is given back, what lies between and beyond is in proportion."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.bundle import Bundle, BundleError, open_bundle
from service import costs as costs_module
from service.backends import Array, Backend, BackendName, Batch, DeviceName, Precision, RuntimeName
from service.costs import Costs, Timings, measure
from service.policy import Limits

# Seconds of 1 and of 4 rows, at 10 and at 30 steps.
TIMINGS: Timings = {(1, 10): 1.0, (1, 30): 3.0, (4, 10): 2.0, (4, 30): 4.0}


class FakeClock:
    """A clock that only a backend's runs move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class TimedBackend:
    """Computes nothing, in a time that the test chose."""

    name: BackendName = "onnx"
    device: DeviceName = "cpu"
    precision: Precision = "float32"

    def __init__(self, clock: FakeClock, seconds: Sequence[float] = (1e-3,)) -> None:
        self.batches: list[Batch] = []
        self._clock = clock
        self._seconds = seconds

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        self._clock.now_s += self._seconds[len(self.batches) % len(self._seconds)]
        self.batches.append(batch)
        return {name: np.zeros((len(batch.lengths), 1), np.float32) for name in outputs}

    @property
    def shapes(self) -> list[tuple[int, int]]:
        return [(batch.sequences.shape[0], batch.sequences.shape[1]) for batch in self.batches]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    made = FakeClock()
    monkeypatch.setattr(costs_module, "perf_counter", made)
    return made


@pytest.fixture(scope="module")
def bundle(repository: Path) -> Bundle:
    """Of sequences of 2 to 8 steps."""
    return open_bundle(repository / "both" / "1")


def test_what_was_measured_is_what_it_costs() -> None:
    cost = Costs({"onnx": TIMINGS})
    assert {shape: cost(*shape) for shape in TIMINGS} == pytest.approx(TIMINGS)


def test_between_what_was_measured_and_beyond_it_seconds_are_in_proportion() -> None:
    cost = Costs({"onnx": TIMINGS})
    assert cost(1, 20) == pytest.approx(2.0)
    assert cost(1, 60) == pytest.approx(6.0)
    assert cost(4, 20) == pytest.approx(3.0)
    assert cost(4, 1) == pytest.approx(1.1)
    assert cost(2, 10) == pytest.approx(1 + 1 / 3)
    assert cost(8, 10) == pytest.approx(4.0), "twice as many rows as were measured take twice as long"


def test_fewer_rows_than_were_measured_are_as_dear_as_the_fewest() -> None:
    assert Costs({"onnx": {(4, 10): 2.0}})(1, 10) == 2.0


def test_one_length_alone_is_taken_as_in_proportion() -> None:
    cost = Costs({"onnx": {(1, 10): 2.0}})
    assert (cost(1, 5), cost(1, 10), cost(1, 20)) == (1.0, 2.0, 4.0)


def test_noise_makes_no_run_free_nor_a_longer_one_cheaper() -> None:
    cost = Costs({"onnx": {(1, 10): 3.0, (1, 30): 2.0}})
    assert cost(1, 1) == cost(1, 30) == cost(1, 1000) == 2.0
    steep = Costs({"onnx": {(1, 10): 1.0, (1, 30): 9.0}})
    assert steep(1, 1) > 0


seconds = st.floats(1e-6, 10)
tables = st.sets(st.integers(1, 64), min_size=1, max_size=6).flatmap(
    lambda rows: st.fixed_dictionaries({(r, s): seconds for r in rows for s in (4, 40)})
)


@settings(deadline=None)
@given(tables, st.integers(1, 200), st.lists(st.integers(1, 500), min_size=2, max_size=20))
@example({(1, 4): 1.0, (1, 40): 0.5}, 3, [1, 2])
def test_more_steps_never_cost_less(timings: Timings, rows: int, steps: list[int]) -> None:
    cost = Costs({"onnx": timings})
    costs = [cost(rows, count) for count in sorted(steps)]
    assert all(one <= other * (1 + 1e-9) for one, other in pairwise(costs))
    assert all(0 <= one < float("inf") for one in costs)


@settings(deadline=None)
@given(tables, st.integers(1, 500))
def test_between_two_counts_of_rows_it_costs_what_is_between_their_costs(timings: Timings, steps: int) -> None:
    cost = Costs({"onnx": timings})
    for low, high in pairwise(sorted({rows for rows, _ in timings})):
        bounds = sorted([cost(low, steps), cost(high, steps)])
        for rows in range(low, high + 1):
            assert bounds[0] * (1 - 1e-9) <= cost(rows, steps) <= bounds[1] * (1 + 1e-9)


@settings(deadline=None)
@given(tables, tables, st.integers(1, 200), st.integers(1, 500))
def test_of_two_runtimes_one_is_chosen_that_costs_little_more_than_the_other_and_is_what_it_costs(
    onnx: Timings, torchscript: Timings, rows: int, steps: int
) -> None:
    both = Costs({"onnx": onnx, "torchscript": torchscript})
    alone = {name: Costs({name: of_one})(rows, steps) for name, of_one in both.timings.items()}
    assert both(rows, steps) == alone[both.chosen(rows, steps)]
    assert 0.9 * both(rows, steps) <= min(alone.values())


def test_another_runtime_than_the_usual_one_must_be_clearly_faster() -> None:
    usual = {**TIMINGS, (8, 10): 10.0, (16, 10): 20.0}
    other = {shape: 2 * s for shape, s in TIMINGS.items()} | {(8, 10): 9.1, (16, 10): 17.9}
    costs = Costs({"torchscript": other, "onnx": usual})
    assert (costs.chosen(8, 10), costs(8, 10)) == ("onnx", 10.0)
    assert (costs.chosen(16, 10), costs(16, 10)) == ("torchscript", 17.9)


def test_the_usual_runtime_is_that_of_a_busy_service_whose_batches_are_large() -> None:
    costs = Costs(
        {
            "onnx": {(1, 10): 1.0, (2, 10): 2.0, (4, 10): 4.0, (32, 10): 32.0},
            "torchscript": {(1, 10): 1.05, (2, 10): 2.1, (4, 10): 4.2, (32, 10): 30.0},
        }
    )
    assert {costs.chosen(rows, 10) for rows in (1, 4, 32)} == {"torchscript"}


def test_a_runtime_that_is_never_the_fastest_is_not_among_those_that_are() -> None:
    slower = {shape: 2 * s for shape, s in TIMINGS.items()}
    assert Costs({"onnx": TIMINGS, "torchscript": slower}).chosen_anywhere() == {"onnx"}
    assert Costs({"onnx": slower, "torchscript": TIMINGS}).chosen_anywhere() == {"torchscript"}
    mixed = {**slower, (4, 30): 1.0}
    assert Costs({"onnx": TIMINGS, "torchscript": mixed}).chosen_anywhere() == {"onnx", "torchscript"}


def test_the_shapes_that_are_measured_double_up_to_the_limits(bundle: Bundle, clock: FakeClock) -> None:
    def shapes(limits: Limits, max_steps: int) -> set[tuple[int, int]]:
        backend = TimedBackend(clock)
        timings = measure({"onnx": backend}, bundle, limits, max_steps=max_steps)["onnx"]
        assert timings.keys() == set(backend.shapes)
        return set(timings)

    assert shapes(Limits(9, 1000), 100) == {(rows, steps) for rows in (1, 2, 4, 8) for steps in (2, 64)}
    assert shapes(Limits(9, 20), 10) == {(1, 2), (1, 10), (2, 2), (2, 10), (4, 1), (4, 5), (8, 1), (8, 2)}
    assert shapes(Limits(1, 20), 5) == {(1, 1), (1, 5)}
    assert shapes(Limits(1, 1), 1) == {(1, 1)}


def test_the_fastest_of_a_few_runs_counts(bundle: Bundle, clock: FakeClock) -> None:
    backend = TimedBackend(clock, [0.04] * 10 + [0.02] * 4 + [0.03] * 8)  # ten to begin with, then rounds of four
    timings = measure({"onnx": backend}, bundle, Limits(max_rows=2, max_steps=1000), max_steps=100)
    assert list(timings["onnx"].values()) == pytest.approx([0.02] * 4)


def test_what_uses_the_machine_for_a_moment_makes_neither_a_shape_nor_a_runtime_look_dear(
    bundle: Bundle, clock: FakeClock
) -> None:
    class Disturbed(TimedBackend):
        def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
            clock.now_s += 4e-3 if clock.now_s < 0.175 else 0.0
            return super().run(batch, outputs)

    # The first 35 of 84 runs are disturbed: nearly all that come before the rounds, or nearly all of one runtime alone.
    backends: dict[RuntimeName, Backend] = {"onnx": Disturbed(clock), "torchscript": Disturbed(clock)}
    for of_one in measure(backends, bundle, Limits(8, 1000), max_steps=100).values():
        assert list(of_one.values()) == pytest.approx([1e-3] * 8)


@pytest.mark.parametrize(("slow_s", "most"), [(0.1, 1), (0.03, 4), (0.01, 64)])
def test_a_slow_runtime_ends_the_measuring_of_ever_larger_shapes_for_all(
    bundle: Bundle, clock: FakeClock, slow_s: float, most: int
) -> None:
    backends: dict[RuntimeName, Backend] = {
        "onnx": TimedBackend(clock, [slow_s]),
        "torchscript": TimedBackend(clock, [1e-4]),
    }
    for of_one in measure(backends, bundle, Limits(64, 65_536), max_steps=100).values():
        assert max(rows for rows, _ in of_one) == most


def test_a_very_slow_model_is_not_measured_in_further_rounds(bundle: Bundle, clock: FakeClock) -> None:
    backend = TimedBackend(clock, [0.5])
    assert measure({"onnx": backend}, bundle, Limits(64, 65_536), max_steps=100)["onnx"].keys() == {(1, 2), (1, 64)}
    assert len(backend.batches) == 6


def test_what_a_runtime_does_but_once_for_a_shape_keeps_no_larger_one_from_being_measured(
    bundle: Bundle, clock: FakeClock
) -> None:
    class Compiling(TimedBackend):
        def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
            clock.now_s += 0.4 if len(self.batches) < 2 or batch.sequences.shape[:2] not in self.shapes else 0.0
            return super().run(batch, outputs)

    timings = measure({"onnx": Compiling(clock)}, bundle, Limits(64, 65_536), max_steps=100)["onnx"]
    assert timings == {(rows, steps): pytest.approx(1e-3) for rows in (1, 2, 4, 8, 16, 32, 64) for steps in (2, 64)}


def test_what_is_measured_is_a_batch_that_the_model_takes(bundle: Bundle, clock: FakeClock) -> None:
    backend = TimedBackend(clock)
    measure({"onnx": backend}, bundle, Limits(max_rows=4, max_steps=1000), max_steps=100)
    for batch in backend.batches:
        rows, steps, features = batch.sequences.shape
        assert features == bundle.manifest.input_size
        assert batch.lengths.tolist() == [steps] * rows
        assert batch.h0.shape == batch.c0.shape == (4, rows, bundle.manifest.hidden_size)
        assert {array.dtype for array in (batch.sequences, batch.h0, batch.c0)} == {np.dtype(np.float32)}


def test_a_runtime_that_fails_is_named(bundle: Bundle) -> None:
    class Failing(TimedBackend):
        def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:  # noqa: ARG002
            raise RuntimeError("no such operator")

    clock = FakeClock()
    backends: dict[RuntimeName, Backend] = {"onnx": TimedBackend(clock), "torchscript": Failing(clock)}
    with pytest.raises(BundleError, match="both/1: torchscript fails to run its graph: no such operator"):
        measure(backends, bundle, Limits(4, 100), max_steps=100)


def test_what_was_measured_can_be_logged() -> None:
    costs = Costs({"onnx": {(1, 5): 0.001, (8, 5): 0.009}, "torchscript": {(1, 5): 0.002, (8, 5): 0.004}})
    assert costs.summary() == "onnx for 1 of 2 shapes, torchscript for 1 of 2 shapes"
    assert str(costs) == "onnx 1x5 1, 8x5 9; torchscript 1x5 2, 8x5 4"
