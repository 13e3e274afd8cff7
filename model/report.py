"""Plain text for the terminal: the training trace, an evaluation, a manifest and its pipeline."""

import sys
from collections.abc import Mapping, Sequence

from model.bundle import ONNX_INT8, Epoch, Evaluation, Manifest
from model.evaluate import Comparison

BAR_WIDTH = 20
# A confusion matrix of more classes fits no terminal: its largest confusions are shown instead.
MAX_MATRIX_CLASSES = 40
MAX_CONFUSIONS = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"


def show(text: str) -> None:
    """Print `text` at once, with `?` for what standard output cannot encode: no result is lost to a terminal."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)


def bar(value: float, *, full: float) -> str:
    """A horizontal bar of `value`, `BAR_WIDTH` characters wide at `full`, to an eighth of a character."""
    eighths = round(8 * BAR_WIDTH * min(max(value / full, 0.0), 1.0)) if full > 0 else 0
    whole, rest = divmod(eighths, 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: frozenset[int] = frozenset()) -> str:
    """Columns as wide as their widest cell, numbers to the right, the columns in `left` to the left."""
    lines = [header, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]

    def cell(text: str, column: int) -> str:
        return text.ljust(widths[column]) if column in left else text.rjust(widths[column])

    return "\n".join("  ".join(cell(text, column) for column, text in enumerate(line)).rstrip() for line in lines)


def trace_table(trace: Sequence[Epoch]) -> str:
    """The training trace: one line an epoch, with the loss as a bar and what the epoch brought."""
    worst = max(epoch.loss for epoch in trace)
    header, left = ["epoch", "loss", "", "accuracy", "observation"], {2, 4}
    rows = [[str(e.epoch), f"{e.loss:.3f}", bar(e.loss, full=worst), f"{e.accuracy:.1%}", e.observation] for e in trace]
    if trace[0].validation_loss is not None:
        header[4:4], left = ["validation loss", "accuracy"], {2, 6}
        for row, epoch in zip(rows, trace, strict=True):
            row[4:4] = [f"{epoch.validation_loss:.3f}", f"{epoch.validation_accuracy:.1%}"]
    return table(header, rows, left=frozenset(left))


def comparison_text(comparison: Comparison, labels: Sequence[str]) -> str:
    """Each graph's figures and confusion matrix, and whether the graphs agree."""
    parts = [f"{file}: {evaluation_text(each, labels)}" for file, each in comparison.evaluations.items()]
    differing = comparison.disagreements
    verdict = "agree on every sequence" if differing == 0 else f"disagree on {differing} sequences"
    parts.append(
        f"The graphs {verdict} of the {comparison.sequences}; their probabilities differ by at most "
        f"{comparison.max_difference:.1e}."
    )
    return "\n\n".join(parts)


def int8_text(accuracy: float, exact_accuracy: float, max_difference: float) -> str:
    """What 8 bits cost."""
    return (
        f"accuracy {accuracy:.4f}, {exact_accuracy:.4f} in float32; no probability changes by over {max_difference:.4f}"
    )


def evaluation_text(evaluation: Evaluation, labels: Sequence[str]) -> str:
    """Accuracy, macro-F1, and the confusion matrix: a row for each true label, a column for each predicted one."""
    matrix = _matrix(evaluation, labels) if len(labels) <= MAX_MATRIX_CLASSES else _confusions(evaluation, labels)
    return f"accuracy {evaluation.accuracy:.4f}, macro-F1 {evaluation.macro_f1:.4f}\n{matrix}"


def _matrix(evaluation: Evaluation, labels: Sequence[str]) -> str:
    rows = zip(labels, evaluation.confusion_matrix, strict=True)
    return table(["true, by predicted", *labels], [[label, *map(str, row)] for label, row in rows])


def _confusions(evaluation: Evaluation, labels: Sequence[str]) -> str:
    """The largest of the matrix beside its diagonal, the most frequent first."""
    found = [
        (count, true, predicted)
        for true, row in enumerate(evaluation.confusion_matrix)
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    found.sort(key=lambda confusion: (-confusion[0], *confusion[1:]))
    shown = [[labels[true], labels[predicted], str(count)] for count, true, predicted in found[:MAX_CONFUSIONS]]
    return f"{len(found)} confusions of two of the {len(labels)} classes, the most frequent first\n" + table(
        ["true", "predicted", "count"], shown, left=frozenset({0, 1})
    )


def manifest_text(manifest: Manifest) -> str:
    """What `inspect` shows: the manifest in brief, the pipeline with its shapes, the trace, the evaluation."""
    return "\n\n".join(
        [
            table(
                ["", ""], [[name, value] for name, value in _summary(manifest).items()], left=frozenset({0, 1})
            ).strip(),
            "Pipeline (B sequences of T steps)\n"
            + table(
                ["stage", "shape", "what it is"],
                [[s.name, " x ".join(map(str, s.shape)), s.description] for s in manifest.pipeline()],
                left=frozenset({0, 1, 2}),
            ),
            f"Training trace\n{trace_table(manifest.trace)}",
            f"Held-out {evaluation_text(manifest.evaluation, manifest.labels)}",
        ]
    )


def _summary(manifest: Manifest) -> Mapping[str, str]:
    data, training, int8 = manifest.data, manifest.training, manifest.int8
    return {
        "model": f"{manifest.name}, version {manifest.version}",
        "network": f"{manifest.num_layers} LSTM layer{'s' * (manifest.num_layers > 1)} of {manifest.hidden_size} units"
        f"{' in both directions' if manifest.bidirectional else ''}, {manifest.input_size} features a step",
        "labels": ", ".join(manifest.labels),
        "data": f"{data.name}: {data.train_size} sequences to train on, {data.test_size} held out, "
        f"{data.min_length} to {data.max_length} steps",
        "source": f"{data.source} ({data.licence})",
        "training": ", ".join(
            f"{name.replace('_', ' ')} {value}" for name, value in training.model_dump().items() if value is not None
        ),
        "parity": f"within {max(manifest.parity.max_difference.values()):.1e} of PyTorch over {manifest.parity.cases} "
        f"batches ({manifest.parity.tolerance:.0e} is allowed)",
        "int8": f"none: there is no {ONNX_INT8}"
        if int8 is None
        else int8_text(int8.accuracy, manifest.evaluation.accuracy, int8.max_difference),
        "files": ", ".join(f"{file} ({entry.size_bytes:,} bytes)" for file, entry in manifest.files.items()),
    }
