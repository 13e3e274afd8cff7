"""`service.policy`: pure functions, so these are properties."""

from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from service.costs import Costs
from service.policy import (
    _RUN_OVERHEAD_S,
    _SHORT_S,
    _TOLERANCE,
    LONG_RUN_S,
    Cost,
    Limits,
    select,
    select_between,
    split,
    starts_in_s,
    steps_at_once,
)


@dataclass(frozen=True)
class Part:
    rows: int
    longest: int
    enqueued_s: float = 0.0
    deadline_s: float = 1e9
    spare: int = 0  # steps that it has less than `rows * longest`
    place: float = 0.0
    has_begun: bool = False

    @property
    def steps(self) -> int:
        return self.rows * self.longest - self.spare


LIMITS = Limits(max_rows=8, max_steps=60, max_delay_s=0.0, window=12)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    rows = draw(st.integers(1, LIMITS.max_rows))
    longest = draw(st.integers(1, LIMITS.max_steps // rows))
    return Part(rows, longest, spare=draw(st.integers(0, (rows - 1) * (longest - 1))))


queues = st.lists(parts(), min_size=1, max_size=30)
lengths = st.lists(st.integers(1, 60), min_size=1, max_size=50).map(lambda values: np.array(values, np.int64))


def fits(chosen: list[Part]) -> bool:
    rows = sum(part.rows for part in chosen)
    return rows <= LIMITS.max_rows and rows * max(part.longest for part in chosen) <= LIMITS.max_steps


@settings(deadline=None)
@given(queues)
def test_the_oldest_always_goes(waiting: list[Part]) -> None:
    assert select(waiting, LIMITS)[0] == 0


@settings(deadline=None)
@given(queues)
def test_positions_are_ascending_and_different(waiting: list[Part]) -> None:
    positions = select(waiting, LIMITS)
    assert positions == sorted(set(positions))
    assert positions[-1] < len(waiting)


@settings(deadline=None)
@given(queues)
def test_a_batch_is_never_over_its_limits(waiting: list[Part]) -> None:
    assert fits([waiting[position] for position in select(waiting, LIMITS)])


def test_only_the_oldest_are_looked_at() -> None:
    near, far = Part(1, 10), Part(1, 20)
    assert select([near, far, far, near], replace(LIMITS, max_rows=2, window=4)) == [0, 3]
    assert select([near, far, far, near], replace(LIMITS, max_rows=2, window=3)) == [0, 1]
    assert select([near, far], replace(LIMITS, window=1)) == [0]


@settings(deadline=None)
@given(queues)
def test_who_is_left_behind_would_not_have_fitted_beside_those_that_are_nearer_in_length(waiting: list[Part]) -> None:
    chosen = select(waiting, LIMITS)
    distance = [abs(part.longest - waiting[0].longest) for part in waiting]
    for position in set(range(min(len(waiting), LIMITS.window))) - set(chosen):
        nearer = [waiting[i] for i in chosen if i == 0 or (distance[i], i) < (distance[position], position)]
        assert not fits([*nearer, waiting[position]])


def test_the_nearest_in_length_go_with_the_oldest() -> None:
    waiting = [Part(1, 10), Part(1, 30), Part(1, 11), Part(1, 2), Part(1, 9)]
    assert select(waiting, replace(LIMITS, max_rows=3)) == [0, 2, 4]


def test_of_equals_the_older_goes() -> None:
    waiting = [Part(1, 10), Part(1, 12), Part(1, 8), Part(1, 12)]
    assert select(waiting, replace(LIMITS, max_rows=3)) == [0, 1, 2]


@settings(deadline=None)
@given(queues, st.data())
def test_none_starves_however_many_arrive(waiting: list[Part], data: st.DataObject) -> None:
    ours = waiting[-1]
    for _ in range(len(waiting)):  # each run takes the oldest at least, so there are at most as many as were waiting
        gone = set(select(waiting, LIMITS))
        if any(waiting[position] is ours for position in gone):
            return
        waiting = [part for position, part in enumerate(waiting) if position not in gone]
        waiting += [replace(part) for part in data.draw(st.lists(parts(), max_size=5))]
    raise AssertionError("it was passed over again and again")


@settings(deadline=None)
@given(lengths)
def test_a_split_has_each_row_once(given_lengths: np.ndarray) -> None:
    rows = np.concatenate(split(given_lengths, LIMITS))
    assert sorted(rows.tolist()) == list(range(len(given_lengths)))


@settings(deadline=None)
@given(lengths)
def test_each_part_of_a_split_fits_a_batch(given_lengths: np.ndarray) -> None:
    assert all(fits([Part(len(rows), int(given_lengths[rows].max()))]) for rows in split(given_lengths, LIMITS))


@settings(deadline=None)
@given(lengths)
def test_what_fits_stays_whole_and_in_order(given_lengths: np.ndarray) -> None:
    assume(fits([Part(len(given_lengths), int(given_lengths.max()))]))
    (rows,) = split(given_lengths, LIMITS)
    assert rows.tolist() == list(range(len(given_lengths)))


@settings(deadline=None)
@given(lengths)
def test_a_split_puts_rows_of_like_length_together(given_lengths: np.ndarray) -> None:
    parts_lengths = [given_lengths[rows] for rows in split(given_lengths, LIMITS)]
    assert all(one.min() >= other.max() for one, other in pairwise(parts_lengths))


def test_a_row_that_is_over_the_limit_by_itself_is_a_part_by_itself() -> None:
    rows = split(np.array([3, 100, 4, 200]), LIMITS)
    assert [part.tolist() for part in rows] == [[3], [1], [2, 0]]


@settings(deadline=None)
@given(queues, st.floats(0, 10))
def test_without_a_delay_a_run_starts_at_once(waiting: list[Part], now_s: float) -> None:
    assert starts_in_s(waiting, now_s, LIMITS) == 0


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), max_size=5), st.floats(0, 3))
@example([], 0.0)
@example([0.5], 1.5)
def test_the_delay_counts_from_the_oldest_whatever_comes_later(later: list[float], now_s: float) -> None:
    waiting = [Part(1, 5, enqueued_s=0.0), *(Part(1, 5, enqueued_s=time_s) for time_s in sorted(later))]
    assert starts_in_s(waiting, now_s, replace(LIMITS, max_delay_s=2.0)) == max(0.0, 2.0 - now_s)


def test_nobody_waits_for_longer_than_half_its_time() -> None:
    patient, hurried = Part(1, 5, enqueued_s=0.0), Part(1, 5, enqueued_s=0.5, deadline_s=1.5)
    limits = replace(LIMITS, max_delay_s=2.0)
    assert starts_in_s([patient], 0.5, limits) == 1.5
    assert starts_in_s([patient, hurried], 0.5, limits) == 0.5


@settings(deadline=None)
@given(queues)
def test_as_much_as_one_batch_may_hold_does_not_wait(waiting: list[Part]) -> None:
    rows = sum(part.rows for part in waiting)
    full = rows >= LIMITS.max_rows or rows * max(part.longest for part in waiting) >= LIMITS.max_steps
    assert starts_in_s(waiting, 0.0, replace(LIMITS, max_delay_s=2.0)) == (0.0 if full else 2.0)


def proportional(rows: int, steps: int) -> float:
    """Every step of every row costs the same: only padding makes a difference."""
    return 1e-3 * rows * steps


def free(rows: int, steps: int) -> float:  # noqa: ARG001
    return 0.0


def steep(rows: int, steps: int) -> float:
    """A second row makes each dearer, as where a cache is too small."""
    return 1e-3 * steps * rows**2


def flat(rows: int, steps: int) -> float:  # noqa: ARG001
    """All that is computed at once costs the same."""
    return 1.0


@st.composite
def measured(draw: st.DrawFn) -> Cost:
    """What may be measured, in whatever noise."""
    seconds = st.floats(1e-6, 10)
    shapes = [(rows, steps) for rows in (1, 2, 4, 8) for steps in (2, 60)]
    return Costs({"onnx": {shape: draw(seconds) for shape in shapes}})


costs = st.one_of(st.sampled_from([proportional, free, steep, flat]), measured())


@settings(deadline=None)
@given(queues, costs)
def test_whatever_runs_cost_the_oldest_goes_and_no_limit_is_passed(waiting: list[Part], cost: Cost) -> None:
    positions = select(waiting, LIMITS, cost)
    assert positions[0] == 0
    assert positions == sorted(set(positions))
    assert positions[-1] < min(len(waiting), LIMITS.window)
    assert fits([waiting[position] for position in positions])


@settings(deadline=None)
@given(queues, costs)
def test_a_cost_only_leaves_out_those_that_are_farthest_in_length(waiting: list[Part], cost: Cost) -> None:
    without, chosen = set(select(waiting, LIMITS)), set(select(waiting, LIMITS, cost))
    assert chosen <= without
    distance = [abs(part.longest - waiting[0].longest) for part in waiting]
    for left, taken in product(without - chosen, chosen - {0}):
        assert (distance[taken], taken) < (distance[left], left)


@settings(deadline=None)
@given(queues, costs)
def test_what_is_chosen_is_as_cheap_by_the_step_as_whatever_else_could_be(waiting: list[Part], cost: Cost) -> None:
    def per_step(positions: list[int]) -> float:
        chosen = [waiting[position] for position in positions]
        rows, longest = sum(part.rows for part in chosen), max(part.longest for part in chosen)
        return (cost(rows, longest) + _RUN_OVERHEAD_S) / sum(part.steps for part in chosen)

    def total(positions: list[int]) -> float:
        chosen = [waiting[position] for position in positions]
        return cost(sum(part.rows for part in chosen), max(part.longest for part in chosen))

    without, chosen = select(waiting, LIMITS), select(waiting, LIMITS, cost)
    by_distance = [0, *sorted(without[1:], key=lambda i: abs(waiting[i].longest - waiting[0].longest))]
    if total(without) <= _SHORT_S:
        assert chosen == without, "a run that is short is not worth the search"
    else:
        prefixes = [by_distance[:count] for count in range(1, len(by_distance) + 1)]
        assert per_step(chosen) <= min(per_step(prefix) for prefix in prefixes) * (1 + _TOLERANCE) * (1 + 1e-9)


@settings(deadline=None)
@given(queues, costs, st.data())
def test_whatever_runs_cost_none_starves(waiting: list[Part], cost: Cost, data: st.DataObject) -> None:
    ours = waiting[-1]
    for _ in range(len(waiting)):
        gone = set(select(waiting, LIMITS, cost))
        if any(waiting[position] is ours for position in gone):
            return
        waiting = [part for position, part in enumerate(waiting) if position not in gone]
        waiting += [replace(part) for part in data.draw(st.lists(parts(), max_size=5))]
    raise AssertionError("it was passed over again and again")


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, LIMITS.max_steps), costs)
def test_of_equals_the_older_goes_whatever_runs_cost(count: int, longest: int, cost: Cost) -> None:
    waiting = [Part(1, longest) for _ in range(count)]
    positions = select(waiting, LIMITS, cost)
    assert positions == list(range(len(positions)))


@settings(deadline=None)
@given(queues, costs)
def test_every_part_that_waits_is_run_exactly_once(waiting: list[Part], cost: Cost) -> None:
    left, ran = list(range(len(waiting))), []
    while left:
        positions = select([waiting[number] for number in left], LIMITS, cost)
        ran += [left[position] for position in positions]
        left = [number for position, number in enumerate(left) if position not in positions]
    assert sorted(ran) == list(range(len(waiting)))


def test_a_batch_ends_where_one_more_would_make_each_dearer() -> None:
    waiting = [Part(1, 10) for _ in range(8)]
    assert select(waiting, LIMITS, steep) == [0]
    assert select(waiting, LIMITS, flat) == [0, 1, 2, 3, 4, 5]  # no more fit: 60 steps
    ragged = [Part(1, 10), Part(1, 50), Part(1, 10), Part(1, 10)]
    assert select(ragged, replace(LIMITS, max_steps=1000), proportional) == [0, 2, 3]


@settings(deadline=None)
@given(lengths, costs)
def test_whatever_runs_cost_a_split_has_each_row_once_and_each_part_fits(given_lengths: np.ndarray, cost: Cost) -> None:
    split_rows = split(given_lengths, LIMITS, cost)
    assert sorted(np.concatenate(split_rows).tolist()) == list(range(len(given_lengths)))
    assert all(fits([Part(len(rows), int(given_lengths[rows].max()))]) for rows in split_rows)


@settings(deadline=None)
@given(lengths, costs)
def test_what_fits_is_only_split_if_its_parts_cost_less(given_lengths: np.ndarray, cost: Cost) -> None:
    rows, longest = len(given_lengths), int(given_lengths.max())
    assume(fits([Part(rows, longest)]))
    split_rows = split(given_lengths, LIMITS, cost)
    if len(split_rows) == 1:
        assert split_rows[0].tolist() == list(range(rows)), "whole, and in order"
        return
    assert cost(rows, longest) > _SHORT_S
    apart_s = sum(cost(len(part), int(given_lengths[part].max())) + _RUN_OVERHEAD_S for part in split_rows)
    assert apart_s < cost(rows, longest) + _RUN_OVERHEAD_S


def test_one_long_row_is_split_off_where_padding_to_it_costs_more_than_a_second_run() -> None:
    ragged = np.array([2, 2, 50, 2])
    limits = replace(LIMITS, max_steps=1000)
    assert [rows.tolist() for rows in split(ragged, limits, proportional)] == [[2], [0, 1, 3]]
    assert [rows.tolist() for rows in split(ragged, limits, flat)] == [[0, 1, 2, 3]]
    assert [rows.tolist() for rows in split(ragged, limits)] == [[0, 1, 2, 3]]


costs = st.none() | st.floats(1e-6, 1.0).map(lambda step_s: lambda rows, steps: rows * steps * step_s)


@given(st.integers(1, 100), st.integers(1, 1000), st.integers(1, 5000), costs)
def test_a_run_has_as_many_steps_as_its_bounds_allow_and_one_at_least(
    rows: int, longest: int, max_run_steps: int, cost: Cost | None
) -> None:
    steps = steps_at_once(rows, longest, max_run_steps, cost)

    def is_allowed(steps: int) -> bool:
        return rows * steps <= max_run_steps and (cost is None or cost(rows, steps) <= LONG_RUN_S * (1 + 1e-9))

    assert 1 <= steps <= longest
    assert steps == 1 or is_allowed(steps)
    assert steps == longest or not is_allowed(steps + 1) or (cost is not None and not is_allowed(steps + 2))


waiting_parts = st.builds(
    Part, st.just(1), st.integers(1, 60), place=st.sampled_from([0.0, 1.0]), has_begun=st.booleans()
)


@settings(deadline=None)
@given(st.lists(waiting_parts, max_size=20), st.integers(1, 60))
def test_between_two_runs_go_those_that_one_run_is_enough_for(others: list[Part], max_run_steps: int) -> None:
    waiting = [Part(1, 30, has_begun=True), *others]
    positions = select_between(waiting, LIMITS, max_run_steps)
    may = [
        position
        for position, part in enumerate(waiting[: LIMITS.window])
        if not part.has_begun and part.place == 0.0 and part.longest <= max_run_steps
        if part.longest < waiting[0].longest
    ]
    assert positions[:1] == may[:1], "the first of them always goes"
    assert set(positions) <= set(may)
    if positions:
        chosen = [waiting[position] for position in positions]
        assert fits(chosen)
        assert len(chosen) * max(part.longest for part in chosen) <= max_run_steps, "so that they end with it"


@given(queues)
def test_what_has_begun_waits_for_nobody(waiting: list[Part]) -> None:
    limits = replace(LIMITS, max_rows=1000, max_steps=10**6, max_delay_s=1.0)
    assert starts_in_s(waiting, 0.0, limits) == 1.0
    assert starts_in_s([replace(waiting[0], has_begun=True), *waiting[1:]], 0.0, limits) == 0.0
