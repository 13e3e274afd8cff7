"""What is computed in several runs, each of which goes on from the states that the one before left."""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from service.backends import Array, has_steps, index_of
from service.tensors import Sequences, State
from service.timing import Run


@dataclass(frozen=True, slots=True)
class Progress:
    """How far sequences of `lengths` (B) are: the first `steps` of each are computed, or all that it has.

    `rest` are those that go on, from there on and with the states that they reached, and `rows` which of all they are.
    `outputs` by name are as they will be of all, and zero where nothing has come yet: what follows on this writes to
    the same arrays. `prepare_s` and `infer_s` are what the runs took so far.
    """

    lengths: NDArray[np.int64]
    rows: NDArray[np.int64]
    rest: Sequences
    steps: int = 0
    outputs: dict[str, Array] = field(default_factory=dict)
    prepare_s: float = 0.0
    infer_s: float = 0.0

    @classmethod
    def begin(cls, sequences: Sequences) -> "Progress":
        """Nothing of `sequences` is computed yet."""
        return cls(sequences.lengths, np.arange(len(sequences)), sequences)

    def after(self, steps: int, outputs: dict[str, Array], state: State, run: Run) -> "Progress":
        """How far they are after the `run` of `rest.head(steps)`, which gave `outputs` and left `state`."""
        self.write(outputs)
        return replace(
            self,
            rows=self.rows[self.rest.lengths > steps],
            rest=self.rest.tail(steps, state),
            steps=self.steps + steps,
            prepare_s=self.prepare_s + run.prepared - run.dispatched,
            infer_s=self.infer_s + run.inferred - run.prepared,
        )

    def write(self, outputs: dict[str, Array]) -> None:
        """Put the `outputs` of a run of `rest` where they belong; to do so twice does no harm."""
        for name, array in outputs.items():
            stop = self.steps
            if is_stepwise := has_steps(name, array.ndim):
                stop += array.shape[1]
            if name not in self.outputs:  # this was the first run, of all rows
                steps = (int(self.lengths.max()),) if is_stepwise else ()
                self.outputs[name] = np.zeros((array.shape[0], *steps, *array.shape[1 + len(steps) :]), np.float32)
            self.outputs[name][index_of(name, array.ndim, self.rows, slice(self.steps, stop))] = array

    def ended_with(self, last: Run) -> Run:
        """All runs as if they had been one that ended with the `last`: what was between them was waiting."""
        prepared = last.prepared - self.infer_s
        return Run(last.dispatched - self.infer_s - self.prepare_s, prepared, last.inferred)
