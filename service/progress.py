"""What is computed in several runs, each of which goes on from the states that the one before left."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.backends import Array, has_steps, index_of
from service.tensors import Sequences, State
from service.timing import Run


@dataclass(frozen=True, slots=True)
class Progress:
    """How far `whole` is: the first `steps` of each of its sequences are computed, or all that it has.

    `rest` are those that go on, from there on and with the states that they reached, and `rows` which of `whole` they
    are. `outputs` by name are as they will be of all of it, and zero where nothing has come yet. `begun` is the first
    run.
    """

    whole: Sequences
    steps: int
    rest: Sequences
    rows: NDArray[np.int64]
    outputs: dict[str, Array]
    begun: Run

    @classmethod
    def begin(cls, whole: Sequences, run: Run) -> "Progress":
        """Nothing is computed yet; `run` is the first one."""
        return cls(whole, 0, whole, np.arange(len(whole)), {}, run)

    def after(self, steps: int, outputs: dict[str, Array], state: State) -> "Progress":
        """How far it is after a run of `rest.head(steps)`, which gave `outputs` and left `state`."""
        self.fill_in(outputs)
        rows, rest = self.rows[self.rest.lengths > steps], self.rest.tail(steps, state)
        return Progress(self.whole, self.steps + steps, rest, rows, self.outputs, self.begun)

    def fill_in(self, outputs: dict[str, Array]) -> None:
        """Take the `outputs` of a run of `rest`. No harm is done if it fails, and they are taken again."""
        for name, array in outputs.items():
            stop = self.steps
            if is_stepwise := has_steps(name, array.ndim):
                stop += array.shape[1]
            if name not in self.outputs:  # this was the first run, of all rows
                steps = (self.whole.longest,) if is_stepwise else ()
                self.outputs[name] = np.zeros((array.shape[0], *steps, *array.shape[1 + len(steps) :]), np.float32)
            self.outputs[name][index_of(name, array.ndim, self.rows, slice(self.steps, stop))] = array
