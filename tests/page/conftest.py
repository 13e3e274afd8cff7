"""A real service with real models, a real browser, and pages that report what goes wrong in them."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import EXECUTABLE, MISSING, running_browser
from factories import make_bundle
from playwright.sync_api import Browser, Page, expect
from processes import ServiceProcess, running_service

OpenPage = Callable[..., Page]

LIMIT_MS = 15_000  # a machine that others use too can be away for seconds
expect.set_options(timeout=LIMIT_MS)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if not EXECUTABLE and here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=MISSING))


def start_training(repository: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "model", "train", *arguments, "--repository", str(repository)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`reference` (an untrained version 1, a trained 2), `JapaneseVowels`, `long` of 128 units, `both` of all kinds."""
    folder = tmp_path_factory.mktemp("trained")
    make_bundle(folder, "reference", input_size=5, hidden_size=8, labels=("falling", "rising", "zigzag"))
    trainings = [start_training(folder, "reference"), start_training(folder, "JapaneseVowels", "--epochs", "25")]
    make_bundle(folder, "long", input_size=12, hidden_size=128, labels=tuple("abcdefghi"))
    make_bundle(folder, "both", num_layers=2, bidirectional=True, seed=3)
    assert [training.wait(120) for training in trainings] == [0, 0]
    return folder


@pytest.fixture(scope="session")
def service(trained: Path) -> Iterator[ServiceProcess]:
    with running_service(trained, "--version-policy=all") as process:
        process.wait_until("/health/ready", 200)
        yield process


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One a module: Playwright's event loop belongs to this thread while it runs, and other tests have their own."""
    with running_browser() as running:
        yield running


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Open `url` with a context of its own; at the end fail for any console error or request to another host."""
    contexts, faults = [], []

    def open_one(url: str, *, allowed: tuple[str, ...] = (), observe: str = "", **options: Any) -> Page:
        context = browser.new_context(reduced_motion="reduce", **options)
        context.set_default_timeout(LIMIT_MS)
        contexts.append(context)
        context.add_init_script(observe)
        page = context.new_page()
        origin = "/".join(url.split("/")[:3])
        page.on("pageerror", lambda error: faults.append(f"error: {error}"))
        page.on("console", lambda message: _note(message, allowed, faults))
        page.on("request", lambda request: _check_host(request.url, origin, faults))
        page.goto(url)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert not faults


def _note(message: Any, allowed: tuple[str, ...], faults: list[str]) -> None:
    if message.type in {"error", "warning"} and not any(text in message.text for text in allowed):
        faults.append(f"{message.type}: {message.text}")


def _check_host(url: str, origin: str, faults: list[str]) -> None:
    if not url.startswith((f"{origin}/", f"blob:{origin}/", "data:")):
        faults.append(f"request to {url}")
