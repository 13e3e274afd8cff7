"""What a data set is once it has been read and checked, and how sequences are held out of it.

Every reader in this package ends in a `Dataset`; training and evaluation start from one. A sequence is
`(T, F)` float32, and sequences of one data set may differ in `T`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_BATCH_STEPS: Final = 2**19  # padded: of 128 units they hold 256 MB a layer


class DataError(ValueError):
    """The data cannot be used; the message says where (file, row, column), what was got and what is allowed."""


# Not comparable with ==: arrays have no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One set of labelled sequences.

    `sequences` holds N arrays `(T_i, F)` float32; `targets` `(N,)` int64 holds positions in `Dataset.labels`.
    """

    sequences: tuple[NDArray[np.float32], ...]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.sequences)


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """A training and a held-out set of sequences with the same features and the same classes.

    `labels` holds the class names as the source writes them; a name's position is its class index. `sha256`: of the
    file, where the seed chose what is held out of it.
    """

    name: str
    source: str
    licence: str
    labels: tuple[str, ...]
    train: Split
    test: Split
    sha256: str | None = None

    def all_held_out(self) -> "Dataset":
        """The same with every sequence in `test`."""
        sequences = self.train.sequences + self.test.sequences
        return replace(self, test=Split(sequences, np.concatenate([self.train.targets, self.test.targets])))

    @property
    def input_size(self) -> int:
        """F, the number of features per step."""
        return int(self.train.sequences[0].shape[1])


def stratified_split(split: Split, *, fraction: float, seed: int) -> tuple[Split, Split]:
    """Hold out `fraction` of every class and return `(rest, held_out)`.

    Every class with two or more examples is on both sides; a class with one stays in `rest`. The same `seed` always
    gives the same choice, and both sides keep the order of `split`. Raises `ValueError` unless `0 < fraction < 1`.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction: got {fraction}, allowed is 0 < fraction < 1")
    rng = np.random.default_rng(seed)
    is_held_out = np.zeros(len(split), dtype=np.bool_)  # (N,)
    for target in np.unique(split.targets):
        members = np.flatnonzero(split.targets == target)
        if len(members) < 2:
            continue
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        is_held_out[rng.permutation(members)[:count]] = True
    return _select(split, ~is_held_out), _select(split, is_held_out)


def _select(split: Split, mask: NDArray[np.bool_]) -> Split:
    sequences = tuple(split.sequences[i] for i in np.flatnonzero(mask))
    return Split(sequences, split.targets[mask])


def batches_by_length(lengths: Sequence[int] | NDArray[np.int64], *, most: int) -> Iterator[NDArray[np.int64]]:
    """Rows of sequences of these `lengths`, the shortest first, up to `most` and `MAX_BATCH_STEPS` in a batch.

    Little is padded so, and a few long sequences come in batches of their own. A single one may be longer.
    """
    order = np.argsort(lengths, kind="stable")
    start = 0
    for stop, row in enumerate(order):
        if stop > start and (stop - start == most or (stop - start + 1) * lengths[row] > MAX_BATCH_STEPS):
            yield order[start:stop]
            start = stop
    if start < len(order):
        yield order[start:]
