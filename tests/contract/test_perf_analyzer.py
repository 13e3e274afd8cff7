"""Triton's load generator, unmodified, drives the service and reads its statistics."""

import ctypes.util
import json
import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="module")
def perf_analyzer(clients: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program out of the last tritonclient wheel that brings it."""
    wheels = [*(clients.parent / "wheels").glob("tritonclient-*manylinux*.whl")]
    if not wheels or ctypes.util.find_library("b64") is None:
        pytest.skip("perf_analyzer is for x86-64 and needs Debian's libb64-0d, which .ci/run installs")
    with zipfile.ZipFile(wheels[0]) as wheel:
        (member,) = (name for name in wheel.namelist() if name.endswith("/perf_analyzer"))
        program = Path(wheel.extract(member, tmp_path_factory.mktemp("perf_analyzer")))
    program.chmod(0o755)
    return program


def test_perf_analyzer_measures_the_service_and_agrees_with_its_statistics(
    perf_analyzer: Path, clients: Path, address: str, tmp_path: Path
) -> None:
    zeros = {"content": [0.0] * 4, "shape": [1, 1, 4]}
    sequence = np.random.default_rng(0).normal(size=15).astype(np.float32).tolist()
    inputs = {
        "sequences": {"content": sequence, "shape": [1, 5, 3]},
        "lengths": {"content": [5], "shape": [1]},
        "h0": zeros,
        "c0": zeros,
    }
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": [inputs]}))
    (cuda,) = clients.parent.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")
    what = ["-m", "tiny", "-u", address, "-i", "http", "--input-data", data]
    # However much the latency varies: it reports nothing if its windows differ by more, as they do on a busy machine.
    how = ["--measurement-mode", "count_windows", "--measurement-request-count", "100", "-s", "1000"]
    ended = subprocess.run(
        [perf_analyzer, *what, *how],
        env={"LD_LIBRARY_PATH": str(cuda)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    client, _, server = ended.stdout.partition("Server:")
    counts = re.findall(r"Request count: (\d+)", client)
    assert counts, ended.stdout + ended.stderr
    assert int(counts[0]) >= 100
    assert int(re.findall(r"Execution count: (\d+)", server)[0]) >= 100
    assert re.search(r"queue \d+ usec \+ compute input \d+ usec \+ compute infer \d+ usec", server)
