"""The command line: `python -m model train|evaluate|inspect`. See the README's section on training."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TypeVar

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
DEFAULT_REPOSITORY = "bundles"
Number = TypeVar("Number", int, float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit status; errors are one line on standard error."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except KeyboardInterrupt:
        return _fail("interrupted: a version is published whole or not at all", EXIT_INTERRUPTED)


def _run(options: argparse.Namespace) -> int:
    try:
        with _ended_by_interrupts():
            import torch

            from model.bundle import BundleError
            from model.commands import evaluate_command, inspect_command, plan, train_command
            from model.data import DataError
            from model.graphs import import_onnxruntime
            from model.parity import ExportError
            from model.presets import Preset
            from model.train import TrainingError

            import_onnxruntime()  # before a training, not after it
    except ModuleNotFoundError as error:
        return _fail(f"{error.name} is not installed: pip install 'lstm-serve[train]'", EXIT_FAILED)
    torch.set_num_threads(1)  # as training does; PyTorch's default is the host's cores, whatever the container's quota
    try:
        if options.command == "train":
            overrides = {f.name: getattr(options, f.name) for f in fields(Preset)}
            train_command(
                plan(
                    options.dataset,
                    repository=options.repository,
                    name=options.name,
                    seed=options.seed,
                    device=options.device,
                    data_parallel=options.data_parallel,
                    overrides={name: value for name, value in overrides.items() if value is not None},
                )
            )
        elif options.command == "evaluate":
            evaluate_command(options.repository, options.model, options.dataset)
        else:
            inspect_command(options.repository, options.model)
    except (BundleError, DataError, TrainingError) as error:
        return _fail(str(error), EXIT_BAD_INPUT)
    except ExportError as error:
        return _fail(str(error), EXIT_FAILED)
    except BrokenPipeError:  # whoever read has read enough; Python would say so once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), EXIT_FAILED)
    return 0


@contextmanager
def _ended_by_interrupts() -> Iterator[None]:
    """Let SIGINT end the process at once: raised amid an import, `KeyboardInterrupt` aborts or comes out as another."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as by nohup, or not ours to change
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _fail(message: str, status: int) -> int:
    print(f"python -m model: {message}", file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model", description="Train, evaluate and inspect LSTM classifiers."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    repository = argparse.ArgumentParser(add_help=False)
    repository.add_argument(
        "--repository",
        type=Path,
        default=Path(os.environ.get("LSTM_REPOSITORY") or DEFAULT_REPOSITORY),
        help="folder of the bundles (default: LSTM_REPOSITORY, else %(default)s)",
    )
    dataset = "reference, a set that ships inside aeon, or a .npz, .csv, .parquet or .ts file"
    _add_train(commands.add_parser("train", parents=[repository], help="train a model and publish it"), dataset)
    evaluate = commands.add_parser("evaluate", parents=[repository], help="classify held-out sequences with a bundle")
    evaluate.add_argument("model", metavar="NAME[/VERSION]", help="the highest version if none is named")
    evaluate.add_argument("dataset", metavar="DATASET", help=dataset)
    inspect = commands.add_parser("inspect", parents=[repository], help="show what a bundle is and how it was trained")
    inspect.add_argument("model", metavar="NAME[/VERSION]", help="the highest version if none is named")
    return parser


def _add_train(parser: argparse.ArgumentParser, dataset: str) -> None:
    add = parser.add_argument
    add("dataset", metavar="DATASET", help=dataset)
    add("--name", help="name of the model (default: the data set's)")
    add(
        "--seed", type=_number(int, 0, 2**31), default=0, help="repeats the training bit for bit on the CPU (default 0)"
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto takes CUDA where there is a GPU")
    add("--data-parallel", type=_number(int, 1, 1024), default=1, metavar="N", help="train in N processes (default 1)")
    settings = parser.add_argument_group("settings", "each has a default that depends on the data set")
    add = settings.add_argument
    add("--hidden-size", type=_number(int, 1, 4096), metavar="H", help="units of each LSTM layer and direction")
    add("--num-layers", type=_number(int, 1, 64), metavar="L", help="LSTM layers, one on another")
    add("--bidirectional", action=argparse.BooleanOptionalAction, help="read each sequence from both ends")
    add("--epochs", type=_number(int, 1, 2**31), metavar="N", help="passes over the training data")
    add("--batch-size", type=_number(int, 1, 2**31), metavar="N", help="sequences in a step of the optimiser")
    add("--learning-rate", type=_number(float, 1e-9), metavar="X", help="peak of the one-cycle schedule")
    add("--weight-decay", type=_number(float, 0), metavar="X", help="of AdamW")
    add("--dropout", type=_number(float, 0, 0.99), metavar="P", help="between layers and before the classifier")
    add("--input-noise", type=_number(float, 0), metavar="X", help="deviation of noise on the standardised input")
    add("--gradient-clip", type=_number(float, 1e-9), metavar="X", help="largest norm of the gradient")
    add("--validation-fraction", type=_number(float, 0, 0.9), metavar="P", help="held out of the training data")
    add(
        "--patience",
        type=_number(int, 0),
        metavar="N",
        help="epochs without a better validation loss, which needs a validation fraction; 0: never stop",
    )


def _number(kind: Callable[[str], Number], low: float, high: float = float("inf")) -> Callable[[str], Number]:
    def parse(text: str) -> Number:
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not low <= value <= high or value == float("inf"):
            allowed = f"from {low:.10g} to {high:.10g}" if high < float("inf") else f"of at least {low:g}"
            whole = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {whole} {allowed}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())
