"""A service with its default settings and a model that takes its time; with SOAK in the environment, for longer."""

import os
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


def port_of(service: ServiceProcess) -> int:
    return int(service.url.rpartition(":")[2])


def resident_mb(service: ServiceProcess) -> float:
    """What all workers hold in memory."""
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in service.serving_processes())
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def restart_peak(service: ServiceProcess) -> None:
    """Forget how much the workers ever held; proc(5), clear_refs."""
    for pid in service.serving_processes():
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_mb(service: ServiceProcess) -> float:
    """The most that all workers held in memory since `restart_peak`."""
    texts = [Path(f"/proc/{pid}/status").read_text() for pid in service.serving_processes()]
    return sum(int(text.partition("VmHWM:")[2].split()[0]) for text in texts) / 2**10
