"""Which workers compute, as they see it of each other: one run may use all cores while the others rest."""

import mmap
from math import inf
from time import monotonic

# A worker that has computed so lately is not at rest: the next request to it may come at any time.
_REST_S = 0.01


class Cores:
    """When each worker computed last. Made before the workers are forked, in memory that they share."""

    def __init__(self, workers: int, number: int) -> None:
        """`number`: how many of the cores one run may take while the other workers rest."""
        self.number = number
        self._computed_s = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")  # infinite while a worker computes
        self._mine = 0

    def become_worker(self, index: int) -> None:
        """Say which worker this process is. One that follows a killed worker computes nothing yet."""
        self._mine = index
        self._computed_s[index] = 0.0

    def take(self) -> None:
        """Say that this worker computes."""
        self._computed_s[self._mine] = inf

    def give_back(self) -> None:
        """Say that it is done. Of several runs at once, of several models, the first end counts."""
        self._computed_s[self._mine] = monotonic()

    def others_rest(self) -> bool:
        """Whether no other worker computes, or has lately."""
        lately = monotonic() - _REST_S
        return not any(end > lately for worker, end in enumerate(self._computed_s) if worker != self._mine)
