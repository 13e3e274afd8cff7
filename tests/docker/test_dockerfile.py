"""The Dockerfile's promises that can be read off it; docker/smoke.sh checks the rest on the built images."""

import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parents[2]
# One instruction a line, comments gone.
DOCKERFILE = re.sub(
    r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
)
STAGES = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} +(.+)$", DOCKERFILE, flags=re.MULTILINE)


def requirements(*extras: str) -> list[str]:
    command = [sys.executable, "docker/requirements.py", *extras]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()


def test_the_default_target_is_onnx_beside_torch_gpu_and_trainer() -> None:
    assert STAGES[-1] == "onnx"
    assert {"onnx", "torch", "gpu", "trainer"} <= set(STAGES)


def test_it_builds_on_the_slim_image_and_asks_no_registry_for_a_frontend() -> None:
    assert instructions("ARG")[0] == "PYTHON=python:3.11-slim-bookworm"
    assert not (ROOT / "Dockerfile").read_text(encoding="utf-8").lower().startswith("# syntax")


def test_the_user_is_a_number_and_not_root() -> None:
    users = instructions("USER")
    assert users
    assert all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users)


def test_signals_reach_the_process_and_health_needs_no_shell() -> None:
    assert all(entrypoint.startswith("[") for entrypoint in instructions("ENTRYPOINT"))
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert 'CMD ["python"' in instructions("HEALTHCHECK")[0]
    assert "/health/ready" in instructions("HEALTHCHECK")[0]


def test_onnxruntime_is_told_to_keep_to_itself() -> None:
    assert any("ORT_DISABLE_TELEMETRY=1" in environment for environment in instructions("ENV"))


def test_every_file_it_copies_exists_and_reaches_the_build() -> None:
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").split() if line[0] == "!"]
    for copy in instructions("COPY"):
        if "--from=" not in copy:
            *sources, _ = (word for word in copy.split() if not word.startswith("--"))
            assert all((ROOT / source).exists() for source in sources), sources
            assert all(any(fnmatch(source, pattern) for pattern in sent) for source in sources), sources


def test_serving_onnx_installs_no_torch_and_the_trainer_installs_it_once() -> None:
    assert not [line for line in requirements() if line.startswith("torch")]
    assert len([line for line in requirements("train") if line.startswith("torch")]) == 1
    assert not [line for line in requirements("train", "gpu") if line.startswith("lstm-serve")]
