import pytest
from bench_factories import make_cell, make_failure, make_limit, make_open_load, make_run, make_start

from bench.results import Run
from bench.targets import Verdict, judge


def verdict(run: Run, model: str, scenario: str, of: str) -> Verdict:
    (found,) = (
        each
        for each in judge(run)
        if (each.target.model, each.target.scenario, each.target.of) == (model, scenario, of)
    )
    return found


def test_a_ratio_is_made_within_a_round_and_then_the_median_taken() -> None:
    rates = {1: (200.0, 100.0), 2: (30.0, 20.0), 3: (90.0, 30.0)}
    run = make_run(rounds=3)
    for number, (ours, theirs) in rates.items():
        run.cells.append(make_cell("ours", "S2", ours, round_number=number))
        run.cells.append(make_cell("mosec", "S2", theirs, round_number=number))
    reached = verdict(run, "tiny", "S2", "mosec").reached
    assert reached is not None
    assert (reached.low, reached.median, reached.high) == (1.5, 2.0, 3.0)


@pytest.mark.parametrize(("ours_ms", "is_met"), [(0.35, True), (0.36, False)])
def test_a_latency_has_an_upper_bound(ours_ms: float, is_met: bool) -> None:
    cells = [make_cell("ours", "S1", p50_ms=ours_ms), make_cell("fastapi", "S1", p50_ms=1.0)]
    assert verdict(make_run(cells=cells), "tiny", "S1", "fastapi").is_met is is_met


@pytest.mark.parametrize(("rate", "is_met"), [(85.0, True), (84.0, False)])
def test_the_limit_is_the_best_of_both_runtimes_and_all_batch_sizes(rate: float, is_met: bool) -> None:
    limits = [make_limit("fixed", 100, batch_size=64, runtime="torchscript"), make_limit("fixed", 90)]
    run = make_run(cells=[make_cell("ours", "S3", rate, model="medium")], limits=limits)
    assert verdict(run, "medium", "S3", "the limit").is_met is is_met


def test_the_limit_of_one_connection_is_the_shortest_call() -> None:
    limits = [make_limit("single", p50_ms=2.0), make_limit("single", p50_ms=1.0, runtime="torchscript")]
    run = make_run(cells=[make_cell("ours", "S1", p50_ms=1.1, model="medium")], limits=limits)
    reached = verdict(run, "medium", "S1", "one call on one thread").reached
    assert reached is not None
    assert reached.median == pytest.approx(1.1)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    run = make_run(cells=[make_cell("ours", "S2")])
    assert verdict(run, "tiny", "S2", "mosec").is_met is None


def test_a_round_without_a_figure_is_not_made_up_for_by_the_others() -> None:
    run = make_run(rounds=3, failures=[make_failure("ours", "S2", round_number=1)])
    for number in (1, 2):
        run.cells.append(make_cell("mosec", "S2", 10.0, round_number=number))
    run.cells.append(make_cell("ours", "S2", 100.0, round_number=2))
    found = verdict(run, "tiny", "S2", "mosec")  # of the third round nothing was begun
    assert found.reached is not None
    assert (found.reached.median, found.is_met) == (10.0, False)


def test_the_round_in_which_a_run_was_interrupted_is_not_judged() -> None:
    run = make_run(rounds=2, cells=[make_cell("ours", "S2", 20.0), make_cell("mosec", "S2", 10.0)])
    run.cells.append(make_cell("mosec", "S2", 10.0, round_number=2))
    assert verdict(run, "tiny", "S2", "mosec").is_met is False
    run.settings["is_whole"] = False
    assert verdict(run, "tiny", "S2", "mosec").is_met is True


def test_the_latency_of_errors_counts_for_nobody() -> None:
    cells = [make_cell("ours", "S1", p50_ms=0.1, answers=90, errors=10), make_cell("fastapi", "S1", p50_ms=1.0)]
    assert verdict(make_run(cells=cells), "tiny", "S1", "fastapi").is_met is None


def test_a_server_that_answered_nothing_gives_no_ratio() -> None:
    cells = [make_cell("ours", "S2"), make_cell("mosec", "S2", 0.0, answers=0, errors=9)]
    assert verdict(make_run(cells=cells), "tiny", "S2", "mosec").is_met is None


@pytest.mark.parametrize(("p99_ms", "errors", "is_met"), [(5.0, 0, True), (5.1, 0, False), (5.0, 7, None)])
def test_the_tail_counts_only_with_under_one_percent_of_errors(p99_ms: float, errors: int, is_met: bool | None) -> None:
    run = make_run(open_loads=[make_open_load(1.0, p99_ms, errors=errors)])
    assert verdict(run, "tiny", "open loop, poisson", "its p50").is_met is is_met


def test_memory_is_the_largest_of_a_round_and_start_is_that_without_torch() -> None:
    sizes = [140_000_000, 151_000_000]
    cells = [make_cell("ours-onnx", f"S{n}", largest_rss_bytes=size) for n, size in enumerate(sizes, 2)]
    run = make_run(cells=cells, starts=[make_start("ours", 9.0), make_start("ours-onnx", 1.2)])
    assert verdict(run, "tiny", "memory of an ONNX worker", "RSS after the load").is_met is False
    assert verdict(run, "tiny", "start to ready, ONNX only", "").is_met is True
