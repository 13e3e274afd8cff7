"""`service.backends`: two runtimes, one behaviour."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bundle import ONNX, ONNX_INT8, TORCHSCRIPT, Bundle, BundleError, lower_outputs, open_bundle, publish
from service import backends
from service.backends import BackendError, Batch, Runtime, choose_runtime, load_backend
from service.backends.torchscript import TorchScriptBackend, _flatten_weights
from service.batcher import QueueLimits
from service.engine import EngineLimits, load
from service.policy import Limits

KINDS = ("tiny", "stacked", "bidirectional", "both")
LIMITS = EngineLimits(Limits(4, 100), QueueLimits(9, 900), max_sequence_length=50, max_trace_values=99999)
CPU = Runtime(("onnx", "torchscript"), "cpu", 1)
INT8 = Runtime(("onnx",), "cpu", 1, "int8")
FILES = {"onnx": ONNX, "torchscript": TORCHSCRIPT}


def open_kind(repository: Path, kind: str) -> Bundle:
    return open_bundle(repository / kind / "1")


def make_batch(bundle: Bundle, lengths: list[int], seed: int = 0) -> Batch:
    """A ragged batch with garbage in its padding and a state that is not zero."""
    rng = np.random.default_rng(seed)
    manifest = bundle.manifest
    state = (manifest.num_layers * manifest.num_directions, len(lengths), manifest.hidden_size)
    return Batch(
        rng.normal(size=(len(lengths), max(lengths), manifest.input_size)).astype(np.float32),
        np.array(lengths, np.int64),
        rng.normal(size=state).astype(np.float32),
        rng.normal(size=state).astype(np.float32),
    )


def republish(good: Bundle, repository: Path, changed: dict[str, bytes]) -> Bundle:
    """`good` with other files, whose hashes its manifest vouches for."""
    files = {name: good.read(name) for name in good.manifest.files} | changed
    return publish(
        repository,
        good.manifest.name,
        files,
        lambda version, entries: good.manifest.model_copy(update={"version": version, "files": entries}),
    )


@pytest.mark.parametrize("kind", KINDS)
def test_both_runtimes_give_the_same_for_every_output(repository: Path, kind: str) -> None:
    bundle = open_kind(repository, kind)
    onnx, torchscript = (load_backend(bundle, name, CPU) for name in ("onnx", "torchscript"))

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(1, 12), min_size=1, max_size=6), st.integers(0, 99))
    def agree(lengths: list[int], seed: int) -> None:
        batch = make_batch(bundle, lengths, seed)
        results = [backend.run(batch, bundle.manifest.outputs) for backend in (onnx, torchscript)]
        for name in bundle.manifest.outputs:
            one, other = (result[name] for result in results)
            assert one.dtype == other.dtype == np.float32
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-5, err_msg=name)

    agree()


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_only_what_was_asked_for_comes_back(repository: Path, kind: str, backend: str) -> None:
    bundle = open_kind(repository, kind)
    loaded = load_backend(bundle, backend, CPU)
    batch = make_batch(bundle, [3, 1])
    every = loaded.run(batch, bundle.manifest.outputs)
    some = loaded.run(batch, ["cn", "probabilities"])
    assert some.keys() == {"cn", "probabilities"}
    for name, array in some.items():
        np.testing.assert_array_equal(array, every[name])


@pytest.mark.parametrize("backend", FILES)
@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_contiguous_and_the_zeros_of_its_padding_have_no_sign(
    repository: Path, kind: str, backend: str
) -> None:
    bundle = open_kind(repository, kind)
    lengths = [3, 1, 5]
    outputs = load_backend(bundle, backend, CPU).run(make_batch(bundle, lengths), bundle.manifest.outputs)
    assert all(array.flags.c_contiguous for array in outputs.values())
    for name in ("hidden_states", *lower_outputs(bundle.manifest.num_layers)):
        for row, length in zip(outputs[name], lengths, strict=True):
            assert not row[length:].view(np.int32).any()


@pytest.mark.parametrize("backend", FILES)
def test_a_backend_says_what_it_is_and_where_it_computes(repository: Path, backend: str) -> None:
    loaded = load_backend(open_kind(repository, "tiny"), backend, CPU)
    assert (loaded.name, loaded.device, loaded.precision) == (backend, "cpu", "float32")


@pytest.mark.parametrize(
    ("backend", "content"), [("onnx", b""), *(("torchscript", one) for one in (b"", b"garbage", b"PK\x03\x04 cut off"))]
)
def test_a_graph_that_the_runtime_refuses_is_named(
    repository: Path, tmp_path: Path, backend: str, content: bytes
) -> None:
    bundle = republish(open_kind(repository, "tiny"), tmp_path, {FILES[backend]: content})
    with pytest.raises(BundleError, match=f"{FILES[backend]}: .* refuses it"):
        load_backend(bundle, backend, CPU)


@pytest.mark.parametrize("backend", FILES)
def test_a_file_that_was_changed_since_is_not_blamed_on_the_runtime(
    repository: Path, tmp_path: Path, backend: str
) -> None:
    bundle = republish(open_kind(repository, "tiny"), tmp_path, {})
    (bundle.folder / FILES[backend]).write_bytes(b"swapped")
    with pytest.raises(BundleError, match=f"{FILES[backend]}: content differs") as raised:
        load_backend(bundle, backend, CPU)
    assert "refuses" not in str(raised.value)


@pytest.mark.parametrize("backend", FILES)
def test_another_models_graph_is_refused_before_it_is_served(repository: Path, tmp_path: Path, backend: str) -> None:
    other = open_kind(repository, "both").read(FILES[backend])
    bundle = republish(open_kind(repository, "tiny"), tmp_path, {FILES[backend]: other})
    with pytest.raises(BundleError, match=f"{bundle.folder}: {backend} fails to run its graph"):
        load(bundle, Runtime((backend,), "cpu", 1), LIMITS)


def without_int8(good: Bundle, repository: Path) -> Bundle:
    """`good` as it was published before there was int8."""
    files = {name: good.read(name) for name in good.manifest.files if name != ONNX_INT8}
    return publish(
        repository,
        good.manifest.name,
        files,
        lambda version, entries: good.manifest.model_copy(update={"version": version, "files": entries, "int8": None}),
    )


@pytest.mark.parametrize("lengths", [[1], [1, 1], [12], [5, 1, 8, 3]])
@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_as_near_to_float32_as_the_manifest_says(repository: Path, kind: str, lengths: list[int]) -> None:
    bundle = open_kind(repository, kind)
    assert bundle.manifest.int8 is not None
    exact, rounded = load_backend(bundle, "onnx", CPU), load_backend(bundle, "onnx", INT8)
    assert (rounded.name, rounded.device, rounded.precision) == ("onnx", "cpu", "int8")
    batch = make_batch(bundle, lengths)
    mean, std = (np.array(values, np.float32) for values in vars(bundle.manifest.standardisation).values())
    zeros = np.zeros_like(batch.h0)
    batch = Batch(mean + std * batch.sequences, batch.lengths, zeros, zeros)
    one, other = (backend.run(batch, ["probabilities"])["probabilities"] for backend in (exact, rounded))
    assert 0 < np.abs(one - other).max() <= bundle.manifest.int8.max_difference


def test_a_bundle_without_int8_is_served_in_float32_and_said_to_be(
    repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = without_int8(open_kind(repository, "tiny"), tmp_path)
    loaded = load_backend(bundle, "onnx", INT8)
    assert loaded.precision == "float32"
    assert caplog.messages == ["tiny/1 has no model.int8.onnx and is served in float32: train it again for int8"]
    batch = make_batch(bundle, [3, 1])
    expected = load_backend(bundle, "onnx", CPU).run(batch, bundle.manifest.outputs)
    for name, values in loaded.run(batch, bundle.manifest.outputs).items():
        np.testing.assert_array_equal(values, expected[name])


def test_a_changed_int8_graph_is_refused_before_a_runtime_reads_it(repository: Path, tmp_path: Path) -> None:
    bundle = republish(open_kind(repository, "tiny"), tmp_path, {})
    (bundle.folder / ONNX_INT8).write_bytes(b"swapped")
    with pytest.raises(BundleError, match=f"{ONNX_INT8}: content differs"):
        load_backend(bundle, "onnx", INT8)
    with pytest.raises(BundleError, match=f"{ONNX_INT8}: content differs"):
        open_bundle(bundle.folder)


def test_an_int8_graph_that_onnxruntime_refuses_is_named(repository: Path, tmp_path: Path) -> None:
    bundle = republish(open_kind(repository, "tiny"), tmp_path, {ONNX_INT8: b""})
    with pytest.raises(BundleError, match=f"{ONNX_INT8}: onnxruntime refuses it"):
        load_backend(bundle, "onnx", INT8)


@pytest.mark.parametrize(("file", "runtime"), [(ONNX, CPU), (ONNX_INT8, INT8)])
def test_a_graph_that_is_none_of_ours_never_reaches_onnxruntime(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, runtime: Runtime
) -> None:
    bundle = republish(open_kind(repository, "tiny"), tmp_path, {file: b"garbage"})
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    with pytest.raises(BundleError, match=f"{file}: no graph of ours: it is no protocol buffer"):
        load_backend(bundle, "onnx", runtime)


def test_int8_is_onnx_on_the_cpu_whatever_else_there_is(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_cuda_missing", lambda _: "")
    with caplog.at_level(logging.INFO, "service.backends"):
        assert choose_runtime("auto", "auto", threads=1, precision="int8") == INT8
    assert caplog.messages == ["precision int8: onnx on the cpu, which alone computes in it"]


@pytest.mark.parametrize(("backend", "device"), [("torchscript", "auto"), ("auto", "cuda")])
def test_int8_where_nothing_computes_in_it_is_an_error(
    backend: Literal["auto", "torchscript"], device: Literal["auto", "cuda"]
) -> None:
    with pytest.raises(BackendError, match="precision int8 needs backend onnx and device cpu, or auto"):
        choose_runtime(backend, device, threads=1, precision="int8")


@pytest.mark.parametrize("kind", KINDS)
def test_laying_the_weights_in_one_piece_for_cudnn_reaches_every_lstm_and_changes_no_answer(
    repository: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """cuDNN's own function runs on a GPU alone; this one, which does the same, shows what it is given."""
    bundle = open_kind(repository, kind)
    manifest = bundle.manifest
    laid: list[tuple[int, int, int]] = []

    def lay_in_one_piece(weights: list[torch.Tensor], stride: int, input_size: int, *sizes: int) -> None:
        piece = torch.cat([weight.flatten() for weight in weights])
        parts = piece.split([weight.numel() for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.set_(part.view(weight.shape))  # type: ignore[call-overload]  # torch's stubs lack it
        laid.append((stride, input_size, sizes[1]))

    monkeypatch.setattr(torch, "_cudnn_rnn_flatten_weight", lay_in_one_piece)
    monkeypatch.setattr("torch.backends.cudnn.rnn.get_cudnn_mode", lambda _: 2)
    batch = make_batch(bundle, [3, 1, 5])
    backend = load_backend(bundle, "torchscript", CPU)
    assert isinstance(backend, TorchScriptBackend)
    expected = load_backend(bundle, "torchscript", CPU).run(batch, manifest.outputs)
    _flatten_weights(backend._module, manifest.hidden_size)
    width = manifest.hidden_size * manifest.num_directions
    graph: Any = backend._module.graph
    for node in graph.findAllNodes("aten::lstm"):
        weights = [constant.toIValue() for constant in list(node.inputs())[2].node().inputs()]
        assert len({weight.untyped_storage().data_ptr() for weight in weights}) == 1
    inputs = [manifest.input_size, *[width] * (manifest.num_layers - 1)]
    assert laid == [(4, size + 1, manifest.hidden_size) for size in inputs for _ in range(manifest.num_directions)]
    for name, array in backend.run(batch, manifest.outputs).items():
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("backend", FILES)
def test_cuda_asked_for_and_missing_is_an_error_that_says_why(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_cuda_missing", lambda name: f"{name} finds no device")
    with pytest.raises(BackendError, match=f"device cuda was asked for .*: {backend} finds no device"):
        choose_runtime(backend, "cuda", threads=1)


@pytest.mark.parametrize("backend", FILES)
def test_this_installation_says_whether_it_can_use_cuda(backend: str) -> None:
    try:
        assert choose_runtime(backend, "cuda", threads=1).device == "cuda"
    except BackendError as error:
        assert str(error).startswith("device cuda was asked for and cannot be used: ")  # noqa: PT017


def test_auto_says_what_it_chose_and_why(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_cuda_missing", lambda _: "there is no device")
    with caplog.at_level(logging.INFO, "service.backends"):
        assert choose_runtime("auto", "auto", threads=3) == Runtime(("onnx", "torchscript"), "cpu", 3)
    assert caplog.messages == [
        "backend auto: both, whichever is faster for a batch",
        "device auto: cpu, since there is no device",
    ]


def test_auto_takes_a_device_that_is_there(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_cuda_missing", lambda _: "")
    with caplog.at_level(logging.INFO, "service.backends"):
        assert choose_runtime("onnx", "auto", threads=1) == Runtime(("onnx",), "cuda", 1)
    assert caplog.messages == ["device auto: cuda, which the runtime offers"]


def test_what_is_asked_for_by_name_is_taken_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "service.backends"):
        assert choose_runtime("torchscript", "cpu", threads=2) == Runtime(("torchscript",), "cpu", 2)
    assert caplog.messages == []


def run_python(source: str) -> str:
    result = subprocess.run([sys.executable, "-W", "error", "-c", source], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


_WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; "  # makes `import torch` fail, as if it were not installed


def test_torchscript_without_torch_is_an_error_that_says_what_to_install() -> None:
    message = run_python(
        _WITHOUT_TORCH
        + """
from service.backends import BackendError, choose_runtime
try:
    choose_runtime("torchscript", "cpu", threads=1)
except BackendError as error:
    print(error)
"""
    )
    assert message == "backend torchscript needs torch, which is not installed: pip install 'lstm-serve[torch]'"


def test_onnx_is_served_without_torch_and_without_anything_that_only_training_needs(repository: Path) -> None:
    imported = run_python(
        _WITHOUT_TORCH
        + f"""
import asyncio
from pathlib import Path
import numpy as np
import service.app
from model.bundle import open_bundle
from service.backends import choose_runtime
from service.batcher import QueueLimits
from service.engine import Engine, EngineLimits, Query, load
from service.metrics import Metrics
from service.policy import Limits
from service.tensors import Sequences
from service.timing import Timing

async def serve():
    bundle = open_bundle(Path({str(repository)!r}) / "both" / "1")
    limits = EngineLimits(Limits(4, 100), QueueLimits(9, 900), 50, 99999)
    loaded = load(bundle, choose_runtime("auto", "cpu", threads=1), limits)
    engine = Engine(loaded, limits=limits, metrics=Metrics())
    sequences = Sequences(np.ones((5, 3), np.float32), np.array([2, 3]))
    prediction = await engine.predict(Query(sequences, timeout_s=60, trace="gates"), Timing())
    assert prediction.probabilities.shape == (2, 3)
    await engine.close()

asyncio.run(serve())
print(*(name for name, module in sys.modules.items() if module is not None))
"""
    ).split()
    packages = {name.partition(".")[0] for name in imported}
    assert not packages & {"torch", "onnx", "pandas", "pyarrow", "aeon", "sklearn", "scipy", "rich"}
    assert {name for name in imported if name.startswith("model")} == {
        "model",
        "model.bundle",
        "model.bundle.manifest",
        "model.bundle.storage",
        "model.bundle.triton",
    }


FORKED = """
import os, sys
from pathlib import Path
from threading import Thread
import numpy as np
import torch
from model.bundle import open_bundle
from service.backends import Batch, Runtime
from service.backends.torchscript import TorchScriptBackend

if process_id := os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]))
bundle, made = open_bundle(Path(sys.argv[1])), []
load = Thread(target=lambda: made.append(TorchScriptBackend(bundle, Runtime(("torchscript",), "cpu", 1))))
load.start()
load.join()
batch = Batch(np.zeros((1, 3, bundle.manifest.input_size), np.float32), np.full(1, 3),
              *np.zeros((2, bundle.manifest.num_layers, 1, bundle.manifest.hidden_size), np.float32))
compute = Thread(target=lambda: made.append(made[0].run(batch, ("logits",)) and torch.get_num_threads()))
compute.start()
compute.join()
made[0].run(batch, ("logits",))
assert (made[1], torch.get_num_threads()) == (1, 1), (made[1], torch.get_num_threads())
"""


def test_every_thread_of_a_forked_worker_computes_with_as_many_threads_as_asked(repository: Path) -> None:
    # The event loop's own computes short runs, another the long ones, and none of them need be that which loads.
    command = [sys.executable, "-c", FORKED, str(repository / "tiny" / "1")]
    subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "4"}, check=True, timeout=60)
