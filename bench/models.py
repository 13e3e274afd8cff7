"""The two models of the benchmark, made with the project's own export from fixed seeds. They are not trained.

How fast a network runs does not depend on its weights, so random ones do; they are large enough for every sequence to
get an answer of its own, which the check of each server's answers needs.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from model.bundle import (
    EXAMPLES,
    SCHEMA_VERSION,
    Bundle,
    DataSource,
    Epoch,
    Evaluation,
    Example,
    Examples,
    FileEntry,
    Manifest,
    Parity,
    Standardisation,
    TrainingConfig,
    publish,
)

SEED: Final = 20_261_123


@dataclass(frozen=True, slots=True)
class ModelSize:
    """A model and the sequences it is measured with: `steps` is T where a scenario does not say otherwise."""

    name: str
    input_size: int
    hidden_size: int
    num_layers: int
    steps: int
    num_classes: int


TINY: Final = ModelSize("tiny", input_size=5, hidden_size=8, num_layers=1, steps=10, num_classes=3)
MEDIUM: Final = ModelSize("medium", input_size=12, hidden_size=128, num_layers=2, steps=100, num_classes=9)
MODELS: Final = {model.name: model for model in (TINY, MEDIUM)}


def make_model(folder: Path, size: ModelSize) -> Bundle:
    """Publish a network with random parameters in a repository of its own, `folder`/NAME, as this code exports it.

    That of a former run is removed: other code may have exported it.
    """
    import torch

    from model.export import export
    from model.network import LSTMClassifier, NetworkSize

    torch.manual_seed(SEED)
    network = LSTMClassifier(
        NetworkSize(
            size.input_size, size.hidden_size, size.num_layers, bidirectional=False, num_classes=size.num_classes
        )
    ).eval()
    network.linear.weight.data.mul_(4.0)
    files, _, parity = export(network, seed=SEED)
    step = (0.5,) * size.input_size
    example = Example(label="0", sequence=(step, step))
    files[EXAMPLES] = Examples(examples=(example,)).model_dump_json().encode()
    repository = folder / size.name
    if repository.exists():
        shutil.rmtree(repository)
    return publish(repository, size.name, files, lambda version, entries: _describe(size, parity, version, entries))


def _describe(size: ModelSize, parity: Parity, version: int, entries: dict[str, FileEntry]) -> Manifest:
    """A manifest that says that nothing was trained: one sequence as long as those to come, one epoch of no success."""
    classes = range(size.num_classes)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=size.name,
        version=version,
        labels=tuple(str(label) for label in classes),
        input_size=size.input_size,
        hidden_size=size.hidden_size,
        num_layers=size.num_layers,
        bidirectional=False,
        standardisation=Standardisation(mean=(0.0,) * size.input_size, std=(1.0,) * size.input_size),
        data=DataSource(
            name="none",
            source="bench/models.py",
            licence="none",
            train_size=1,
            test_size=1,
            min_length=size.steps,
            max_length=size.steps,
        ),
        training=TrainingConfig(
            epochs=1,
            batch_size=1,
            learning_rate=0.0,
            weight_decay=0.0,
            dropout=0.0,
            input_noise=0.0,
            gradient_clip=1.0,
            validation_fraction=0.0,
            patience=0,
            seed=SEED,
            device="cpu",
            data_parallel=1,
        ),
        trace=(
            Epoch(
                epoch=1,
                loss=0.0,
                accuracy=0.0,
                validation_loss=None,
                validation_accuracy=None,
                learning_rate=0.0,
                duration_s=0.0,
                observation="not trained: made for the benchmark",
            ),
        ),
        evaluation=Evaluation(
            accuracy=0.0, macro_f1=0.0, confusion_matrix=tuple(tuple(0 for _ in classes) for _ in classes)
        ),
        parity=parity,
        files=entries,
    )
