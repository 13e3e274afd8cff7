"""One run on several workers' cores, while nothing else is computed.

Each worker computes on its share of the cores, which is the fastest for many requests at once. When there is but one,
it would wait for one core's work while the others idle: it is computed by a second session, with more threads. That
pays where a run is long enough to wake them; where it turns out not to pay (other programs use the machine, or the
layers are too small to be shared out) it is left alone for a while.
"""

from collections import defaultdict
from collections.abc import Sequence
from time import monotonic, perf_counter

from service.backends import Array, Backend, BackendName, Batch, DeviceName, Precision
from service.cores import Cores
from service.policy import Cost

_WORTH_WAKING_S = 3e-4  # what takes less
# What takes more would be in the way of whatever comes meanwhile; and the session of a network with a backward
# direction, whose runs are not bounded, would keep its memory for good. Without an arena they took 1.6 times as long.
_TOO_LONG_S = 0.02
# What a run takes, as a share of what is expected on one worker's share of the cores. Whatever is not known is tried;
# none is for a while once the runs of late, of which one that was disturbed counts for little, were not worth it.
_ASSUMED, _WORTH_IT, _WORST = 0.8, 0.95, 2.0
_WEIGHT = 1 / 16  # of the last run
_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 64.0


class AllCoresBackend:
    """Computes on this worker's `share` of the cores, or on `all_cores` where they are free and it is faster.

    Both give the same within what their bundle's parity allows. `run` may be called from any one thread at a time.
    """

    def __init__(self, share: Backend, all_cores: Backend, cost: Cost, cores: Cores) -> None:
        """`cost` is what a run on `share` is expected to take."""
        self.name: BackendName = share.name if share.name == all_cores.name else "auto"
        self.device: DeviceName = share.device
        self.precision: Precision = share.precision
        self._share = share
        self._all = all_cores
        self._cost = cost
        self._cores = cores
        self._habits: defaultdict[tuple[int, int], _Habit] = defaultdict(_Habit)  # by rows and steps, in doublings

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph; return `outputs` by name."""
        rows, steps, _ = batch.sequences.shape
        expected_s, habit = self._cost(rows, steps), self._habits[rows.bit_length(), steps.bit_length()]
        may_pay = _WORTH_WAKING_S < expected_s < _TOO_LONG_S and habit.not_before_s < monotonic()
        if not (may_pay and self._cores.all_rest_but_for(1)):
            return self._share.run(batch, outputs)
        began_s = perf_counter()
        results = self._all.run(batch, outputs)
        habit.learn((perf_counter() - began_s) / expected_s)
        return results


class _Habit:
    """How runs of some size fared on all cores."""

    __slots__ = ("_pause_s", "_took", "not_before_s")

    def __init__(self) -> None:
        self.not_before_s = 0.0
        self._took = _ASSUMED
        self._pause_s = _SHORTEST_PAUSE_S

    def learn(self, took: float) -> None:
        """Hear what a run `took`; pause if it is not worth it, each time for twice as long as before."""
        self._took += _WEIGHT * (min(took, _WORST) - self._took)
        if self._took < _ASSUMED:
            self._pause_s = _SHORTEST_PAUSE_S
        elif self._took > _WORTH_IT:
            self._took = _ASSUMED
            self.not_before_s = monotonic() + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
