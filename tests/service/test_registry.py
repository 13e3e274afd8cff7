"""The registry: which versions are served, what a corrupt one does, and how a request's model is found."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from factories import make_bundle

from model.bundle import ONNX
from service.backends import Runtime
from service.batcher import QueueLimits
from service.control import Control
from service.engine import EngineLimits
from service.errors import NotFound, Unavailable
from service.metrics import Metrics
from service.policy import Limits
from service.registry import Registry
from service.settings import load_settings

LIMITS = EngineLimits(Limits(8, 4096), QueueLimits(64, 4096), 100, 10_000)


@asynccontextmanager
async def loaded(repository: Path, *arguments: str) -> AsyncIterator[Registry]:
    settings = load_settings([f"--repository={repository}", *arguments], {})
    registry = Registry(settings, Runtime(("onnx",), "cpu", 1), limits=LIMITS, metrics=Metrics(), control=Control(1))
    await registry.load()
    try:
        yield registry
    finally:
        await registry.close()


def served(repository: Path, *arguments: str) -> list[str]:
    async def run() -> list[str]:
        async with loaded(repository, *arguments) as registry:
            return [f"{engine.name}/{engine.version}" for engine in registry]

    return asyncio.run(run())


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model `m` in versions 1 to 3, model `n` in version 1. Do not write to it."""
    folder = tmp_path_factory.mktemp("versions")
    for seed in range(3):
        make_bundle(folder, "m", seed=seed)
    make_bundle(folder, "n")
    return folder


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest", ["m/3", "n/1"]),
        ("latest:2", ["m/2", "m/3", "n/1"]),
        ("all", ["m/1", "m/2", "m/3", "n/1"]),
        ("1,3", ["m/1", "m/3", "n/1"]),
        ("2,7", ["m/2"]),
    ],
)
def test_each_version_policy_loads_what_it_says(versions: Path, policy: str, expected: list[str]) -> None:
    assert served(versions, f"--version-policy={policy}") == expected


def test_a_model_is_found_by_name_and_version(versions: Path) -> None:
    async def run() -> None:
        async with loaded(versions, "--version-policy=all", "--default-model=n") as registry:
            assert registry.missing == ""
            assert registry.find().name == "n"
            assert [registry.find("m").name, registry.find("m").version] == ["m", "3"]
            assert registry.find("m", "2").version == "2"
            with pytest.raises(NotFound, match="model 'x' is not served; there are: m, n"):
                registry.find("x")
            for version in ("4", "0", "02", "x", "", "\u0661", "9" * 5000):
                with pytest.raises(NotFound, match=r"has no served version .*; there are: 1, 2, 3"):
                    registry.find("m", version)

    asyncio.run(run())


def test_the_default_model_is_the_first_by_name(versions: Path) -> None:
    async def run() -> str:
        async with loaded(versions) as registry:
            return registry.find().name

    assert asyncio.run(run()) == "m"


def test_while_loading_what_is_not_there_yet_is_unavailable(versions: Path) -> None:
    settings = load_settings([f"--repository={versions}"], {})
    registry = Registry(settings, Runtime(("onnx",), "cpu", 1), limits=LIMITS, metrics=Metrics(), control=Control(1))
    assert registry.missing == "still loading"
    for name in (None, "m", "x"):
        with pytest.raises(Unavailable, match="still loading"):
            registry.find(name)


def test_if_the_newest_is_corrupt_the_one_before_it_is_served_and_the_file_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for seed in range(2):
        make_bundle(tmp_path, "m", seed=seed)
    broken = tmp_path / "m" / "2" / ONNX
    broken.write_bytes(broken.read_bytes()[:-1] + b"x")
    assert served(tmp_path) == ["m/1"]
    (error,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "m/2 is not served" in error
    assert str(broken) in error


def test_a_corrupt_model_leaves_the_others_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("m", "n"):
        make_bundle(tmp_path, name)
    (tmp_path / "m" / "1" / "manifest.json").write_text("{}")
    assert served(tmp_path) == ["n/1"]
    assert "m/1 is not served" in caplog.text


@pytest.mark.parametrize("create", [True, False])
def test_an_empty_or_missing_repository_is_explained(
    tmp_path: Path, create: bool, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "bundles"
    if create:
        folder.mkdir()

    async def run() -> None:
        async with loaded(folder) as registry:
            assert f"{folder} holds no model" in registry.missing
            assert "python -m model train" in registry.missing
            with pytest.raises(Unavailable, match="holds no model"):
                registry.find()

    asyncio.run(run())
    assert "not ready" in caplog.text


def test_a_repository_that_is_a_file_is_explained(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "bundles"
    file.write_text("")
    assert served(file) == []
    assert f"{file}: cannot be listed" in caplog.text


def test_a_default_model_that_is_missing_is_explained_and_the_others_answer(versions: Path) -> None:
    async def run() -> None:
        async with loaded(versions, "--default-model=x") as registry:
            assert registry.missing == f"the default model 'x' is not in {versions}"
            assert registry.find("m").version == "3"
            with pytest.raises(Unavailable, match="the default model 'x'"):
                registry.find()

    asyncio.run(run())
