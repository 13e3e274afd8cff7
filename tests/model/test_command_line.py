"""The three commands as a user runs them: in this process, or in one of their own where a signal or a start matters."""

import io
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from model_factories import publish_made_up

from model.__main__ import EXIT_BAD_INPUT, EXIT_FAILED, EXIT_INTERRUPTED, main
from model.bundle import WEIGHTS, list_models, open_bundle
from model.torchscript import build_torchscript

ROOT = Path(__file__).parents[2]


def start(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "model", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A repository that holds `reference`, trained with no flags; left as it is by the tests."""
    repository = tmp_path_factory.mktemp("trained")
    assert main(["train", "reference", "--repository", str(repository)]) == 0
    return repository


@pytest.fixture
def data_file(tmp_path):
    random = np.random.default_rng(0)
    y = np.arange(40) % 2
    X = (y[:, None, None] + 0.1 * random.standard_normal((40, 5, 3))).astype(np.float32)
    path = tmp_path / "two-levels.npz"
    np.savez(path, X=X, y=y)
    return path


def error_of(capsys):
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def test_the_reference_case_learns_as_the_design_says(trained):
    manifest = open_bundle(trained / "reference" / "1").manifest
    losses = [epoch.loss for epoch in manifest.trace]
    assert (manifest.hidden_size, manifest.data.train_size, len(losses)) == (8, 100, 5)
    assert 1.1 <= losses[0] <= 1.2
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] <= 0.40
    assert manifest.evaluation.accuracy >= 0.95
    assert sum(map(sum, manifest.evaluation.confusion_matrix)) == manifest.data.test_size


def test_training_prints_trace_evaluation_and_where_the_version_is(tmp_path, capsys, data_file):
    repository = tmp_path / "bundles"
    arguments = ["train", str(data_file), "--repository", str(repository), "--epochs", "2", "--hidden-size", "4"]
    assert main([*arguments, "--bidirectional", "--num-layers", "2"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"epoch 1/2  loss [\d.]+  accuracy +[\d.]+%  [\d,]+ sequences/s  \d+ s left", printed)
    assert "observation" in printed
    assert "model.onnx: accuracy" in printed
    assert "model.pt: accuracy" in printed
    assert "agree on every sequence" in printed
    assert re.search(
        r"model.int8.onnx: accuracy [\d.]+, [\d.]+ in float32; no probability changes by over 0.0", printed
    )
    assert f"Published two-levels, version 1, in {repository / 'two-levels' / '1'}" in printed
    manifest = open_bundle(repository / "two-levels" / "1").manifest
    assert (manifest.hidden_size, manifest.num_layers, manifest.bidirectional) == (4, 2, True)
    assert manifest.training.epochs == 2


def test_evaluating_a_bundle_prints_the_figures_that_training_stored(trained, capsys):
    stored = open_bundle(trained / "reference" / "1").manifest.evaluation
    assert main(["evaluate", "reference/1", "reference", "--repository", str(trained)]) == 0
    assert f"model.onnx: accuracy {stored.accuracy:.4f}, macro-F1 {stored.macro_f1:.4f}" in capsys.readouterr().out


def test_evaluating_a_bundle_prints_what_training_stored_of_int8(trained, capsys):
    stored = open_bundle(trained / "reference" / "1").manifest.int8
    assert main(["evaluate", "reference/1", "reference", "--repository", str(trained)]) == 0
    printed = capsys.readouterr().out
    assert f"model.int8.onnx: accuracy {stored.accuracy:.4f}, " in printed
    assert f"no probability changes by over {stored.max_difference:.4f}" in printed


def test_what_cannot_be_had_in_8_bits_is_published_without_and_the_reason_printed(
    tmp_path, capsys, monkeypatch, data_file
):
    monkeypatch.setattr("model.export.build_onnx_int8", lambda *_, **__: b"garbage")
    arguments = ["--epochs", "1", "--hidden-size", "4", "--repository", str(tmp_path / "bundles")]
    assert main(["train", str(data_file), *arguments]) == 0
    assert "Without int8: model.int8.onnx: onnxruntime cannot run it: " in capsys.readouterr().out
    manifest = open_bundle(tmp_path / "bundles" / "two-levels" / "1").manifest
    assert manifest.int8 is None
    assert "model.int8.onnx" not in manifest.files


def test_inspecting_takes_the_highest_version(tmp_path, capsys):
    publish_made_up(tmp_path)
    publish_made_up(tmp_path)
    assert main(["inspect", "made-up", "--repository", str(tmp_path)]) == 0
    assert "made-up, version 2" in capsys.readouterr().out
    assert main(["inspect", "made-up/1", "--repository", str(tmp_path)]) == 0
    assert "made-up, version 1" in capsys.readouterr().out


def test_the_repository_comes_from_the_environment_when_no_flag_says_otherwise(tmp_path, monkeypatch):
    publish_made_up(tmp_path)
    monkeypatch.setenv("LSTM_REPOSITORY", str(tmp_path))
    assert main(["inspect", "made-up"]) == 0
    assert main(["inspect", "made-up", "--repository", str(tmp_path / "other")]) == EXIT_BAD_INPUT


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["inspect", "nothing"], "no model 'nothing'; there is made-up"),
        (["inspect", "made-up/7"], "no version '7'; there is 1"),
        (["inspect", "made-up/latest"], "no version 'latest'"),
        (["inspect", "../made-up"], "model name '..'"),
        (["evaluate", "made-up", "no-such-set"], "no-such-set"),
        (["train", "no-such-set"], "no-such-set"),
        (["train", "nowhere.npz"], "nowhere.npz"),
        (["train", "reference", "--name", "a b"], "model name 'a b'"),
        (["train", "reference", "--data-parallel", "101"], "only 100 training sequences"),
        (["train", "reference", "--data-parallel", "99", "--validation-fraction", "0.5"], "only 51 training sequences"),
    ],
)
def test_bad_input_is_one_line_on_standard_error(tmp_path, capsys, arguments, complaint):
    publish_made_up(tmp_path)
    assert main([*arguments, "--repository", str(tmp_path)]) == EXIT_BAD_INPUT
    assert complaint in error_of(capsys)
    assert list_models(tmp_path) == ("made-up",)


@pytest.mark.parametrize(
    "flag",
    [
        "--epochs=0",
        "--epochs=many",
        "--hidden-size=1.5",
        "--hidden-size=1000000",
        "--dropout=1.5",
        "--learning-rate=nan",
        "--learning-rate=inf",
    ],
)
def test_a_setting_out_of_range_says_what_is_allowed(capsys, flag):
    with pytest.raises(SystemExit) as caught:
        main(["train", "reference", flag])
    assert caught.value.code == EXIT_BAD_INPUT
    assert re.search(
        r"argument --\S+: '\S+' is not a (whole )?number (from \S+ to|of at least) \S+", capsys.readouterr().err
    )


def test_a_repository_that_cannot_be_written_is_found_out_before_training(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["train", "reference", "--repository", str(tmp_path / "file")]) == EXIT_FAILED
    captured = capsys.readouterr()
    assert captured.err == f"python -m model: {tmp_path / 'file'}: is a file, not a folder\n"
    assert captured.out == ""


def test_a_patience_that_nothing_could_try_is_refused(tmp_path, capsys, data_file):
    assert main(["train", str(data_file), "--patience", "2", "--repository", str(tmp_path)]) == EXIT_BAD_INPUT
    assert "validation-fraction" in error_of(capsys)


def test_a_file_whose_name_can_name_no_model_is_told_of_name(tmp_path, capsys, data_file):
    spaced = data_file.rename(tmp_path / "two levels.npz")
    assert main(["train", str(spaced), "--repository", str(tmp_path)]) == EXIT_BAD_INPUT
    assert "choose another with --name" in error_of(capsys)


def test_of_another_file_than_that_of_the_training_every_sequence_is_evaluated(tmp_path, capsys, data_file):
    repository = ["--repository", str(tmp_path / "bundles")]
    assert main(["train", str(data_file), "--epochs", "1", "--seed", "3", *repository]) == 0
    trained = capsys.readouterr().out
    assert main(["evaluate", "two-levels", str(data_file), *repository]) == 0
    evaluated = capsys.readouterr().out
    (accuracy,) = re.findall(r"^model.onnx: .*", evaluated, re.MULTILINE)
    assert accuracy in trained
    assert "on the 8 held-out sequences of two-levels" in evaluated
    with np.load(data_file) as file:
        np.savez(data_file, X=file["X"][:30], y=file["y"][:30])
    assert main(["evaluate", "two-levels", str(data_file), *repository]) == 0
    evaluated = capsys.readouterr().out
    assert "not the file that two-levels was trained on" in evaluated
    assert "on the 30 sequences, all there are, of two-levels" in evaluated


def test_a_graph_that_differs_from_the_network_is_not_published(tmp_path, capsys, monkeypatch, data_file):
    def build_wrongly(size, weights):
        return build_torchscript(size, weights | {"linear.bias": weights["linear.bias"] + np.float32(1e-3)})

    monkeypatch.setattr("model.export.build_torchscript", build_wrongly)
    repository = tmp_path / "bundles"
    assert main(["train", str(data_file), "--epochs", "1", "--repository", str(repository)]) == EXIT_FAILED
    assert "model.pt: " in error_of(capsys)
    assert list_models(repository) == ()


def test_a_terminal_that_knows_ascii_alone_costs_no_training(tmp_path, data_file):
    arguments = ["train", data_file, "--epochs", "1", "--hidden-size", "4", "--repository", tmp_path / "bundles"]
    with start(*arguments, PYTHONIOENCODING="ascii") as process:
        _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")


def test_without_the_training_libraries_the_error_says_what_to_install():
    program = (
        "import sys; sys.modules['torch'] = None; from model.__main__ import main; sys.exit(main(['inspect', 'm']))"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == EXIT_FAILED
    assert result.stderr == "python -m model: torch is not installed: pip install 'lstm-serve[train]'\n"


def test_an_interrupted_training_publishes_nothing_and_says_so_in_one_line(tmp_path):
    with start("train", "JapaneseVowels", "--epochs", "9999", "--repository", tmp_path) as process:
        while not process.stdout.readline().startswith("epoch"):
            assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == EXIT_INTERRUPTED
    assert errors == "python -m model: interrupted: a version is published whole or not at all\n"
    assert list_models(tmp_path) == ()
    assert not [*tmp_path.glob(".staging-*")]


def test_two_processes_train_as_one_does(tmp_path):
    weights = []
    for processes in (1, 2):
        settings = ("--epochs", 2, "--dropout", 0, "--input-noise", 0, "--data-parallel", processes)
        with start("train", "reference", *map(str, settings), "--repository", tmp_path) as process:
            printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert printed.count("Published reference") == 1
        bundle = open_bundle(tmp_path / "reference" / str(processes))
        assert bundle.manifest.training.data_parallel == processes
        weights.append(np.load(io.BytesIO(bundle.read(WEIGHTS))))
    for name in weights[0].files:  # the mean of two halves' gradients is that of the whole
        np.testing.assert_allclose(weights[1][name], weights[0][name], rtol=0, atol=1e-4, err_msg=name)
