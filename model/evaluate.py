"""How the exported graphs, not the network they came from, do on sequences held out from training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.bundle import Evaluation, Manifest
from model.data import DataError, Dataset, Split, batches_by_length
from model.graphs import Batch, Graph
from model.network import NetworkSize
from model.parity import state_shape

BATCH_SIZE = 64


@dataclass(frozen=True, slots=True)
class Comparison:
    """The evaluation of each graph by its file, and how far the graphs differ from one another."""

    evaluations: dict[str, Evaluation]
    disagreements: int
    sequences: int
    max_difference: float


def evaluate(graphs: Mapping[str, Graph], split: Split, size: NetworkSize) -> Comparison:
    """Classify `split` with each of `graphs`; `split.targets` are positions among the model's classes."""
    probabilities = {file: predict(graph, split, size) for file, graph in graphs.items()}
    stacked = np.stack([*probabilities.values()])  # (graphs, N, K)
    classes = stacked.argmax(axis=2)  # (graphs, N)
    return Comparison(
        evaluations={
            file: score(split.targets, values.argmax(axis=1), num_classes=size.num_classes)
            for file, values in probabilities.items()
        },
        disagreements=int((classes != classes[0]).any(axis=0).sum()),
        sequences=len(split),
        max_difference=float(np.ptp(stacked, axis=0).max()),
    )


def predict(graph: Graph, split: Split, size: NetworkSize) -> NDArray[np.float32]:
    """The probabilities `(N, K)` of `split`, computed in batches of similar length."""
    probabilities = np.empty((len(split), size.num_classes), np.float32)
    for rows, batch in _batches(split, size):
        probabilities[rows] = graph(batch)["probabilities"]
    return probabilities


def score(targets: NDArray[np.int64], predictions: NDArray[np.int64], *, num_classes: int) -> Evaluation:
    """Accuracy, macro-F1 and confusion matrix; a class neither present nor predicted is left out of macro-F1."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (targets, predictions), 1)
    hits = matrix.diagonal()
    counts = matrix.sum(axis=0) + matrix.sum(axis=1)  # true plus predicted, of each class
    return Evaluation(
        accuracy=float(hits.sum() / matrix.sum()),
        macro_f1=float((2 * hits[counts > 0] / counts[counts > 0]).mean()),
        confusion_matrix=tuple(tuple(row) for row in matrix.tolist()),
    )


def held_out_for(manifest: Manifest, data: Dataset) -> Split:
    """The held-out split of `data` with its targets as positions among the model's classes.

    Raises `DataError` when its features or its labels are not those of the model.
    """
    if data.input_size != manifest.input_size:
        raise DataError(
            f"{data.name}: has {data.input_size} features a step, {manifest.name} was trained on {manifest.input_size}"
        )
    if unknown := sorted(set(data.labels) - set(manifest.labels)):
        raise DataError(
            f"{data.name}: label {unknown[0]!r} is unknown to {manifest.name}; its labels are "
            f"{', '.join(manifest.labels)}"
        )
    positions = np.array([manifest.labels.index(label) for label in data.labels], np.int64)
    return Split(data.test.sequences, positions[data.test.targets])


def _batches(split: Split, size: NetworkSize) -> Iterator[tuple[NDArray[np.int64], Batch]]:
    lengths = np.array([len(sequence) for sequence in split.sequences], np.int64)
    for rows in batches_by_length(lengths, most=BATCH_SIZE):
        sequences = np.zeros((len(rows), lengths[rows].max(), size.input_size), np.float32)  # (B, T, F)
        for i, row in enumerate(rows):
            sequences[i, : lengths[row]] = split.sequences[row]
        state = np.zeros(state_shape(size, len(rows)), np.float32)
        yield rows, Batch(sequences, lengths[rows], state, state)
