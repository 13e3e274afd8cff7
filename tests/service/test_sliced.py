"""`service.backends.sliced`: in slices of time comes out what comes out of the whole, with a bound on what it takes."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from factories import make_bundle
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_backends import CPU, INT8, make_batch, open_kind

from service.backends import Array, Backend, BackendName, Batch, DeviceName, Precision, Runtime, load_backend, sliced
from service.backends.onnx import OnnxBackend
from service.backends.sliced import SlicedBackend

FORWARD = ("tiny", "stacked")
HIDDEN_SIZE = 4
lists_of_lengths = st.lists(st.integers(1, 12), min_size=1, max_size=6)


class Watched:
    """Passes each run on, and remembers it."""

    name: BackendName = "onnx"
    device: DeviceName = "cpu"
    precision: Precision = "float32"

    def __init__(self, whole: Backend) -> None:
        self.batches: list[Batch] = []
        self.outputs: list[Sequence[str]] = []
        self._whole = whole

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        self.batches.append(batch)
        self.outputs.append(outputs)
        return self._whole.run(batch, outputs)


def in_slices(monkeypatch: pytest.MonkeyPatch, whole: Backend, max_steps: int) -> SlicedBackend:
    """A backend whose slices hold so many steps of all sequences together."""
    monkeypatch.setattr(sliced, "_SLICE_BYTES", max_steps * 4 * HIDDEN_SIZE * 4)
    return SlicedBackend(whole, HIDDEN_SIZE)


@pytest.mark.parametrize("runtime", [CPU, INT8], ids=["float32", "int8"])
@pytest.mark.parametrize("kind", FORWARD)
def test_slices_give_what_the_whole_gives(
    repository: Path, monkeypatch: pytest.MonkeyPatch, kind: str, runtime: Runtime
) -> None:
    bundle = open_kind(repository, kind)
    assert bundle.manifest.hidden_size == HIDDEN_SIZE
    whole = OnnxBackend(bundle, runtime)

    @settings(max_examples=40, deadline=None)
    @given(lists_of_lengths, st.integers(1, 40), st.integers(0, 99))
    @example([12], 1, 0)
    @example([3, 9, 6], 9, 0)
    def agree(lengths: list[int], max_steps: int, seed: int) -> None:
        batch = make_batch(bundle, lengths, seed)
        expected = whole.run(batch, bundle.manifest.outputs)
        got = in_slices(monkeypatch, whole, max_steps).run(batch, bundle.manifest.outputs)
        assert got.keys() == expected.keys()
        for name, array in got.items():
            assert array.dtype == np.float32
            assert array.flags.c_contiguous
            tolerance = 1e-6 if runtime.precision == "float32" else 0.0  # no bit depends on the batch
            np.testing.assert_allclose(array, expected[name], rtol=0, atol=tolerance, err_msg=name)
            assert not array[expected[name].view(np.int32) == 0].view(np.int32).any(), "zeros in the padding, no -0.0"

    agree()


@settings(max_examples=40, deadline=None)
@given(lists_of_lengths, st.integers(1, 40))
def test_a_slice_is_bounded_and_holds_only_sequences_that_go_on(
    repository: Path, lengths: list[int], max_steps: int
) -> None:
    bundle = open_kind(repository, "tiny")
    watched = Watched(OnnxBackend(bundle, CPU))
    with pytest.MonkeyPatch.context() as monkeypatch:
        backend = in_slices(monkeypatch, watched, max_steps)
    batch, outputs = make_batch(bundle, lengths), ["probabilities"]
    backend.run(batch, outputs)
    shapes = [batch.sequences.shape[:2] for batch in watched.batches]
    assert all(steps == max(1, max_steps // rows) for rows, steps in shapes[:-1]), "as many as fit of those that go on"
    assert shapes[-1][1] <= max(1, max_steps // shapes[-1][0])
    assert sum(int(batch.lengths.sum()) for batch in watched.batches) == sum(lengths), "each step once"
    assert all(batch.lengths.min() >= 1 for batch in watched.batches)
    if len(lengths) * max(lengths) <= max_steps:
        assert watched.batches == [batch]
        assert watched.outputs == [outputs]


@pytest.mark.parametrize("runtime", [CPU, INT8], ids=["float32", "int8"])
def test_it_is_what_it_stands_in_front_of(repository: Path, runtime: Runtime) -> None:
    whole = OnnxBackend(open_kind(repository, "tiny"), runtime)
    backend = SlicedBackend(whole, HIDDEN_SIZE)
    assert (backend.name, backend.device, backend.precision) == (whole.name, whole.device, whole.precision)


def test_only_what_was_asked_for_comes_back(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = open_kind(repository, "stacked")
    backend = in_slices(monkeypatch, OnnxBackend(bundle, CPU), 2)
    batch = make_batch(bundle, [5, 1, 3])
    every = backend.run(batch, bundle.manifest.outputs)
    for wanted in (["probabilities"], ["cn", "hidden_states"]):
        some = backend.run(batch, wanted)
        assert some.keys() == set(wanted)
        for name, array in some.items():
            np.testing.assert_array_equal(array, every[name])


@pytest.mark.parametrize(
    ("kind", "name", "is_sliced"),
    [("tiny", "onnx", True), ("stacked", "onnx", True), ("both", "onnx", False), ("tiny", "torchscript", False)],
)
def test_onnx_without_a_backward_direction_is_computed_in_slices(
    repository: Path, kind: str, name: str, *, is_sliced: bool
) -> None:
    assert isinstance(load_backend(open_kind(repository, kind), name, CPU), SlicedBackend) is is_sliced


def test_long_sequences_take_no_more_memory_than_short_ones(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, hidden_size=128, num_layers=2)
    script = f"""
from pathlib import Path
import numpy as np
from model.bundle import open_bundle
from service.backends import Batch, Runtime, load_backend

backend = load_backend(open_bundle(Path({str(bundle.folder)!r})), "onnx", Runtime(("onnx",), "cpu", 1))
state = np.zeros((2, 64, 128), np.float32)
for steps in (100, 1000):
    backend.run(Batch(np.zeros((64, steps, 3), np.float32), np.full(64, steps), state, state), ["probabilities"])
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    short_kb, long_kb = map(int, ran.stdout.split())
    assert long_kb - short_kb < 15_000, "as a whole it takes 290 MB more"
