from pathlib import Path

from bench_factories import make_cell, make_limit, make_open_load, make_run, make_start

from bench.results import Failure, read, spread, write


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    run = make_run(
        cells=[make_cell("ours", "S2")],
        limits=[make_limit("fixed")],
        open_loads=[make_open_load(1, 2)],
        starts=[make_start("ours", 1.0)],
        failures=[Failure(1, "triton", "tiny", "", "no")],
        versions={"ours": {"numpy": "2"}},
    )
    write(run, tmp_path / "results" / "run.json")
    assert read(tmp_path / "results" / "run.json") == run


def test_a_spread_leaves_out_what_was_not_measured() -> None:
    found = spread([3.0, None, 1.0, 2.0])
    assert found is not None
    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)
    assert spread([None]) is None
