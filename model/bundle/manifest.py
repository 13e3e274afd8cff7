"""What a bundle says of itself: the schema of `manifest.json` and of `examples.json`, the names in both graphs.

`Manifest` is valid by construction. The names are a contract: the service, and whoever reads a bundle, go by them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

# 2: with `int8`, 3: with `data.sha256`; services that know an earlier one alone refuse them, and all are read here.
SCHEMA_VERSION = 3
MANIFEST = "manifest.json"
ONNX = "model.onnx"
ONNX_INT8 = "model.int8.onnx"  # the one file that a bundle may lack
TORCHSCRIPT = "model.pt"
WEIGHTS = "weights.npz"
EXAMPLES = "examples.json"
REQUIRED_FILES = frozenset({ONNX, TORCHSCRIPT, WEIGHTS, EXAMPLES})
PARITY_TOLERANCE = 1e-5

# What both graphs take and return, in order. A stack of L layers adds `lower_outputs(L)` at the end.
INPUTS = ("sequences", "lengths", "h0", "c0")
OUTPUTS = ("probabilities", "logits", "last_hidden", "hidden_states", "hn", "cn")

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"


class BundleError(ValueError):
    """A bundle or a repository that cannot be used; the message names the file and the reason."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Standardisation(_Record):
    """What the network does to its input first: `(sequences - mean) / std`, F values each, of the training split."""

    mean: tuple[Finite, ...]
    std: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...]


class DataSource(_Record):
    """The data set that the model was trained on, and how much of it.

    `sha256`: of the file, where the seed of the training chose which sequences are held out.
    """

    name: str
    source: str
    licence: str
    sha256: str | None = None
    train_size: Positive
    test_size: Positive
    min_length: Positive
    max_length: Positive


class TrainingConfig(_Record):
    """Everything that, with the data set, repeats a training run."""

    epochs: Positive
    batch_size: Positive
    learning_rate: Finite
    weight_decay: Finite
    dropout: Fraction
    input_noise: Finite
    gradient_clip: Finite
    validation_fraction: Fraction
    patience: Count
    seed: int
    device: str
    data_parallel: Positive


class Epoch(_Record):
    """One line of the training trace. `loss` and `accuracy` are means over the epoch's batches as they were trained."""

    epoch: Positive
    loss: Finite
    accuracy: Fraction
    validation_loss: Finite | None
    validation_accuracy: Fraction | None
    learning_rate: Finite
    duration_s: Finite
    observation: str


class Evaluation(_Record):
    """How the exported graphs do on the held-out split. `confusion_matrix[i][j]`: class i taken for class j."""

    accuracy: Fraction
    macro_f1: Fraction
    confusion_matrix: tuple[tuple[Count, ...], ...]


class Parity(_Record):
    """The largest difference from eager PyTorch over all outputs and `cases` ragged batches, by file.

    Of a value beyond 1, as a fraction of it. `tolerance`: what was allowed, more than usual if the network's weights
    amplify rounding.
    """

    tolerance: Finite
    cases: Positive
    max_difference: dict[str, Finite]


class Quantisation(_Record):
    """How `model.int8.onnx` does on the held-out split, whoever shares a batch, and what it takes.

    `max_difference`: the largest change of a probability from `model.onnx`. Standardised values beyond `input_bound`,
    the largest of the training split, are clipped to it.
    """

    accuracy: Fraction
    max_difference: Fraction
    input_bound: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FileEntry(_Record):
    """Hash and size of one file of the bundle."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Count


class Example(_Record):
    """A held-out sequence `(T, F)` with its true label."""

    label: str
    sequence: tuple[tuple[Finite, ...], ...]


class Examples(_Record):
    """The content of `examples.json`."""

    examples: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of the pipeline. `shape` is symbolic: B, T and so on, or numbers where they are fixed."""

    name: str
    shape: tuple[str | int, ...]
    description: str


class Manifest(_Record):
    """`manifest.json`: what a bundle is. Valid by construction; the files it names still have to be checked."""

    schema_version: int
    name: Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
    version: Positive
    labels: Annotated[tuple[str, ...], Field(min_length=2)]
    input_size: Positive
    hidden_size: Positive
    num_layers: Positive
    bidirectional: bool
    standardisation: Standardisation
    data: DataSource
    training: TrainingConfig
    trace: Annotated[tuple[Epoch, ...], Field(min_length=1)]
    evaluation: Evaluation
    parity: Parity
    int8: Quantisation | None = None
    files: dict[str, FileEntry]

    @model_validator(mode="after")
    def _sizes_agree(self) -> Self:
        if len(self.standardisation.mean) != self.input_size or len(self.standardisation.std) != self.input_size:
            raise ValueError(f"standardisation must have input_size={self.input_size} values")
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must differ")
        matrix = self.evaluation.confusion_matrix
        if any(len(row) != len(self.labels) for row in (matrix, *matrix)):
            raise ValueError(f"confusion_matrix must be {len(self.labels)} by {len(self.labels)}")
        for file in self.files:
            if file == MANIFEST or Path(file).name != file or file in {".", ".."}:
                raise ValueError(f"files: {file!r} must be a plain file name inside the bundle")
        if missing := sorted(REQUIRED_FILES - self.files.keys()):
            raise ValueError(f"files: {missing[0]!r} is missing")
        for file, entry in self.files.items():
            if entry.size_bytes > self.max_file_bytes:
                raise ValueError(
                    f"files: {file!r} of {entry.size_bytes} bytes, at most {self.max_file_bytes} are taken"
                )
        if (ONNX_INT8 in self.files) != (self.int8 is not None):
            raise ValueError(f"{ONNX_INT8!r} and what was measured of it, int8, come together or not at all")
        return self

    @property
    def num_directions(self) -> int:
        """D: 2 when bidirectional, else 1."""
        return 2 if self.bidirectional else 1

    @property
    def max_file_bytes(self) -> int:
        """What a file of a network of this size may have at most: some times its parameters, and room for the rest."""
        width = self.hidden_size * self.num_directions
        inputs = self.input_size + (self.num_layers - 1) * width  # of all layers together
        cells = 4 * width * (inputs + self.num_layers * (self.hidden_size + 2))
        return 16 * (cells + len(self.labels) * (width + 1)) + 2**26

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of what both graphs return, in order."""
        return OUTPUTS + lower_outputs(self.num_layers)

    def pipeline(self) -> tuple[Stage, ...]:
        """The stages that a batch of sequences goes through, in order, with the shape that each gives."""
        width = self.hidden_size * self.num_directions
        names = lstm_names(self.num_layers)
        cell = f"{'a bidirectional' if self.bidirectional else 'an'} LSTM of {self.hidden_size} units"
        layers = [
            Stage(name, ("B", "T", width), f"{cell} reads {source} step by step and gives one hidden state a step")
            for name, source in zip(names, ("the input", *names[:-1]), strict=True)
        ]
        classes = len(self.labels)
        return (
            Stage("input_sequence", ("B", "T", self.input_size), "raw values, one row a time step"),
            Stage("standardised", ("B", "T", self.input_size), "minus the training mean, over the training deviation"),
            *layers,
            Stage("last_hidden", ("B", width), "the hidden state at each sequence's last valid step"),
            Stage("linear", ("B", classes), "logits: a weighted sum of the hidden state for each class"),
            Stage("softmax", ("B", classes), "probabilities: exponentials of the logits, scaled to sum to one"),
        )


def lstm_names(num_layers: int) -> tuple[str, ...]:
    """The LSTM layers' names in pipeline and trace: `lstm`, or `lstm_0`, `lstm_1`, … in a stack."""
    return ("lstm",) if num_layers == 1 else tuple(f"lstm_{layer}" for layer in range(num_layers))


def lower_outputs(num_layers: int) -> tuple[str, ...]:
    """Graph outputs that hold the hidden states `(B, T, D*H)` of all layers but the top one."""
    return tuple(f"hidden_states_{layer}" for layer in range(num_layers - 1))


def parse_manifest(path: Path, content: bytes) -> Manifest:
    """Validate the manifest `content` read from `path`; raise `BundleError`, naming the field, if it is not one."""
    try:
        version = _SchemaVersion.model_validate_json(content).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(f"{path}: schema version {version} is newer than {SCHEMA_VERSION}, the newest known here")
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{path}: {place + ': ' if place else ''}{first['msg']}") from error


class _SchemaVersion(BaseModel):
    schema_version: int
