"""A service, with default settings but for what a test is about, and a model that takes its time; SOAK: for longer."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from factories import make_bundle
from load import Question, make_questions
from processes import ServiceProcess, running_service


@pytest.fixture(scope="session")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with one model of some milliseconds a sequence. Its deviations are below 1: input can overflow."""
    folder = tmp_path_factory.mktemp("heavy")
    make_bundle(folder, "heavy", input_size=2, hidden_size=256, num_layers=2, seed=7)
    return folder


@pytest.fixture(scope="session")
def questions(heavy: Path) -> list[Question]:
    from model.bundle import open_bundle

    return make_questions(open_bundle(heavy / "heavy" / "1"), count=16, sequences=4, steps=150)


@pytest.fixture
def service(heavy: Path) -> Iterator[ServiceProcess]:
    with running_service(heavy, "--workers=2") as process:
        process.wait_until("/health/ready", 200)
        yield process
