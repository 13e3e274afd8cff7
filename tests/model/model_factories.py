"""Makers of small networks, graphs, data sets and manifests for the tests of `model`."""

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.bundle import (
    EXAMPLES,
    MANIFEST,
    ONNX,
    OUTPUTS,
    SCHEMA_VERSION,
    TORCHSCRIPT,
    WEIGHTS,
    Bundle,
    DataSource,
    Epoch,
    Evaluation,
    FileEntry,
    Manifest,
    Parity,
    Standardisation,
    TrainingConfig,
    lower_outputs,
    publish,
)
from model.bundle.storage import SEAL
from model.data import Dataset, Split
from model.graphs import Graph, open_graphs
from model.network import LSTMClassifier, NetworkSize
from model.onnx_graph import build_onnx
from model.torchscript import build_torchscript

CONTENTS = {ONNX: b"onnx graph", TORCHSCRIPT: b"torchscript", WEIGHTS: b"weights", EXAMPLES: b"examples"}


def make_config(**changes: Any) -> TrainingConfig:
    settings = {
        "epochs": 2,
        "batch_size": 4,
        "learning_rate": 0.01,
        "weight_decay": 0.01,
        "dropout": 0.2,
        "input_noise": 0.1,
        "gradient_clip": 1.0,
        "validation_fraction": 0.0,
        "patience": 0,
        "seed": 0,
        "device": "cpu",
        "data_parallel": 1,
    }
    return TrainingConfig.model_validate(settings | changes)


def make_epoch(number: int = 1, loss: float = 1.0, accuracy: float = 0.5, **changes: Any) -> Epoch:
    figures = {
        "epoch": number,
        "loss": loss,
        "accuracy": accuracy,
        "validation_loss": None,
        "validation_accuracy": None,
        "learning_rate": 0.01,
        "duration_s": 0.1,
        "observation": f"what epoch {number} brought",
    }
    return Epoch.model_validate(figures | changes)


def make_manifest(name: str, version: int, files: dict[str, FileEntry], **changes: Any) -> Manifest:
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "version": version,
        "labels": ("no", "yes"),
        "input_size": 2,
        "hidden_size": 3,
        "num_layers": 1,
        "bidirectional": False,
        "standardisation": Standardisation(mean=(0.0, 1.0), std=(1.0, 2.0)),
        "data": DataSource(
            name="made up", source="a test", licence="none", train_size=9, test_size=4, min_length=1, max_length=5
        ),
        "training": make_config(),
        "trace": (make_epoch(1, 0.8), make_epoch(2, 0.4, 0.75)),
        "evaluation": Evaluation(accuracy=0.75, macro_f1=0.7, confusion_matrix=((2, 1), (0, 1))),
        "parity": Parity(tolerance=1e-5, cases=3, max_difference={ONNX: 2e-7, TORCHSCRIPT: 1e-7}),
        "files": files,
    }
    return Manifest.model_validate(content | changes)


def publish_made_up(repository: Path, name: str = "made-up") -> Bundle:
    return publish(repository, name, CONTENTS, lambda version, files: make_manifest(name, version, files))


def change_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest in `folder` and seal it again, so that only what it says is wrong."""
    content = json.loads((folder / MANIFEST).read_bytes())
    change(content)
    edited = json.dumps(content).encode()
    (folder / MANIFEST).write_bytes(edited)
    (folder / SEAL).write_text(f"{hashlib.sha256(edited).hexdigest()}  {MANIFEST}\n")


@cache
def make_network(num_layers: int, bidirectional: bool) -> LSTMClassifier:
    """A network with random weights, mean and deviation; shared, so leave it as it is."""
    size = NetworkSize(input_size=3, hidden_size=4, num_layers=num_layers, bidirectional=bidirectional, num_classes=3)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = LSTMClassifier(size)
        network.mean.normal_()
        network.std.uniform_(0.5, 2.0)
        for parameter in network.parameters():
            parameter.data.mul_(2.0)
    return network.eval()


def weights_of(network: LSTMClassifier) -> dict[str, np.ndarray]:
    return {name: value.numpy().copy() for name, value in network.state_dict().items()}


@cache
def make_graphs(num_layers: int, bidirectional: bool) -> dict[str, Graph]:
    network = make_network(num_layers, bidirectional)
    files = {
        ONNX: build_onnx(network.size, weights_of(network)),
        TORCHSCRIPT: build_torchscript(network.size, weights_of(network)),
    }
    return open_graphs(files, OUTPUTS + lower_outputs(num_layers))


def make_split(count: int, *, num_classes: int = 2, input_size: int = 2, seed: int = 0) -> Split:
    """Ragged sequences whose every value is near the class index: easy to tell apart."""
    random = np.random.default_rng(seed)
    targets = np.arange(count, dtype=np.int64) % num_classes
    sequences = tuple(
        (target + 0.1 * random.standard_normal((random.integers(1, 6), input_size))).astype(np.float32)
        for target in targets
    )
    return Split(sequences, targets)


def make_dataset(train: Split | None = None, test: Split | None = None, **changes: Any) -> Dataset:
    fields: dict[str, Any] = {"name": "made-up", "source": "a test", "licence": "none", "labels": ("no", "yes")}
    train = make_split(20) if train is None else train
    test = make_split(8, seed=1) if test is None else test
    return Dataset(**(fields | changes), train=train, test=test)
