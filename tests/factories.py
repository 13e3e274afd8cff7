"""Makes what many tests share: published bundles of small untrained networks, and settings around them."""

from pathlib import Path

import numpy as np
import torch

from model.bundle import (
    ONNX,
    ONNX_INT8,
    SCHEMA_VERSION,
    Bundle,
    DataSource,
    Epoch,
    Evaluation,
    Example,
    Examples,
    FileEntry,
    Manifest,
    Standardisation,
    TrainingConfig,
    publish,
)
from model.data import Split
from model.export import export, export_int8
from model.network import LSTMClassifier, NetworkSize


def make_bundle(
    repository: Path,
    name: str = "tiny",
    *,
    input_size: int = 3,
    hidden_size: int = 4,
    num_layers: int = 1,
    bidirectional: bool = False,
    labels: tuple[str, ...] = ("a", "b", "c"),
    seed: int = 0,
) -> Bundle:
    """Publish a network with random parameters, exported and checked as a trained one is."""
    torch.manual_seed(seed)
    size = NetworkSize(input_size, hidden_size, num_layers, bidirectional, len(labels))
    network = LSTMClassifier(size).eval()
    network.mean.copy_(torch.randn(input_size))
    network.std.copy_(torch.rand(input_size) + 0.5)
    files, graphs, parity = export(network, seed=seed)
    held_out = make_held_out(network, seed=seed)
    files[ONNX_INT8], int8 = export_int8(network, graphs[ONNX], train=held_out, test=held_out)
    example = Example(label=labels[0], sequence=((0.5,) * input_size, (1.0,) * input_size))
    files["examples.json"] = Examples(examples=(example,)).model_dump_json().encode()
    classes = len(labels)

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            schema_version=SCHEMA_VERSION,
            name=name,
            version=version,
            labels=labels,
            input_size=input_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            bidirectional=bidirectional,
            standardisation=Standardisation(mean=tuple(network.mean.tolist()), std=tuple(network.std.tolist())),
            data=DataSource(
                name=name,
                source="made up",
                licence="none",
                train_size=9,
                test_size=3,
                min_length=2,
                max_length=8,
            ),
            training=TrainingConfig(
                epochs=1,
                batch_size=1,
                learning_rate=0.01,
                weight_decay=0.0,
                dropout=0.0,
                input_noise=0.0,
                gradient_clip=1.0,
                validation_fraction=0.0,
                patience=0,
                seed=seed,
                device="cpu",
                data_parallel=1,
            ),
            trace=(
                Epoch(
                    epoch=1,
                    loss=1.1,
                    accuracy=0.4,
                    validation_loss=None,
                    validation_accuracy=None,
                    learning_rate=0.01,
                    duration_s=0.1,
                    observation="the first epoch",
                ),
            ),
            evaluation=Evaluation(
                accuracy=1.0,
                macro_f1=1.0,
                confusion_matrix=tuple(tuple(int(i == j) for j in range(classes)) for i in range(classes)),
            ),
            parity=parity,
            int8=int8,
            files=entries,
        )

    return publish(repository, name, files, describe)


def make_held_out(network: LSTMClassifier, *, seed: int = 0, count: int = 60) -> Split:
    """Random sequences of 1 to 12 steps as `network` expects them, of random classes."""
    rng = np.random.default_rng(seed)
    mean, std, size = network.mean.numpy(), network.std.numpy(), network.size
    shapes = [(int(steps), size.input_size) for steps in rng.integers(1, 12, count, endpoint=True)]
    sequences = tuple((mean + std * rng.normal(size=shape)).astype(np.float32) for shape in shapes)
    return Split(sequences, rng.integers(0, size.num_classes, count))


def ragged(rng: np.random.Generator, lengths: tuple[int, ...], input_size: int = 3) -> list[list[list[float]]]:
    """Random sequences of these lengths, as a client would send them in JSON."""
    return [rng.normal(size=(length, input_size)).astype(np.float32).tolist() for length in lengths]
