from pathlib import Path

from bench_factories import make_cell, make_run

from bench.plot import curves, draw


def test_a_point_is_the_median_of_its_rounds() -> None:
    cells = [make_cell("mosec", "C4", rate, round_number=n, p50_ms=n) for n, rate in enumerate((10, 30, 20), 1)]
    (curve,) = curves(make_run(3, cells=cells), "tiny")
    assert (curve.server, curve.rates, curve.p50_ms) == ("mosec", (20,), (2,))


def test_a_point_that_failed_is_left_out() -> None:
    cells = [make_cell("ours", "C1", 5), make_cell("ours", "C2", 0, answers=0, errors=3), make_cell("ours", "C4", 7)]
    (curve,) = curves(make_run(cells=cells), "tiny")
    assert curve.rates == (5, 7)


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    cells = [make_cell(server, f"C{n}", 100 * n) for server in ("ours", "mosec") for n in (1, 2, 4)]
    assert draw(make_run(cells=cells), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_curve_there_is_no_picture(tmp_path: Path) -> None:
    assert not draw(make_run(cells=[make_cell("ours", "S2")]), tmp_path / "plot.png")
    assert not (tmp_path / "plot.png").exists()
