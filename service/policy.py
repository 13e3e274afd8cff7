"""The batching policy: which of the waiting parts run next, and when. Pure functions: no clock, no loop, no state.

What waits stands in line by priority, then age. The first in line always goes, so within a priority none starves; the
batch is filled with the parts nearest to it in length, since steps beyond a sequence's own length are computed for
nothing. What a batch may cost is bounded twice: in sequences, and in sequences x longest, which is what the padded
tensor holds. Within these bounds, and if it is known what runs cost, a batch ends where a step of its sequences is
cheapest: one that is much longer, or more of them than the runtime's cache takes, would make each dearer.

Where sequences can go on in another run, a run has only so many of their steps, and what has begun is first in line
until it ends: to take turns with others of its length would only make all of them late. But every other run, while
something has begun, is one of those that are shorter than what is left of it, and that one run is enough for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Seconds that a run of so many rows, so many steps each, is expected to take.
Cost = Callable[[int, int], float]
# What each run costs besides: padding, sharing out, the way to a thread and back, and caches that must be filled anew.
_RUN_OVERHEAD_S = 2e-4
# What was measured of a run can be off by this much, and fewer runs leave more of the core to the rest of the service.
_TOLERANCE = 0.05
# A run that takes no longer is not worth the search for something better.
_SHORT_S = 5e-4
# What comes during a run waits for it. To begin one more costs half a millisecond: a thread, states, a cold cache.
LONG_RUN_S = 50e-3


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one batch. `window`: how many of the first in line are looked at, so that choosing stays cheap."""

    max_rows: int
    max_steps: int
    max_delay_s: float = 0.0
    window: int = 256


class Waiting(Protocol):
    """What the policy sees of a part of a request that waits to be run."""

    @property
    def rows(self) -> int:
        """Sequences in it; at most `Limits.max_rows`."""

    @property
    def steps(self) -> int:
        """Time steps of all of them, without padding."""

    @property
    def longest(self) -> int:
        """Time steps of its longest sequence; `rows * longest` is at most `Limits.max_steps`."""

    @property
    def place(self) -> float:
        """In line: a lower one goes first."""

    @property
    def has_begun(self) -> bool:
        """Whether some of its steps are computed."""

    @property
    def enqueued_s(self) -> float:
        """When it came, on the clock that `starts_in_s` is asked with."""

    @property
    def deadline_s(self) -> float:
        """When its time is over, on the same clock."""


def stays_whole(rows: int, longest: int, limits: Limits, cost: Cost | None = None) -> bool:
    """Whether a request of so many rows cannot be cut, or fits a batch and is not worth the search for a way to."""
    return rows == 1 or _is_short(rows, longest, limits, cost)


def _is_short(rows: int, longest: int, limits: Limits, cost: Cost | None) -> bool:
    return _fits(rows, longest, limits) and (cost is None or cost(rows, longest) <= _SHORT_S)


def _fits(rows: int, longest: int, limits: Limits) -> bool:
    return rows <= limits.max_rows and rows * longest <= limits.max_steps


def split(lengths: NDArray[np.int64], limits: Limits, cost: Cost | None = None) -> list[NDArray[np.int64]]:
    """Cut one request's rows into parts that each fit a batch; return each part's row numbers.

    Rows of like length go together. A request that fits, and gains nothing from being cut, stays whole and in order. A
    row that is longer than `max_steps` by itself is a part by itself; who does not want to run it refuses it before.
    """
    rows, longest = len(lengths), int(lengths.max())
    if stays_whole(rows, longest, limits, cost):
        return [np.arange(rows)]
    order = np.argsort(-lengths, kind="stable")
    descending = lengths[order].tolist()
    parts, start = [], 0
    while start < rows:
        # Longest first, so a part's first row decides how many fit beside it.
        most = max(1, min(limits.max_rows, limits.max_steps // descending[start], rows - start))
        stop = start + (most if cost is None else _best_size(descending[start : start + most], cost))
        parts.append(order[start:stop])
        start = stop
    if cost is not None and _fits(rows, longest, limits):
        apart_s = sum(cost(len(part), int(lengths[part[0]])) + _RUN_OVERHEAD_S for part in parts)
        if apart_s * (1 + _TOLERANCE) >= cost(rows, longest) + _RUN_OVERHEAD_S:
            return [np.arange(rows)]
    return parts


def select(waiting: Sequence[Waiting], limits: Limits, cost: Cost | None = None) -> list[int]:
    """Choose the next batch from `waiting`, first in line first; return positions in it, ascending, never none."""
    if len(waiting) <= limits.window:
        rows, longest = sum([part.rows for part in waiting]), max([part.longest for part in waiting])
        if _is_short(rows, longest, limits, cost):
            return list(range(len(waiting)))
    first = waiting[0]
    window = range(1, min(len(waiting), limits.window))
    by_length = sorted(window, key=lambda i: abs(waiting[i].longest - first.longest))
    chosen, rows, longest = [0], first.rows, first.longest
    for position in by_length:
        part = waiting[position]
        padded = max(longest, part.longest)
        if rows + part.rows <= limits.max_rows and (rows + part.rows) * padded <= limits.max_steps:
            chosen.append(position)
            rows, longest = rows + part.rows, padded
            if rows == limits.max_rows:
                break
    if cost is not None and len(chosen) > 1 and cost(rows, longest) > _SHORT_S:
        chosen = chosen[: _best_count([waiting[position] for position in chosen], cost)]
    return sorted(chosen)


def _best_count(parts: Sequence[Waiting], cost: Cost) -> int:
    """How many of `parts`, from the first one on, to run together."""
    rows, steps, longest, prices = 0, 0, 0, []
    for part in parts:
        rows, steps, longest = rows + part.rows, steps + part.steps, max(longest, part.longest)
        prices.append((cost(rows, longest) + _RUN_OVERHEAD_S) / steps)
    return _last_good(prices)


def _best_size(descending: Sequence[int], cost: Cost) -> int:
    """How many of the longest of some rows, whose lengths are `descending`, to run together."""
    steps, prices = 0, []
    for rows, length in enumerate(descending, 1):
        steps += length
        prices.append((cost(rows, descending[0]) + _RUN_OVERHEAD_S) / steps)
    return _last_good(prices)


def _last_good(prices: Sequence[float]) -> int:
    """How many make the largest run that is among the cheapest; `prices` are of a step, in a run of 1, 2, 3 …"""
    enough = min(prices) * (1 + _TOLERANCE)
    return max(count for count, price in enumerate(prices, 1) if price <= enough)


def steps_at_once(rows: int, longest: int, max_run_steps: int, cost: Cost | None = None) -> int:
    """How many steps of so many sequences one run has.

    No more than `max_run_steps` of all together, and about as many as take `LONG_RUN_S`, but always one of each.
    """
    steps = longest if rows * longest <= max_run_steps else max(1, max_run_steps // rows)
    if cost is not None and (cost_s := cost(rows, steps)) > LONG_RUN_S:
        steps = max(1, int(steps * LONG_RUN_S / cost_s))
    return steps


def select_between(
    waiting: Sequence[Waiting], limits: Limits, max_run_steps: int, cost: Cost | None = None
) -> list[int]:
    """Choose the batch that goes before the first in line, which has begun; return positions, none if there is none.

    It is of those of its priority that have not begun, need fewer steps than it still does, and that by themselves need
    one run.
    """
    positions = [
        position
        for position, part in enumerate(waiting[: limits.window])
        if not part.has_begun
        and part.place == waiting[0].place
        and part.longest < waiting[0].longest
        and steps_at_once(part.rows, part.longest, max_run_steps, cost) == part.longest
    ]
    if not positions:
        return []
    limits = replace(limits, max_steps=min(limits.max_steps, max_run_steps))
    return [positions[chosen] for chosen in select([waiting[position] for position in positions], limits, cost)]


def starts_in_s(waiting: Sequence[Waiting], now_s: float, limits: Limits) -> float:
    """How long an idle backend waits before it runs `select`'s batch: 0 is at once.

    The delay counts from the oldest part, wherever in line and whatever has come since, and ends early when as much is
    waiting as one batch may hold, in sequences or in padded steps. No part waits for longer than half its time, and
    none that has begun.
    """
    if limits.max_delay_s == 0 or any(part.has_begun for part in waiting):
        return 0.0
    rows = sum(part.rows for part in waiting)
    padded_steps = rows * max(part.longest for part in waiting)
    if rows >= limits.max_rows or padded_steps >= limits.max_steps:
        return 0.0
    latest_s = min(
        part.enqueued_s + min(limits.max_delay_s, (part.deadline_s - part.enqueued_s) / 2) for part in waiting
    )
    return max(0.0, latest_s - now_s)
