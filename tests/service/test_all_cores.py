"""`service.backends.all_cores`: a run gets all cores when it is long, nothing else is computed, and it pays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from fake_backend import STATE_SHAPE, FakeBackend
from test_backends import KINDS, make_batch

from model.bundle import Bundle, BundleError, open_bundle
from service.backends import Array, Backend, Batch, Precision, Runtime, RuntimeName, load_backend
from service.backends import all_cores as module
from service.backends.all_cores import AllCoresBackend
from service.batcher import QueueLimits
from service.cores import Cores
from service.engine import EngineLimits, load
from service.policy import Limits

LIMITS = EngineLimits(Limits(8, 100), QueueLimits(9, 900), max_sequence_length=50, max_trace_values=99999)
EXPECTED_S = 0.01  # of each run on one core


class Machine:
    """Two backends whose runs take as long as a test says, on a clock that only they and the test move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        self.took = 0.5  # of what one core takes, with all cores
        self.neighbour = Cores(2, 2)
        self.cores = Cores(2, 2)
        self.cores._computed_s = self.neighbour._computed_s
        self.neighbour.become_worker(1)
        self.share, self.all = FakeBackend(), FakeBackend()
        self.expected_s = EXPECTED_S
        self.backend = AllCoresBackend(self.share, _Timed(self), lambda *_: self.expected_s, self.cores)
        for name in ("perf_counter", "monotonic"):
            monkeypatch.setattr(module, name, lambda: self.now_s)
        monkeypatch.setattr("service.cores.monotonic", lambda: self.now_s)

    def run(self, rows: int = 1, steps: int = 5) -> str:
        """Run a batch as a batcher does; return who ran it."""
        layers, hidden_size = STATE_SHAPE
        state = np.zeros((layers, rows, hidden_size), np.float32)
        before = len(self.all.batches)
        sequences = np.zeros((rows, steps, 2), np.float32)
        self.cores.take()
        self.backend.run(Batch(sequences, np.full(rows, steps), state, state), ["probabilities"])
        self.cores.give_back()
        return "all" if len(self.all.batches) > before else "share"

    def runs_until_it_pauses(self) -> int:
        """How often all cores are tried in vain."""
        for tried in range(1000):
            if self.run() == "share":
                return tried
        raise AssertionError("it never pauses")


class _Timed(FakeBackend):
    def __init__(self, machine: Machine) -> None:
        super().__init__()
        self._machine = machine

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        self._machine.now_s += self._machine.took * self._machine.expected_s
        return self._machine.all.run(batch, outputs)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def test_a_long_run_gets_all_cores_while_the_others_rest(machine: Machine) -> None:
    assert [machine.run() for _ in range(50)] == ["all"] * 50


@pytest.mark.parametrize("expected_s", [2e-4, 0.03])
def test_a_run_that_is_not_worth_waking_threads_for_or_takes_long_keeps_to_its_share(
    machine: Machine, expected_s: float
) -> None:
    machine.expected_s = expected_s
    assert machine.run() == "share"


def test_while_another_worker_computes_or_has_lately_each_keeps_to_its_share(machine: Machine) -> None:
    machine.neighbour.take()
    assert machine.run() == "share"
    machine.neighbour.give_back()
    assert machine.run() == "share"
    machine.now_s += 1
    assert machine.run() == "all"


def test_while_another_model_of_this_worker_computes_each_keeps_to_its_share(machine: Machine) -> None:
    machine.cores.take()
    assert machine.run() == "share"
    machine.cores.give_back()
    assert machine.run() == "all"


def test_where_it_does_not_pay_it_is_tried_ever_more_rarely(machine: Machine) -> None:
    machine.took = 1.1
    pauses_s = []
    for _ in range(9):
        assert 0 < machine.runs_until_it_pauses() < 20
        began_s = machine.now_s
        while machine.run() == "share":
            machine.now_s += 0.1
        pauses_s.append(int(machine.now_s - began_s))
    assert pauses_s == [1, 2, 4, 8, 16, 32, 64, 64, 64]


def test_where_it_pays_again_it_is_taken_up_again_for_good(machine: Machine) -> None:
    machine.took = 1.1
    for _ in range(4):
        machine.runs_until_it_pauses()
        machine.now_s += 64
    machine.took = 0.5
    assert [machine.run() for _ in range(30)] == ["all"] * 30
    machine.took = 1.1
    machine.runs_until_it_pauses()
    machine.now_s += 1.1
    assert machine.run() == "all", "its pauses begin anew with the shortest"


def test_one_disturbed_run_in_ten_ends_nothing(machine: Machine) -> None:
    for number in range(200):
        machine.took = 50.0 if number % 10 == 9 else 0.6
        assert machine.run() == "all", number


def test_what_does_not_pay_for_one_short_sequence_may_pay_for_many_or_long_ones(machine: Machine) -> None:
    machine.took = 1.1
    machine.runs_until_it_pauses()
    machine.took = 0.5
    assert [machine.run(), machine.run(rows=8), machine.run(steps=50)] == ["share", "all", "all"]


def test_a_graph_that_fails_on_all_cores_is_refused_as_one_that_fails_at_all(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(FakeBackend):
        def run(self, *_: object) -> dict[str, Array]:
            raise RuntimeError("no such operator")

    def load_one(bundle: Bundle, name: RuntimeName, runtime: Runtime) -> Backend:
        return Failing() if runtime.threads > 1 else load_backend(bundle, name, runtime)

    monkeypatch.setattr("service.engine.load_backend", load_one)
    with pytest.raises(BundleError, match="onnx fails to run its graph: no such operator"):
        load(open_bundle(repository / "tiny" / "1"), Runtime(("onnx",), "cpu", 1, lone_threads=2), LIMITS)


def test_it_has_the_name_of_whatever_computes() -> None:
    both, cores = [FakeBackend(), FakeBackend()], Cores(2, 2)
    assert AllCoresBackend(*both, lambda *_: 1.0, cores).name == "onnx"
    both[0].name = "torchscript"
    assert AllCoresBackend(*both, lambda *_: 1.0, cores).name == "auto"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-6), ("int8", 0.0)])
def test_on_all_cores_the_numbers_are_the_same(
    repository: Path, kind: str, precision: Precision, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_WORTH_WAKING_S", 0.0)
    bundle, cores = open_bundle(repository / kind / "1"), Cores(2, 2)
    runtime = Runtime(("onnx",), "cpu", 1, precision, cores, lone_threads=2)
    loaded = load(bundle, runtime, LIMITS)
    assert isinstance(loaded.backend, AllCoresBackend)
    monkeypatch.setattr(loaded.backend, "_share", None)  # whoever asks it fails
    batch = make_batch(bundle, [3, 1, 5, 2, 8])
    expected = load_backend(bundle, "onnx", Runtime(("onnx",), "cpu", 1, precision)).run(batch, bundle.manifest.outputs)
    cores.take()
    for name, array in loaded.backend.run(batch, bundle.manifest.outputs).items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    ("runtime", "is_shared"),
    [
        (Runtime(("onnx",), "cpu", 2, cores=Cores(2, 4), lone_threads=4), True),
        (Runtime(("onnx",), "cpu", 4, cores=Cores(2, 8), lone_threads=4), False),
        (Runtime(("onnx",), "cpu", 1), False),
        (Runtime(("torchscript",), "cpu", 1, cores=Cores(2, 2), lone_threads=2), False),
    ],
)
def test_whose_share_is_less_than_all_and_who_has_onnx_runtime_may_compute_on_all_cores(
    repository: Path, runtime: Runtime, is_shared: bool
) -> None:
    loaded = load(open_bundle(repository / "tiny" / "1"), runtime, LIMITS)
    assert isinstance(loaded.backend, AllCoresBackend) == is_shared
