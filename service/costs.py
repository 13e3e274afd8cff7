"""What a run costs on this machine, measured while a model is loaded; which also warms it up.

Four decisions rest on it: which runtime computes a batch (`service.backends.fastest`), how many sequences make a run
worth while (`service.policy`: a runtime can be slower, per sequence, at 64 of them than at 8, when what is between its
layers no longer fits the cache), how many of their steps it computes, and whether it is short enough for the event
loop's own thread (`service.batcher`).
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from time import perf_counter

import numpy as np

from model.bundle import Bundle, BundleError, Manifest
from service.backends import Backend, Batch, RuntimeName
from service.policy import Limits

# How often each shape is timed; the fastest run counts, since the first ones compile, and others use the machine. With
# three in all 5 workers of 12 took the slower runtime for batches of 64, with five 1.
_FIRST_RUNS, _ROUNDS = 2, 3
_ENOUGH_S = 0.15  # once a run of every shape takes one of the runtimes that long, no larger shape is begun
_LONGEST_S = 2.0  # once it all has taken that long, no further round is begun
_KNOWN_SHAPES = 65_536
# How much less time another runtime must take than the usual one, which takes the least for all shapes together: the
# large ones, which a busy service runs, count for most. To change between them costs their weights' place in the cache,
# and what differs by less is noise.
_WORTH_A_CHANGE = 0.9
_STEPS = 64  # at least: of a few steps, what a run costs besides would be taken for what a step costs

# (rows, steps) → seconds of a run
Timings = Mapping[tuple[int, int], float]


class Costs:
    """What a run of any shape is expected to take, by the runtime that is to compute it."""

    def __init__(self, timings: Mapping[RuntimeName, Timings]) -> None:
        """Take the timings of at least one runtime, at least one of each."""
        self.timings = timings
        self._estimates = {name: _Estimate(of_one) for name, of_one in timings.items()}
        self._shapes = sorted({shape for of_one in timings.values() for shape in of_one})
        self._usual = min(self._estimates, key=self._total_s)
        # A batch is put together by asking for dozens of shapes, nearly all of which have been asked for before.
        self._known = lru_cache(_KNOWN_SHAPES)(self._choose)

    def __call__(self, rows: int, steps: int) -> float:
        """Seconds that a run of `rows` sequences of `steps` is expected to take. Satisfies `policy.Cost`."""
        return self._known(rows, steps)[1]

    def summary(self) -> str:
        """Which runtime is to compute how many of the shapes that were timed, for the log."""
        counts = Counter(self.chosen(*shape) for shape in self._shapes)
        return ", ".join(f"{name} for {count} of {len(self._shapes)} shapes" for name, count in sorted(counts.items()))

    def __str__(self) -> str:
        """All that was measured, for the log: sequences x steps of a run, and its milliseconds."""
        return "; ".join(
            f"{name} "
            + ", ".join(f"{rows}x{steps} {seconds * 1e3:.3g}" for (rows, steps), seconds in sorted(of_one.items()))
            for name, of_one in self.timings.items()
        )

    def chosen(self, rows: int, steps: int) -> RuntimeName:
        """The runtime that is to compute such a run: the usual one, unless another is clearly faster."""
        return self._known(rows, steps)[0]

    def _choose(self, rows: int, steps: int) -> tuple[RuntimeName, float]:
        name = self._least(rows, steps)
        least_s, usual_s = (self._estimates[one](rows, steps) for one in (name, self._usual))
        return (name, least_s) if least_s < _WORTH_A_CHANGE * usual_s else (self._usual, usual_s)

    def _total_s(self, name: RuntimeName) -> float:
        return sum(self._estimates[name](*shape) for shape in self._shapes)

    def _least(self, rows: int, steps: int) -> RuntimeName:
        return min(self._estimates, key=lambda name: self._estimates[name](rows, steps))

    def chosen_anywhere(self) -> set[RuntimeName]:
        """Every runtime that is to compute some shape that was timed."""
        return {self.chosen(*shape) for shape in self._shapes}


class _Estimate:
    """Between and beyond the shapes that were timed, seconds are in proportion."""

    def __init__(self, timings: Timings) -> None:
        self._rows = sorted({rows for rows, _ in timings})
        self._lines = [_line({steps: s for (r, steps), s in timings.items() if r == rows}) for rows in self._rows]

    def __call__(self, rows: int, steps: int) -> float:
        above = bisect_left(self._rows, rows)
        if above == len(self._rows):
            return self._at(above - 1, steps) * rows / self._rows[-1]
        high = self._rows[above]
        if high == rows or above == 0:
            return self._at(above, steps)
        low = self._rows[above - 1]
        share = (rows - low) / (high - low)
        return (1 - share) * self._at(above - 1, steps) + share * self._at(above, steps)

    def _at(self, index: int, steps: int) -> float:
        fixed_s, per_step_s = self._lines[index]
        return fixed_s + per_step_s * steps


def _line(seconds: Mapping[int, float]) -> tuple[float, float]:
    """Seconds at no steps, and seconds a step, out of the `seconds` by steps."""
    short, long = min(seconds), max(seconds)
    if short == long:
        return 0.0, seconds[long] / long
    per_step_s = max(0.0, (seconds[long] - seconds[short]) / (long - short))
    return max(0.0, seconds[long] - per_step_s * long), per_step_s


def measure(
    backends: Mapping[RuntimeName, Backend], bundle: Bundle, limits: Limits, *, max_steps: int
) -> Mapping[RuntimeName, Timings]:
    """Time `backends` on the shapes to come, `max_steps` long at most. Blocks; raises `BundleError` if one fails.

    They take turns, twice at one shape after another, and then at all of them in rounds: what else uses the machine for
    a moment makes neither one of them nor one shape look dear, and it is what they cost beside each other that decides.
    """
    manifest = bundle.manifest
    longest = min(max(manifest.data.max_length, _STEPS), max_steps)
    timings: dict[RuntimeName, dict[tuple[int, int], float]] = {name: {} for name in backends}
    batches: list[Batch] = []

    def take_turns(batch: Batch) -> None:
        shape = batch.sequences.shape[:2]
        for name, backend in backends.items():
            start = perf_counter()
            try:
                backend.run(batch, manifest.outputs[:1])
            except Exception as error:  # the runtimes' exceptions share no class but Exception
                raise BundleError(f"{bundle.folder}: {name} fails to run its graph: {error}") from error
            timings[name][shape] = min(perf_counter() - start, timings[name].get(shape, math.inf))

    began, rows = perf_counter(), 1
    first = _make_batch(manifest, 1, min(_lengths(manifest, longest)))
    for _ in range(_FIRST_RUNS):  # TorchScript compiles for all shapes; on CUDA, that and what is loaded takes a second
        take_turns(first)
    while rows <= limits.max_rows:
        for steps in _lengths(manifest, min(longest, max(1, limits.max_steps // rows))):
            batches.append(_make_batch(manifest, rows, steps))
            for _ in range(_FIRST_RUNS):
                take_turns(batches[-1])
        if max(sum(of_one.values()) for of_one in timings.values()) > _ENOUGH_S:
            break
        rows *= 2
    for _ in range(_ROUNDS):
        if perf_counter() - began > _LONGEST_S:
            break
        for batch in batches:
            take_turns(batch)
    return timings


def _lengths(manifest: Manifest, longest: int) -> set[int]:
    """Two numbers of steps, so far apart that what lies beyond them can be told from them."""
    return {max(1, min(manifest.data.min_length, longest // 4)), longest}


def _make_batch(manifest: Manifest, rows: int, steps: int) -> Batch:
    state = np.zeros((manifest.num_layers * manifest.num_directions, rows, manifest.hidden_size), np.float32)
    sequences = np.zeros((rows, steps, manifest.input_size), np.float32)
    return Batch(sequences, np.full(rows, steps, np.int64), state, state)
