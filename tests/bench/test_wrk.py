import pytest

from bench.wrk import WrkFailure, parse

OUTPUT = """Running 1s test @ http://127.0.0.1:8000/
  1 threads and 64 connections
    Latency    12.04ms    4.51ms  34.02ms   68.62%
  5391 requests in 1.02s, 1.53MB read

{"requests": 5391, "duration_us": 1020000, "p50_us": 11500, "p99_us": 25000, "max_us": 34020, "connect": 0, \
"read": 2, "write": 0, "status": 41, "timeout": 1}
"""


def test_good_answers_and_errors_are_told_apart() -> None:
    load = parse(OUTPUT, cpu_s=0.5)
    assert (load.answers, load.errors) == (5350, 44)


def test_figures_are_in_the_units_of_their_names() -> None:
    load = parse(OUTPUT, cpu_s=0.5)
    assert (load.duration_s, load.p50_ms, load.p99_ms, load.cpu_s) == (1.02, 11.5, 25.0, 0.5)


def test_output_without_figures_is_a_failure_that_quotes_it() -> None:
    with pytest.raises(WrkFailure, match="unable to connect"):
        parse("unable to connect to 127.0.0.1", cpu_s=0)
