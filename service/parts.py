"""What waits in a batcher: parts of requests, how a batch of them is computed, and how they are put together again.

A part may be computed in several runs, each of which goes on from the states that the one before left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.backends import STATES, Array, Backend, Batch, has_steps, index_of
from service.errors import ServiceError
from service.tensors import Sequences, State, join_states, pad
from service.timing import Run

Outputs = dict[str, Array]


@dataclass(slots=True)
class Computed:
    """A part's own rows of its own outputs, and the runs that computed them."""

    outputs: Outputs
    runs: tuple[Run, ...]


class Waiter(Protocol):
    """Who waits for a part: a future, or who wants to be called at once, without a turn of the loop between."""

    def done(self) -> bool:
        """Whether it waits no more: it has what it waited for, or was cancelled."""

    def set_result(self, result: Computed, /) -> None:
        """Take what was computed."""

    def set_exception(self, exception: ServiceError, /) -> None:
        """Learn why nothing was."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far sequences of `lengths` (B) are: the first `steps` of each are computed, or all that it has.

    `rest` are those that go on, from there on and with the states that they reached, and `rows` which of all they are.
    `outputs` by name are as they will be of all, and zero where nothing has come yet: what follows on this writes to
    the same arrays.
    """

    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    rest: Sequences
    steps: int = 0
    outputs: Outputs = field(default_factory=dict)
    runs: tuple[Run, ...] = ()

    @classmethod
    def begin(cls, sequences: Sequences) -> "Progress":
        """Nothing of `sequences` is computed yet."""
        return cls(sequences.lengths, np.arange(len(sequences)), sequences)

    def after(self, steps: int, outputs: Outputs, state: State, run: Run) -> "Progress":
        """How far they are after the `run` of `rest.head(steps)`, which gave `outputs` and left `state`."""
        self.write(outputs)
        return replace(
            self,
            rows=self.rows[self.rest.lengths > steps],
            rest=self.rest.tail(steps, state),
            steps=self.steps + steps,
            runs=(*self.runs, run),
        )

    def write(self, outputs: Outputs) -> None:
        """Put the `outputs` of a run of `rest` where they belong; to do so twice does no harm."""
        for name, array in outputs.items():
            stop = self.steps
            if is_stepwise := has_steps(name, array.ndim):
                stop += array.shape[1]
            if name not in self.outputs:  # this was the first run, of all rows
                steps = (int(self.lengths.max()),) if is_stepwise else ()
                self.outputs[name] = np.zeros((array.shape[0], *steps, *array.shape[1 + len(steps) :]), np.float32)
            self.outputs[name][index_of(name, array.ndim, self.rows, slice(self.steps, stop))] = array


@dataclass(slots=True, eq=False)
class Part:
    """Some sequences of one request that are run together. Satisfies `policy.Waiting`."""

    sequences: Sequences  # what is to be computed of it
    rows: int
    steps: int
    longest: int
    outputs: frozenset[str]
    place: float  # in line: 1 goes before 2, what came without a priority is last
    enqueued_s: float
    deadline_s: float
    waiter: Waiter
    progress: Progress | None = None  # once it has begun; then `sequences` is what is left

    @property
    def has_begun(self) -> bool:
        """Whether some of its steps are computed."""
        return self.progress is not None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Of all its sequences, in full."""
        return (self.progress or self.sequences).lengths

    def go_on(self, progress: Progress) -> None:
        """Be what is left now."""
        self.progress, self.sequences = progress, progress.rest
        self.rows, self.steps, self.longest = len(progress.rest), len(progress.rest.values), progress.rest.longest


def compute(
    parts: Sequence[Part], steps: int, backend: Backend, state_shape: tuple[int, int], dispatched: float
) -> list[Computed | Progress]:
    """Pad the first `steps` of `parts`, run, and share out: what each has come to, or how far it is now.

    Changes no part, so that it may be called in any thread, and again if it fails.
    """
    requests = [part.sequences if part.longest <= steps else part.sequences.head(steps) for part in parts]
    sequences, lengths = pad(requests)
    state = join_states(requests, state_shape)
    names = parts[0].outputs
    for part in parts:
        if part.outputs is not names:
            names = names | part.outputs
    if any(part.longest > steps for part in parts):
        names = names | STATES
    prepared = perf_counter()
    results = backend.run(Batch(sequences, lengths, state.h0, state.c0), sorted(names))
    run = Run(dispatched, prepared, perf_counter())
    done: list[Computed | Progress] = []
    start = 0
    for part in parts:
        rows = slice(start, start + part.rows)
        start = rows.stop
        outputs = _share(results, part, rows)
        if part.longest > steps:
            state = State(results["hn"][:, rows], results["cn"][:, rows])
            done.append((part.progress or Progress.begin(part.sequences)).after(steps, outputs, state, run))
        elif part.progress is None:
            done.append(Computed(outputs, (run,)))
        else:
            part.progress.write(outputs)
            done.append(Computed(part.progress.outputs, (*part.progress.runs, run)))
    return done


def _share(outputs: Outputs, part: Part, rows: slice) -> Outputs:
    """Views of a part's `rows` of a run's outputs, cut to its own longest sequence."""
    share = {}
    for name in part.outputs:
        array = outputs[name]
        share[name] = array[rows] if array.ndim == 2 else array[index_of(name, array.ndim, rows, slice(part.longest))]
    return share


def join(rows: Sequence[NDArray[np.int64]], parts: Sequence[Outputs]) -> Outputs:
    """Put the parts of a split request together: row i of a part belongs at `rows[part][i]`."""
    joined = {}
    for name in parts[0]:
        arrays = [part[name] for part in parts]
        shape = np.max([array.shape for array in arrays], axis=0)
        shape[1 if name in STATES else 0] = sum(len(part_rows) for part_rows in rows)
        joined[name] = np.zeros(shape, np.float32)
        for part_rows, array in zip(rows, arrays, strict=True):
            joined[name][index_of(name, array.ndim, part_rows, slice(array.shape[1]))] = array
    return joined
