"""Settings: where they come from, what is refused, and how many CPUs this process may use."""

import os
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, available_cpus, load_settings


def refusal(*arguments: str, **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(arguments, environ)
    return str(caught.value)


def test_defaults_are_those_of_the_fields() -> None:
    settings = load_settings([], {})
    assert {name: getattr(settings, name) for name in Settings.model_fields} == {
        name: field.default for name, field in Settings.model_fields.items()
    }
    assert (settings.repository, settings.port, settings.max_queue_delay_ms) == (Path("bundles"), 8000, 0)


def test_the_environment_is_read() -> None:
    environ = {"LSTM_PORT": "9", "LSTM_REPOSITORY": "/r", "LSTM_MAX_QUEUE_DELAY_MS": "2.5", "LSTM_BACKEND": "onnx"}
    settings = load_settings([], environ | {"PORT": "7", "HOST": "elsewhere"})
    assert (settings.port, settings.repository, settings.max_queue_delay_ms) == (9, Path("/r"), 2.5)
    assert (settings.backend, settings.host) == ("onnx", "127.0.0.1")


def test_flags_win_over_the_environment() -> None:
    settings = load_settings(["--port", "5", "--max-batch-size=7"], {"LSTM_PORT": "9", "LSTM_HOST": "::1"})
    assert (settings.port, settings.max_batch_size, settings.host) == (5, 7, "::1")


def test_only_the_environment_that_is_handed_over_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LSTM_PORT", "9")
    monkeypatch.setenv("LSTM_NO_SUCH", "1")
    monkeypatch.setenv("PORT", "9")
    assert load_settings([], {}).port == 8000
    assert load_settings([], {"LSTM_PORT": "7"}).port == 7


@pytest.mark.parametrize("name", ["LSTM_PROT", "LSTM_", "LSTM_MODEL", "lstm_prot", "lstm_port"])
def test_an_unknown_setting_is_refused_and_those_that_exist_are_told(name: str) -> None:
    message = refusal(**{name: "1", "LSTM_PORT": "9"})
    assert message.startswith(f"{name}: no such setting")
    assert "LSTM_PORT" in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "65536"),
        ("port", "-1"),
        ("port", "http"),
        ("workers", "0"),
        ("threads", "0"),
        ("threads", ""),
        ("max_batch_size", "0"),
        ("max_batch_steps", "0"),
        ("max_queue_delay_ms", "-0.1"),
        ("max_queue_delay_ms", "60001"),
        ("max_queue_delay_ms", "nan"),
        ("max_queue_size", "0"),
        ("max_queue_steps", "0"),
        ("request_timeout_ms", "0"),
        ("request_timeout_ms", "86400001"),
        ("request_timeout_ms", "inf"),
        ("max_body_bytes", "0"),
        ("max_sequence_length", "0"),
        ("max_trace_values", "0"),
        ("drain_timeout_s", "-1"),
        ("drain_timeout_s", "3601"),
        ("backend", "tensorflow"),
        ("device", "tpu"),
        ("precision", "int4"),
        ("log_format", "xml"),
        ("log_level", "trace"),
        ("version_policy", "newest"),
        ("version_policy", "latest:0"),
        ("version_policy", "latest:"),
        ("version_policy", "0"),
        ("version_policy", "1,"),
        ("version_policy", "1, 2"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_and_value(name: str, value: str) -> None:
    for message in (refusal(**{f"LSTM_{name.upper()}": value}), refusal(f"--{name.replace('_', '-')}={value}")):
        assert f"LSTM_{name.upper()} (--{name.replace('_', '-')}): " in message
        assert message.endswith(f", got {value!r}")


def test_every_fault_has_its_line() -> None:
    lines = refusal(LSTM_PORT="x", LSTM_WORKERS="0").splitlines()
    assert [line.split()[0] for line in lines] == ["LSTM_PORT", "LSTM_WORKERS"]


@pytest.mark.parametrize(
    ("small", "large", "others"),
    [
        ("max_sequence_length", "max_batch_steps", ()),
        ("max_batch_steps", "max_queue_steps", ("--max-sequence-length=1",)),
        ("max_batch_size", "max_queue_size", ()),
    ],
)
def test_a_sequence_must_fit_a_batch_and_a_batch_the_queue(small: str, large: str, others: tuple[str, ...]) -> None:
    flags = [f"--{name.replace('_', '-')}" for name in (small, large)]
    assert getattr(load_settings([f"{flags[0]}=50", f"{flags[1]}=50", *others], {}), small) == 50
    assert refusal(f"{flags[0]}=51", f"{flags[1]}=50", *others) == f"{small}=51 is over {large}=50"


def test_a_request_must_not_wait_for_company_longer_than_it_may_live() -> None:
    fault = refusal("--max-queue-delay-ms=60", "--request-timeout-ms=50")
    assert fault == "max_queue_delay_ms=60.0 is over request_timeout_ms=50.0"


@pytest.mark.parametrize("policy", ["all", "latest", "latest:1", "latest:12", "1", "3,1,20"])
def test_each_version_policy_is_taken(policy: str) -> None:
    assert load_settings(["--version-policy", policy], {}).version_policy == policy


def test_help_lists_every_setting_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(["--help"], {})
    assert caught.value.code == 0
    listed = capsys.readouterr().out
    assert [name for name in Settings.model_fields if f"--{name.replace('_', '-')} " not in listed] == []


def test_an_unknown_flag_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(["--prot", "1"], {})
    assert caught.value.code == 2
    assert "--prot" in capsys.readouterr().err


V2 = "cpu.max"
V1 = ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")


@pytest.mark.parametrize(
    ("files", "cpus", "whole"),
    [
        ({V2: "max 100000\n"}, 8, 8),
        ({V2: "150000 100000\n"}, 2, 1),
        ({V2: "400000 100000\n"}, 4, 4),
        ({V2: "10000 100000\n"}, 1, 1),
        ({V2: "6400000 100000\n"}, 8, 8),
        ({V2: "nonsense"}, 8, 8),
        ({V1[0]: "150000\n", V1[1]: "100000\n"}, 2, 1),
        ({V1[0]: "-1\n", V1[1]: "100000\n"}, 8, 8),
        ({V1[0]: "150000\n"}, 8, 8),
        ({}, 8, 8),
    ],
)
def test_cpus_are_the_affinity_capped_by_the_quota(
    files: dict[str, str], cpus: int, whole: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(os, "cpu_count", lambda: 128)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    assert available_cpus(tmp_path) == cpus
    assert available_cpus(tmp_path, whole=True) == whole


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (3, 2), (8, 1), (20, 1)])
def test_cpus_are_shared_out_over_the_workers(workers: int, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.available_cpus", lambda **_: 8)
    settings = load_settings([f"--workers={workers}"], {})
    assert (settings.threads_per_worker, settings.lone_threads) == (threads, max(4, threads))
    assert settings.threads_have_cores == (workers <= 8)
    settings = load_settings([f"--workers={workers}", "--threads=5"], {})
    assert (settings.threads_per_worker, settings.lone_threads) == (5, 5)
    assert settings.threads_have_cores == (workers == 1)


def test_a_lone_run_gets_whole_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.settings.available_cpus", lambda whole=False: 1 if whole else 2)
    settings = load_settings([], {})
    assert (settings.num_workers, settings.threads_per_worker, settings.lone_threads) == (2, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "gpu", "workers"),
    [
        ([], False, 6),
        ([], True, 1),
        (["--device=cpu"], True, 6),
        (["--device=cuda"], False, 1),
        (["--workers=3"], False, 3),
        (["--workers=3"], True, 3),
        (["--workers=20", "--device=cuda"], True, 20),
    ],
)
def test_there_is_a_worker_for_each_cpu_and_one_alone_beside_a_gpu(
    arguments: list[str], gpu: bool, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settings.available_cpus", lambda: 6)
    monkeypatch.setattr("service.settings._NVIDIA_DEVICE", tmp_path if gpu else tmp_path / "none")
    settings = load_settings(arguments, {})
    assert settings.num_workers == workers
    assert settings.threads_per_worker == max(1, 6 // workers)


@pytest.mark.parametrize(("precision", "workers"), [("float32", 1), ("int8", 8)])
def test_int8_does_not_wait_for_a_gpu_that_it_cannot_use(
    precision: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.settings.available_cpus", lambda: 8)
    monkeypatch.setattr("service.settings._NVIDIA_DEVICE", tmp_path)
    assert load_settings(["--precision", precision], {}).num_workers == workers
