"""A long run in slices of time: each goes on from the states in which the one before left its sequences.

A runtime first computes what the input adds to the gates at every step, B * T * 4H values, and then goes through the
steps. ONNX Runtime keeps for good what memory that took once: 64 sequences of 1000 steps in two layers of 256 brought a
process from 80 MB to 710, and in slices to 99. Long runs take a tenth less time besides: a slice stays in the cache;
and sequences that have ended have no part in later slices. A backward direction begins at the end: it has no slices.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from service.backends import STATES, Array, Backend, BackendName, Batch, DeviceName, Precision, has_steps, index_of

# What the input adds to the gates within one slice. Less gains little more: to begin a slice takes 50 us, and several
# threads want large ones.
_SLICE_BYTES: Final = 2**23


class SlicedBackend:
    """Gives what `whole`, a network without a backward direction, would give, and hands it one slice after another.

    What a run is expected to take is measured with sequences of one length: a ragged one takes less.
    """

    def __init__(self, whole: Backend, hidden_size: int) -> None:
        self.name: BackendName = whole.name
        self.device: DeviceName = whole.device
        self.precision: Precision = whole.precision
        self._whole = whole
        self._max_steps = _SLICE_BYTES // (4 * hidden_size * np.dtype(np.float32).itemsize)  # of all rows together

    def run(self, batch: Batch, outputs: Sequence[str]) -> dict[str, Array]:
        """Run the graph as often as it takes; return `outputs` by name."""
        rows, steps, _ = batch.sequences.shape
        if rows * steps <= self._max_steps:
            return self._whole.run(batch, outputs)
        wanted = sorted(STATES.union(outputs))
        results: dict[str, Array] = {}
        going, left, h0, c0, start = np.arange(rows), batch.lengths, batch.h0, batch.c0, 0
        while len(going):
            stop = start + max(1, self._max_steps // len(going))
            lengths = np.minimum(left, stop - start)
            part = self._whole.run(Batch(batch.sequences[going, start:stop], lengths, h0, c0), wanted)
            for name in outputs:
                array = part[name]
                if start == 0:
                    shape = (rows, steps, array.shape[2]) if has_steps(name, array.ndim) else array.shape
                    results[name] = np.zeros(shape, np.float32)
                results[name][index_of(name, array.ndim, going, slice(start, stop))] = array
            goes_on = left > lengths
            going, left, start = going[goes_on], (left - lengths)[goes_on], stop
            h0, c0 = part["hn"][:, goes_on], part["cn"][:, goes_on]
        return results
