"""One record of a request's time: its views agree with its marks and with each other."""

import re

from hypothesis import given
from hypothesis import strategies as st

from service.timing import STAGES, Run, Timing

stages_s = st.tuples(*[st.floats(0, 100)] * len(STAGES))


def make_timing(stages: tuple[float, ...], *, received: float = 50.0) -> Timing:
    marks = [received]
    for stage in stages:
        marks.append(marks[-1] + stage)
    return Timing(*marks)


def test_each_stage_is_the_time_between_two_marks() -> None:
    timing = make_timing((1.0, 2.0, 3.0, 4.0, 5.0, 6.0))
    assert timing.stages_s() == (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
    assert timing.duration_s == 21.0


@given(stages_s)
def test_the_stages_add_up_to_the_request(stages: tuple[float, ...]) -> None:
    timing = make_timing(stages)
    assert abs(sum(timing.stages_s()) - timing.duration_s) < 1e-9


def test_what_one_run_computed_has_its_marks() -> None:
    timing = Timing()
    timing.ran([Run(10.0, 11.0, 13.0)])
    assert (timing.dispatched, timing.prepared, timing.inferred) == (10.0, 11.0, 13.0)


def test_several_runs_are_timed_as_if_they_had_been_one_that_ended_with_the_last() -> None:
    timing = Timing()
    timing.ran({Run(20.0, 22.0, 26.0), Run(30.0, 34.0, 42.0), Run(10.0, 11.0, 13.0)})
    assert (timing.dispatched, timing.prepared, timing.inferred) == (21.0, 28.0, 42.0)


def test_the_header_names_the_six_stages_in_milliseconds() -> None:
    header = make_timing((0.001, 0.0, 0.25, 0.0004, 1.5, 0.0)).header().decode()
    assert re.findall(r"(\w+);dur=([\d.]+)", header) == [
        ("decode", "1.000"),
        ("queue", "0.000"),
        ("compute_input", "250.000"),
        ("compute_infer", "0.400"),
        ("compute_output", "1500.000"),
        ("encode", "0.000"),
    ]


def test_a_record_starts_now_and_later_ones_start_later() -> None:
    assert Timing().received <= Timing().received
    assert Timing().received > 0
