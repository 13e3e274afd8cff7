from bench_factories import make_cell, make_limit, make_run

from bench.results import Failure
from bench.table import markdown, rates


def row(table: str, start: str) -> list[str]:
    (line,) = (line for line in table.splitlines() if line.startswith(f"| {start} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_cell_is_a_median_with_the_least_and_the_most() -> None:
    cells = [make_cell("mosec", "S2", rate, round_number=n) for n, rate in enumerate((900, 1000, 1100), 1)]
    assert row(rates(make_run(3, cells=cells), "tiny"), "mosec") == ["mosec", "", "1,000 −10 +10 %", ""]


def test_a_single_round_has_no_spread_and_s1_is_a_latency() -> None:
    cells = [make_cell("mosec", "S1", p50_ms=0.456), make_cell("mosec", "S2", 1234.4)]
    assert row(rates(make_run(cells=cells), "tiny"), "mosec") == ["mosec", "0.46 ms", "1,234", ""]


def test_errors_stand_beside_the_figure_that_they_lowered() -> None:
    cells = [make_cell("mosec", "S2", 50, errors=1200)]
    assert row(rates(make_run(cells=cells), "tiny"), "mosec")[2] == "50 (1,200 errors)"


def test_the_limit_has_a_row() -> None:
    limits = [make_limit("fixed", 3200), make_limit("single", p50_ms=0.7)]
    cells = rates(make_run(limits=limits), "medium")
    assert row(cells, "the limit, in process") == ["the limit, in process", "0.70 ms", "3,200", "3,200"]


def test_a_failure_is_told_once_with_its_reason() -> None:
    failures = [Failure(number, "triton", "tiny", "", "it ended; no libb64") for number in (1, 2)]
    text = markdown(make_run(2, failures=failures))
    assert text.count("- triton tiny: it ended; no libb64") == 1


def test_every_table_is_as_wide_in_every_line() -> None:
    text = markdown(make_run(cells=[make_cell("ours", "S2"), make_cell("ours-onnx", "S2", model="medium")]))
    for table in text.split("\n\n"):
        if table.startswith("|"):
            assert len({len(line) for line in table.splitlines()}) == 1
