"""The harness as a whole: a real, short run of our service and of plain FastAPI, both with this interpreter."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.__main__ import _is_everything, _parser, main
from bench.environments import Environments
from bench.plan import Plan
from bench.rounds import new_run, run_all
from bench.table import markdown


def test_it_measures_our_service_beside_fastapi(tmp_path: Path) -> None:
    if shutil.which("wrk") is None:
        pytest.skip("wrk is not installed: apt-get install wrk")
    plan = Plan(
        rounds=1,
        seconds=1,
        servers=("ours", "fastapi"),
        models=("tiny",),
        scenarios=("S1",),
        curve=False,
        open_loop=False,
        limit=False,
        folder=tmp_path,
    )
    run = new_run(plan)
    here = Path(sys.executable)
    run_all(plan, run, Environments(tmp_path / "venvs", {"ours": here, "fastapi": here}), lambda *_: None)
    assert run.failures == []
    assert [(cell.server, cell.errors) for cell in run.cells] == [("ours", 0), ("fastapi", 0)]
    assert all(cell.answers and cell.server_cpu_s and cell.largest_rss_bytes for cell in run.cells)
    assert "lstm-serve" in markdown(run)


@pytest.mark.parametrize(
    ("arguments", "takes_its_place"),
    [
        ([], True),
        (["--rounds", "2", "--seconds", "2"], True),
        (["--quick"], False),
        (["--servers", "ours"], False),
        (["--models", "tiny"], False),
        (["--scenarios", "S1", "S2"], False),
        (["--no-curve"], False),
        (["--no-limit"], False),
        (["--no-open-loop"], False),
    ],
)
def test_only_a_run_of_everything_takes_the_place_of_the_latest(arguments: list[str], takes_its_place: bool) -> None:
    assert _is_everything(_parser().parse_args(arguments)) is takes_its_place


def test_a_file_that_is_no_run_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nope.json")]) == 1
    assert "is no run of the benchmark" in capsys.readouterr().err


def test_without_cuda_the_gpu_script_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert gpu.main() == 1
    assert "CUDA" in capsys.readouterr().err


def test_the_command_line_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "--rounds" in capsys.readouterr().out
