import io

import pytest
import torch
from model_factories import make_epoch
from rich.console import Console

from model import progress
from model.progress import show_progress

TOTALS = torch.tensor([4.0, 6.0, 8.0], dtype=torch.float64)  # loss, correct, seen


@pytest.fixture
def shown(monkeypatch):
    """What a terminal has been sent."""
    terminal = io.StringIO()
    monkeypatch.setattr(
        progress, "Console", lambda: Console(file=terminal, force_terminal=True, color_system=None, width=120)
    )
    return terminal.getvalue


def test_on_a_terminal_a_bar_shows_loss_accuracy_rate_and_time_left(shown):
    with show_progress(epochs=2, sequences=8) as bar:
        bar.advance(8, TOTALS)
        bar.epoch(make_epoch(1))
        bar.advance(8, TOTALS)
    for part in ("epoch 1/2", "epoch 2/2", "loss 0.500", "accuracy 75.0%", "sequences/s", "0:00:00 left"):
        assert part in shown(), part


def test_elsewhere_every_epoch_is_a_line(capsys):
    with show_progress(epochs=10, sequences=8) as lines:
        lines.advance(8, TOTALS)
        lines.epoch(make_epoch(1, loss=0.5, accuracy=0.75, duration_s=2.0))
    assert capsys.readouterr().out == "epoch  1/10  loss 0.500  accuracy  75.0%  4 sequences/s  18 s left\n"
