"""What the workers compute, as they see it of each other: while one alone computes, it may use the others' cores.

A worker says when its runs begin and end, and while it loads a model, whose runs are timed. Its event loop's thread
says so; any thread may ask.
"""

import mmap
from math import inf
from time import monotonic

# A worker that has computed so lately is not at rest: the next request to it may come at any time.
_REST_S = 0.01


class Cores:
    """When each worker computed last. Made before the workers are forked, in memory that they share."""

    def __init__(self, workers: int, number: int) -> None:
        """`number`: the cores that there are for all workers together."""
        self.number = number
        self._computed_s = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")  # infinite while a worker computes
        self._mine = 0
        self._taken = 0

    def become_worker(self, index: int) -> None:
        """Say which worker this process is. One that follows a killed worker computes nothing yet."""
        self._mine = index
        self._taken = 0
        self._computed_s[index] = 0.0

    def take(self) -> None:
        """Say that this worker begins to compute something."""
        self._taken += 1
        self._computed_s[self._mine] = inf

    def give_back(self) -> None:
        """Say that what one `take` was for is done."""
        self._taken -= 1
        if not self._taken:
            self._computed_s[self._mine] = monotonic()

    def all_rest_but_for(self, runs: int) -> bool:
        """Whether this worker computes `runs` things and no other worker computes, or has lately."""
        lately = monotonic() - _REST_S
        return self._taken == runs and not any(
            end > lately for worker, end in enumerate(self._computed_s) if worker != self._mine
        )
