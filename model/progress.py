"""What training shows while it runs: a bar on a terminal, a line an epoch elsewhere, nothing in the other processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from torch import Tensor

from model.bundle import Epoch


class Progress(Protocol):
    """Told of every batch and every epoch."""

    def advance(self, sequences: int, totals: Tensor) -> None:
        """A batch of `sequences` is done; `totals` (loss, correct, seen) are of the epoch so far."""

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done."""


class NoProgress:
    """Shows nothing."""

    def advance(self, sequences: int, totals: Tensor) -> None:
        """Show nothing."""

    def epoch(self, epoch: Epoch) -> None:
        """Show nothing."""


class LineProgress:
    """Prints one line an epoch."""

    def __init__(self, *, epochs: int) -> None:
        self.epochs = epochs
        self.sequences = 0  # of this epoch
        self.elapsed_s = 0.0

    def advance(self, sequences: int, totals: Tensor) -> None:  # noqa: ARG002  # Progress'
        """Count for the rate."""
        self.sequences += sequences

    def epoch(self, epoch: Epoch) -> None:
        """Print the epoch's figures and rate, and the time left at the mean pace."""
        self.elapsed_s += epoch.duration_s
        left_s = self.elapsed_s / epoch.epoch * (self.epochs - epoch.epoch)
        print(
            f"epoch {epoch.epoch:>{len(str(self.epochs))}}/{self.epochs}  loss {epoch.loss:.3f}"
            f"  accuracy {epoch.accuracy:6.1%}  {self.sequences / epoch.duration_s:,.0f} sequences/s"
            f"  {left_s:.0f} s left",
            flush=True,
        )
        self.sequences = 0


class BarProgress:
    """Moves a bar."""

    def __init__(self, bar: Bar, *, epochs: int, sequences: int) -> None:
        self.bar = bar
        self.epochs = epochs
        self.task = bar.add_task("", total=epochs * sequences, epoch=f"1/{epochs}", figures="")

    def advance(self, sequences: int, totals: Tensor) -> None:
        """Move on by a batch, with the epoch's loss and accuracy so far."""
        loss, correct, seen = totals.tolist()
        speed = self.bar.tasks[self.task].speed or 0.0
        figures = f"loss {loss / seen:.3f}  accuracy {correct / seen:.1%}  {speed:,.0f} sequences/s"
        self.bar.update(self.task, advance=sequences, figures=figures)

    def epoch(self, epoch: Epoch) -> None:
        """Count the epoch."""
        self.bar.update(self.task, epoch=f"{min(epoch.epoch + 1, self.epochs)}/{self.epochs}")


@contextmanager
def show_progress(*, epochs: int, sequences: int) -> Iterator[Progress]:
    """Show the training of `epochs` over `sequences` each on standard output, as suits what that is."""
    console = Console()
    if not console.is_terminal:
        yield LineProgress(epochs=epochs)
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
    )
    with Bar(*columns, console=console) as bar:
        yield BarProgress(bar, epochs=epochs, sequences=sequences)
