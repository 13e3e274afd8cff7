"""The batching policy: which of the waiting parts run next, and when. Pure functions: no clock, no loop, no state.

What waits stands in line by priority, then age. The first in line always goes, so within a priority none starves; the
batch is filled with the parts nearest to it in length, since steps beyond a sequence's own length are computed for
nothing. What a batch may cost is bounded twice: in sequences, and in sequences x longest, which is what the padded
tensor holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


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
    def longest(self) -> int:
        """Time steps of its longest sequence; `rows * longest` is at most `Limits.max_steps`."""

    @property
    def enqueued_s(self) -> float:
        """When it came, on the clock that `starts_in_s` is asked with."""


def split(lengths: NDArray[np.int64], limits: Limits) -> list[NDArray[np.int64]]:
    """Cut one request's rows into parts that each fit a batch; return each part's row numbers.

    Rows of like length go together. A request that fits stays whole and in order. A row that is longer than
    `max_steps` by itself is a part by itself; who does not want to run it refuses it before.
    """
    if len(lengths) <= limits.max_rows and len(lengths) * int(lengths.max()) <= limits.max_steps:
        return [np.arange(len(lengths))]
    order = np.argsort(-lengths, kind="stable")
    parts, start = [], 0
    while start < len(order):
        # Longest first, so a part's first row decides how many fit beside it.
        rows = max(1, min(limits.max_rows, limits.max_steps // int(lengths[order[start]])))
        parts.append(order[start : start + rows])
        start += rows
    return parts


def select(waiting: Sequence[Waiting], limits: Limits) -> list[int]:
    """Choose the next batch from `waiting`, first in line first; return positions in it, ascending, never none."""
    first = waiting[0]
    window = range(1, min(len(waiting), limits.window))
    chosen, rows, longest = [0], first.rows, first.longest
    for position in sorted(window, key=lambda i: abs(waiting[i].longest - first.longest)):
        part = waiting[position]
        padded = max(longest, part.longest)
        if rows + part.rows <= limits.max_rows and (rows + part.rows) * padded <= limits.max_steps:
            chosen.append(position)
            rows, longest = rows + part.rows, padded
            if rows == limits.max_rows:
                break
    return sorted(chosen)


def starts_in_s(waiting: Sequence[Waiting], now_s: float, limits: Limits) -> float:
    """How long an idle backend waits before it runs `select`'s batch: 0 is at once.

    The delay counts from the oldest part, wherever in line and whatever has come since, and ends early when as much is
    waiting as one batch may hold, in sequences or in padded steps.
    """
    rows = sum(part.rows for part in waiting)
    padded_steps = rows * max(part.longest for part in waiting)
    if limits.max_delay_s == 0 or rows >= limits.max_rows or padded_steps >= limits.max_steps:
        return 0.0
    return max(0.0, min(part.enqueued_s for part in waiting) + limits.max_delay_s - now_s)
