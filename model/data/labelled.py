"""The one gate between a reader and a `Dataset`: sequences with label strings in, checked and indexed data out.

A reader (`npz`, `long_form`, `ts`) knows its format and names every sequence by where it stands in the file;
`assemble` knows what may be trained on, whatever the format was.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.data.dataset import DataError, Dataset, Split, stratified_split

HELD_OUT_FRACTION = 0.2
# The manifest holds a confusion matrix of all classes; more of them are rather a column that is no label.
MAX_CLASSES = 1000


@dataclass(frozen=True, slots=True, eq=False)
class LabelledSequences:
    """Sequences as a file holds them, unchecked.

    `sequences` are N arrays `(T_i, F_i)` of any numeric dtype, `labels` their N class names, and `origins` say how an
    error names each of them, for example `"gestures.csv, line 12, sequence '7'"`.
    """

    sequences: tuple[NDArray[Any], ...]
    labels: tuple[str, ...]
    origins: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Halves:
    """A data set as a file holds it: `test` is None where the source has no held-out half of its own."""

    name: str
    train: LabelledSequences
    test: LabelledSequences | None


def assemble(halves: Halves, *, source: str, licence: str, seed: int) -> Dataset:
    """Check `halves` and turn them into a `Dataset`; without a test half, a stratified fifth is held out by `seed`.

    Raises `DataError` for: no sequences, an empty sequence, a feature count that differs from the first sequence's, a
    value that is not finite in float32, fewer than two classes or more than `MAX_CLASSES`, a class with a single
    training example, and a test label that no training sequence has. Examples are counted before any are held out.
    """
    sets = [halves.train] if halves.test is None else [halves.train, halves.test]
    for half, labelled in zip(("training", "test"), sets, strict=False):
        if not labelled.sequences:
            raise DataError(f"{halves.name}: got no {half} sequences, allowed is at least one")
    input_size = halves.train.sequences[0].shape[1]
    sequences = [_checked_sequences(labelled, input_size) for labelled in sets]
    labels = _checked_labels(halves)
    index = {label: i for i, label in enumerate(labels)}
    splits = [
        Split(checked, np.array([index[label] for label in labelled.labels], dtype=np.int64))
        for checked, labelled in zip(sequences, sets, strict=True)
    ]
    if halves.test is None:
        train, test = stratified_split(splits[0], fraction=HELD_OUT_FRACTION, seed=seed)
    else:
        train, test = splits
    return Dataset(name=halves.name, source=source, licence=licence, labels=labels, train=train, test=test)


def sort_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """The distinct labels, in numeric order when all of them are finite numbers, else in string order."""
    distinct = sorted(set(labels))
    try:
        numbers = {label: float(label) for label in distinct}
    except ValueError:
        return tuple(distinct)
    if not all(math.isfinite(number) for number in numbers.values()):
        return tuple(distinct)
    return tuple(sorted(distinct, key=numbers.__getitem__))


def _checked_labels(halves: Halves) -> tuple[str, ...]:
    counts = Counter(halves.train.labels)
    labels = sort_labels(counts)
    if len(labels) < 2:
        raise DataError(f"{halves.name}: got {len(labels)} class ({labels[0]!r}), allowed is two or more")
    if len(labels) > MAX_CLASSES:
        raise DataError(f"{halves.name}: got {len(labels)} classes, allowed are {MAX_CLASSES} at most")
    for label in labels:
        if counts[label] < 2:
            origin = halves.train.origins[halves.train.labels.index(label)]
            raise DataError(f"{origin}: class {label!r} has a single training example, allowed is two or more")
    if halves.test is not None:
        for label, origin in zip(halves.test.labels, halves.test.origins, strict=True):
            if label not in counts:
                raise DataError(f"{origin}: test label {label!r} is not in the training set; allowed: {list(labels)}")
    return labels


def _checked_sequences(labelled: LabelledSequences, input_size: int) -> tuple[NDArray[np.float32], ...]:
    pairs = zip(labelled.sequences, labelled.origins, strict=True)
    return tuple(_checked_sequence(sequence, origin, input_size=input_size) for sequence, origin in pairs)


def _checked_sequence(sequence: NDArray[Any], origin: str, *, input_size: int) -> NDArray[np.float32]:
    """One `(T, F)` sequence as finite float32, C-contiguous."""
    if sequence.shape[1] != input_size:
        raise DataError(f"{origin}: got {sequence.shape[1]} features, the first sequence has {input_size}")
    if sequence.size == 0:
        raise DataError(f"{origin}: got an empty sequence of shape {sequence.shape}, allowed is one step or more")
    with np.errstate(over="ignore"):  # an overflow becomes inf and is reported below, with its place
        values = np.ascontiguousarray(sequence, dtype=np.float32)  # (T, F)
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        step, feature = bad[0]
        raise DataError(
            f"{origin}: step {step}, feature {feature} (from 0): got {sequence[step, feature]}, "
            "allowed are numbers that are finite in float32"
        )
    return values
