"""The three commands: train a model into a repository, evaluate one, inspect one."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.bundle import (
    ONNX,
    ONNX_INT8,
    SCHEMA_VERSION,
    TORCHSCRIPT,
    Bundle,
    BundleError,
    DataSource,
    FileEntry,
    Manifest,
    Quantisation,
    Standardisation,
    TrainingConfig,
    check_name,
    check_writable,
    list_models,
    list_versions,
    open_bundle,
    publish,
)
from model.data import Dataset, load
from model.evaluate import evaluate, held_out_for
from model.export import example_file, export, export_int8
from model.graphs import Graph, open_graphs, open_onnx
from model.network import LSTMClassifier, NetworkSize
from model.parity import ExportError
from model.presets import preset_for
from model.progress import NoProgress, show_progress
from model.report import comparison_text, int8_text, manifest_text, show, trace_table
from model.train import TrainingError, choose_device, hold_out, train


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRun:
    """One training, fully decided: what is trained on what, how, and where the result goes."""

    data: Dataset
    name: str
    repository: Path
    size: NetworkSize
    config: TrainingConfig

    def __call__(self, rank: int) -> None:
        """Train as process `rank` of several; rank 0 alone speaks, exports and publishes."""
        if rank == 0:
            train_and_publish(self)
        else:
            train(self.data, self.size, self.config, progress=NoProgress(), rank=rank)


def plan(
    dataset: str,
    *,
    repository: Path,
    name: str | None,
    seed: int,
    device: str,
    data_parallel: int,
    overrides: Mapping[str, Any],
) -> TrainingRun:
    """Load the data and decide everything; `overrides` are the fields of `Preset` that were asked for otherwise."""
    device = choose_device(device)
    data = load(dataset, seed=seed)
    if name is None:
        try:
            check_name(name := data.name)
        except BundleError as error:
            raise TrainingError(f"{error}; choose another with --name") from None
    else:
        check_name(name)
    preset = replace(preset_for(data), **overrides)
    size = NetworkSize(data.input_size, preset.hidden_size, preset.num_layers, preset.bidirectional, len(data.labels))
    settings = {field: value for field, value in asdict(preset).items() if field in TrainingConfig.model_fields}
    config = TrainingConfig(**settings, seed=seed, device=device, data_parallel=data_parallel)
    fitting, _ = hold_out(data.train, config)
    if data_parallel > len(fitting):
        raise TrainingError(f"data-parallel {data_parallel}: there are only {len(fitting)} training sequences")
    if overrides.get("patience") and not config.validation_fraction:
        raise TrainingError("patience: without a validation loss there is nothing to wait for; set validation-fraction")
    return TrainingRun(data, name, repository, size, config)


def train_command(run: TrainingRun) -> None:
    """Train, export, verify, evaluate and publish the next version; print how it went."""
    check_writable(run.repository, run.name)
    if run.config.data_parallel > 1:
        from model.distributed import launch  # here, for the time that its imports take

        launch(run, processes=run.config.data_parallel, device=run.config.device)
    else:
        train_and_publish(run)


def train_and_publish(run: TrainingRun) -> None:
    """Carry out `run` in this process, printing how it goes."""
    data, size, config = run.data, run.size, run.config
    show(
        f"{data.name}: {len(data.train)} sequences to train on, {len(data.test)} held out, "
        f"{data.input_size} features, {len(data.labels)} classes; on {config.device}"
    )
    fitting, _ = hold_out(data.train, config)
    with show_progress(epochs=config.epochs, sequences=len(fitting)) as progress:
        network, trace = train(data, size, config, progress=progress)
    show(f"\n{trace_table(trace)}\n")
    files, graphs, parity = export(network, seed=config.seed)
    comparison = evaluate(graphs, data.test, size)
    show(f"On the {len(data.test)} held-out sequences\n\n{comparison_text(comparison, data.labels)}\n")
    accuracy = comparison.evaluations[ONNX].accuracy
    quantised, int8 = _quantise(network, graphs[ONNX], data, accuracy=accuracy)

    def describe(version: int, entries: dict[str, FileEntry]) -> Manifest:
        return Manifest(
            schema_version=SCHEMA_VERSION,
            name=run.name,
            version=version,
            labels=data.labels,
            input_size=size.input_size,
            hidden_size=size.hidden_size,
            num_layers=size.num_layers,
            bidirectional=size.bidirectional,
            standardisation=Standardisation(mean=tuple(network.mean.tolist()), std=tuple(network.std.tolist())),
            data=_source(data),
            training=config,
            trace=trace,
            evaluation=comparison.evaluations[ONNX],
            parity=parity,
            int8=int8,
            files=entries,
        )

    bundle = publish(run.repository, run.name, files | quantised | example_file(data), describe)
    show(f"Published {run.name}, version {bundle.manifest.version}, in {bundle.folder}")


def _quantise(
    network: LSTMClassifier, exact: Graph, data: Dataset, *, accuracy: float
) -> tuple[dict[str, bytes], Quantisation | None]:
    """The file in 8 bits, by its name, and what was measured of it; neither, printing why, if it cannot be had."""
    try:
        content, int8 = export_int8(network, exact, train=data.train, test=data.test)
    except ExportError as error:
        show(f"Without int8: {error}\n")
        return {}, None
    show(f"{ONNX_INT8}: {int8_text(int8.accuracy, accuracy, int8.max_difference)}\n")
    return {ONNX_INT8: content}, int8


def evaluate_command(repository: Path, model: str, dataset: str) -> None:
    """Print how the published graphs of `model`, as `NAME` or `NAME/VERSION`, do on the held-out part of `dataset`.

    Of a file that is not the one of the training that is all of it.
    """
    bundle = find_bundle(repository, model)
    manifest = bundle.manifest
    # The seed of the training: where a source has no held-out part of its own, another seed would hold out others.
    data = load(dataset, seed=manifest.training.seed)
    graphs = open_graphs({file: bundle.read(file) for file in (ONNX, TORCHSCRIPT)}, manifest.outputs)
    size = NetworkSize(
        manifest.input_size, manifest.hidden_size, manifest.num_layers, manifest.bidirectional, len(manifest.labels)
    )
    which = "held-out sequences"
    if data.sha256 is not None and data.sha256 != manifest.data.sha256 and manifest.schema_version >= 3:
        data, which = data.all_held_out(), "sequences, all there are,"  # which of them it was trained on is not known
        show(f"{data.name} is not the file that {manifest.name} was trained on; sequences of that may be in it.\n")
    held_out = held_out_for(manifest, data)
    comparison = evaluate(graphs, held_out, size)
    show(f"{manifest.name}, version {manifest.version}, on the {len(held_out)} {which} of {data.name}\n")
    show(comparison_text(comparison, manifest.labels))
    if manifest.int8 is not None:
        quantised = {ONNX: graphs[ONNX], ONNX_INT8: open_onnx(bundle.read(ONNX_INT8))}
        other = evaluate(quantised, held_out, size)
        found, exact = (other.evaluations[file].accuracy for file in (ONNX_INT8, ONNX))
        show(f"\n{ONNX_INT8}: {int8_text(found, exact, other.max_difference)}")


def inspect_command(repository: Path, model: str) -> None:
    """Print the manifest, the pipeline with its shapes and the training trace of `NAME` or `NAME/VERSION`."""
    show(manifest_text(find_bundle(repository, model).manifest))


def find_bundle(repository: Path, model: str) -> Bundle:
    """Open `NAME/VERSION`, or the highest version of `NAME`; raise `BundleError` saying what there is instead."""
    name, slash, version = model.partition("/")
    versions = list_versions(repository, name)
    if not versions:
        models = ", ".join(list_models(repository)) or "none"
        raise BundleError(f"{repository}: no model {name!r}; there is {models}")
    if not slash:
        return open_bundle(repository / name / str(versions[-1]))
    if not re.fullmatch("[0-9]{1,9}", version) or int(version) not in versions:
        raise BundleError(f"{repository / name}: no version {version!r}; there is {', '.join(map(str, versions))}")
    return open_bundle(repository / name / str(int(version)))


def _source(data: Dataset) -> DataSource:
    lengths = [len(sequence) for sequence in (*data.train.sequences, *data.test.sequences)]
    return DataSource(
        name=data.name,
        source=data.source,
        licence=data.licence,
        sha256=data.sha256,
        train_size=len(data.train),
        test_size=len(data.test),
        min_length=min(lengths),
        max_length=max(lengths),
    )
