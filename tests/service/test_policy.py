"""`service.policy`: pure functions, so these are properties."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from service.policy import Limits, select, split, starts_in_s


@dataclass(frozen=True)
class Part:
    rows: int
    longest: int
    enqueued_s: float = 0.0


LIMITS = Limits(max_rows=8, max_steps=60, max_delay_s=0.0, window=12)


@st.composite
def parts(draw: st.DrawFn) -> Part:
    rows = draw(st.integers(1, LIMITS.max_rows))
    return Part(rows, draw(st.integers(1, LIMITS.max_steps // rows)))


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


@settings(deadline=None)
@given(queues)
def test_as_much_as_one_batch_may_hold_does_not_wait(waiting: list[Part]) -> None:
    rows = sum(part.rows for part in waiting)
    full = rows >= LIMITS.max_rows or rows * max(part.longest for part in waiting) >= LIMITS.max_steps
    assert starts_in_s(waiting, 0.0, replace(LIMITS, max_delay_s=2.0)) == (0.0 if full else 2.0)
