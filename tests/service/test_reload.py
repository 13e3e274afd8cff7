"""The registry while the repository changes and operators load and unload: what is served, and what is said."""

import asyncio
import copy
import gc
import logging
import shutil
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from factories import make_bundle

from model.bundle import ONNX, Bundle
from service import engine as engine_module
from service.api_v1 import ModelsApi
from service.app import Service
from service.backends import BackendError, Runtime, RuntimeName
from service.batcher import QueueLimits
from service.control import Control, Report, Shared
from service.engine import Engine, EngineLimits
from service.errors import InvalidRequest, NotFound, Unavailable
from service.metrics import Metrics
from service.policy import Limits
from service.readiness import Readiness
from service.registry import Found, Registry
from service.settings import load_settings
from service.versions import State

LIMITS = EngineLimits(Limits(8, 4096), QueueLimits(64, 4096), 100, 10_000)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model `m` in versions 1 to 3, model `n` in version 1, to publish from. Do not write to it."""
    folder = tmp_path_factory.mktemp("shelf")
    for seed in range(3):
        make_bundle(folder, "m", seed=seed)
    make_bundle(folder, "n")
    return folder


class Repository:
    """A folder that a test publishes into, from a shelf of bundles, with the counters of what reads it."""

    def __init__(self, folder: Path, shelf: Path) -> None:
        self.folder = folder
        self.shelf = shelf
        self.metrics = Metrics()
        folder.mkdir()

    def publish(self, *versions: str, corrupt: bool = False) -> None:
        """Make each of `versions`, such as "m/2", appear in one step, as `publish` does."""
        for version in versions:
            staging = self.folder / ".staging-test"
            shutil.copytree(self.shelf / version, staging)
            if corrupt:
                spoil(staging)
            (self.folder / version).parent.mkdir(exist_ok=True)
            staging.rename(self.folder / version)

    def delete(self, version: str) -> None:
        shutil.rmtree(self.folder / version)

    def scraped(self, name: str, **labels: str) -> float | None:
        return self.metrics._registry.get_sample_value(name, labels)

    @asynccontextmanager
    async def served(self, *arguments: str) -> AsyncIterator[Registry]:
        settings = load_settings([f"--repository={self.folder}", *arguments], {})
        runtime = Runtime(("onnx",), "cpu", 1)
        registry = Registry(settings, runtime, limits=LIMITS, metrics=self.metrics, control=Control(1))
        await registry.load()
        try:
            yield registry
        finally:
            await registry.close()


@pytest.fixture
def repository(tmp_path: Path, shelf: Path) -> Repository:
    return Repository(tmp_path / "bundles", shelf)


def spoil(folder: Path) -> None:
    content = (folder / ONNX).read_bytes()
    (folder / ONNX).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def serving(registry: Registry) -> list[str]:
    return [f"{engine.name}/{engine.version}" for engine in registry]


def index(registry: Registry) -> list[str]:
    return [f"{one.name}/{one.version} {one.state} {one.reason}".rstrip() for one in registry.index()]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


async def released(registry: Registry) -> None:
    """Wait until what was replaced has been released: on a busy machine that takes longer than the next look."""
    await asyncio.sleep(0)  # until it has begun to be released
    async with asyncio.timeout(10):
        while any("UNLOADING" in line for line in index(registry)):
            await asyncio.sleep(0.001)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


def test_a_new_version_takes_the_place_of_the_old_one(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            repository.publish("m/2", "n/1")
            await registry.sync()
            assert serving(registry) == ["m/2", "n/1"]
            assert registry.find("m").version == "2"
            with pytest.raises(NotFound, match="no served version '1'; there are: 2"):
                registry.find("m", "1")
            await released(registry)
            await registry.sync()
            assert index(registry) == ["m/2 READY", "n/1 READY"]
            gone, come = ({"model": "m", "version": v, "backend": "onnx", "device": "cpu"} for v in "12")
            assert repository.scraped("lstm_model_info", **gone) == 0
            assert repository.scraped("lstm_model_info", **come) == 1

    run(test)


def test_when_nothing_has_changed_nothing_is_done(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1", "n/1")
        async with repository.served() as registry:
            before = list(registry)
            for _ in range(3):
                await registry.sync()
            assert [*map(id, registry)] == [*map(id, before)]
            assert repository.scraped("lstm_model_load_duration_seconds_count") == 2

    run(test)


def test_two_at_once_load_a_version_once(repository: Repository) -> None:
    async def test() -> None:
        async with repository.served() as registry:
            repository.publish("m/1")
            await asyncio.gather(*(registry.sync() for _ in range(3)))
            assert repository.scraped("lstm_model_load_duration_seconds_count") == 1

    run(test)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("latest", ["m/3"]),
        ("latest:2", ["m/2", "m/3"]),
        ("all", ["m/1", "m/2", "m/3"]),
        ("1", ["m/1"]),
        ("1,3", ["m/1", "m/3"]),
    ],
)
def test_each_version_policy_holds_when_versions_come_one_by_one(
    repository: Repository, policy: str, expected: list[str]
) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served(f"--version-policy={policy}") as registry:
            for version in ("m/2", "m/3"):
                repository.publish(version)
                await registry.sync()
            assert serving(registry) == expected

    run(test)


def test_a_corrupt_new_version_is_refused_once_and_the_old_one_goes_on(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            repository.publish("m/2", corrupt=True)
            for _ in range(3):
                await registry.sync()
            assert serving(registry) == ["m/1"]
            ready, refused = index(registry)
            assert ready == "m/1 READY"
            assert refused.startswith("m/2 UNAVAILABLE ")
            assert f"{ONNX}: content differs" in refused
            (logged,) = errors(caplog)
            assert "m/2 is not served: " in logged
            assert repository.scraped("lstm_model_load_failures_total", model="m") == 1

    run(test)


def test_a_corrupt_version_that_is_mended_is_served(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            repository.publish("m/2", corrupt=True)
            await registry.sync()
            spoil(repository.folder / "m" / "2")  # the same bit once more
            await registry.sync()
            await released(registry)
            await registry.sync()
            assert index(registry) == ["m/2 READY"]

    run(test)


def test_a_version_that_is_copied_file_by_file_is_served_when_it_is_whole(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            folder = repository.folder / "m" / "2"
            folder.mkdir()
            for file in sorted((repository.shelf / "m" / "2").iterdir()):
                assert serving(registry) == ["m/1"]
                (folder / file.name).write_bytes(file.read_bytes()[: file.stat().st_size // 2])
                await registry.sync()
                (folder / file.name).write_bytes(file.read_bytes())
                await registry.sync()
            assert serving(registry) == ["m/2"]

    run(test)


def test_to_load_a_corrupt_version_is_an_error_that_says_why_and_tries_again(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            repository.publish("m/2", corrupt=True)
            for attempt in (1, 2):
                with pytest.raises(InvalidRequest, match=r"failed to load 'm': .*model.onnx: content differs"):
                    await registry.load_model("m")
                assert repository.scraped("lstm_model_load_failures_total", model="m") == attempt
            assert serving(registry) == ["m/1"]

    run(test)


def test_what_is_unloaded_stays_so_until_it_is_loaded(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1", "n/1")
        async with repository.served() as registry:
            await registry.unload_model("m")
            await registry.unload_model("m")
            repository.publish("m/2")
            await registry.sync()
            assert serving(registry) == ["n/1"]
            assert index(registry) == ["m/2 UNAVAILABLE unloaded on request", "n/1 READY"]
            with pytest.raises(NotFound, match="model 'm' is unloaded"):
                registry.find("m")
            assert registry.find().name == "n"
            await registry.load_model("m")
            assert serving(registry) == ["m/2", "n/1"]
            assert index(registry) == ["m/2 READY", "n/1 READY"]

    run(test)


def test_the_same_version_comes_back_after_unloading(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            await registry.unload_model("m")
            assert registry.missing == "unloaded on request: m"
            await registry.load_model("m")
            assert registry.missing == ""
            assert index(registry) == ["m/1 READY"]

    run(test)


def test_a_model_that_does_not_exist_can_neither_be_loaded_nor_unloaded(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            with pytest.raises(NotFound, match="'x' is not in the repository"):
                await registry.load_model("x")
            with pytest.raises(NotFound, match="'x' is not served"):
                await registry.unload_model("x")

    run(test)


def test_to_load_what_the_policy_leaves_out_is_an_error(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served("--version-policy=2") as registry:
            with pytest.raises(InvalidRequest, match="version policy 2 leaves nothing"):
                await registry.load_model("m")

    run(test)


def test_an_empty_repository_can_be_filled_while_it_is_served(repository: Repository) -> None:
    async def test() -> None:
        async with repository.served() as registry:
            assert "holds no model" in registry.missing
            repository.publish("m/1")
            await registry.sync()
            assert registry.missing == ""

    run(test)


@pytest.mark.parametrize("what", ["m/1", "m", "."])
def test_what_is_deleted_under_the_service_is_served_from_memory_until_it_is_back(
    repository: Repository, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            before = registry.find("m")
            away = repository.folder.parent / "away"
            (repository.folder / what).rename(away)
            for _ in range(2):
                await registry.sync()
            assert registry.find("m") is before
            (line,) = index(registry)
            assert line.startswith("m/1 READY served from memory: ")
            away.rename(repository.folder / what)
            await released(registry)
            await registry.sync()
            assert index(registry) == ["m/1 READY"]
            assert registry.find("m") is before

    run(test)
    assert len(errors(caplog)) == (what == ".")


def test_a_repository_that_cannot_be_read_changes_nothing_and_is_told_once(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            assert repository.scraped("lstm_repository_readable") == 1
            away = repository.folder.rename(repository.folder.parent / "away")
            repository.folder.write_text("not a folder")
            for _ in range(3):
                await registry.sync()
            assert serving(registry) == ["m/1"]
            assert "cannot be listed" in index(registry)[0]
            assert repository.scraped("lstm_repository_readable") == 0
            repository.folder.unlink()
            away.rename(repository.folder)
            repository.publish("m/2")
            await registry.sync()
            assert serving(registry) == ["m/2"]
            assert repository.scraped("lstm_repository_readable") == 1

    run(test)
    (logged,) = errors(caplog)
    assert "repository cannot be read" in logged


def test_a_model_that_cannot_be_listed_hides_from_no_other(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    iterdir = Path.iterdir

    def refuse(path: Path) -> Iterator[Path]:
        if path.name == "n":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    async def test() -> None:
        repository.publish("m/1", "n/1")
        with monkeypatch.context() as patch:
            patch.setattr(Path, "iterdir", refuse)  # not chmod: root reads all
            async with repository.served() as registry:
                await registry.sync()
                assert serving(registry) == ["m/1"]
                assert repository.scraped("lstm_repository_readable") == 0
                with pytest.raises(InvalidRequest, match="n: cannot be listed: Permission denied"):
                    await registry.load_model("n")
                patch.undo()
                await registry.sync()
                assert serving(registry) == ["m/1", "n/1"]

    run(test)
    (logged,) = errors(caplog)
    assert logged.endswith("n: cannot be listed: Permission denied")


def test_when_the_newest_is_deleted_the_one_before_it_takes_over(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1", "m/2")
        async with repository.served() as registry:
            repository.delete("m/2")
            await registry.sync()
            assert serving(registry) == ["m/1"]

    run(test)


def test_a_served_version_that_becomes_corrupt_goes_on_from_memory_and_says_so(
    repository: Repository, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            before = registry.find("m")
            spoil(repository.folder / "m" / "1")
            await registry.sync()
            assert registry.find("m") is before
            (line,) = index(registry)
            assert line.startswith("m/1 READY ")
            assert "content differs" in line

    run(test)
    assert "m/1 goes on being served from memory" in errors(caplog)[0]


def test_other_content_under_the_same_number_is_served_and_the_same_content_is_not_loaded_again(
    repository: Repository,
) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            before = registry.find("m")
            repository.delete("m/1")
            repository.publish("m/1")
            await registry.sync()
            assert registry.find("m") is before
            other = repository.folder.parent / "other"
            make_bundle(other, "m", seed=9)
            repository.delete("m/1")
            shutil.copytree(other / "m" / "1", repository.folder / "m" / "1")
            await registry.sync()
            assert registry.find("m") is not before
            await released(registry)
            await registry.sync()
            assert index(registry) == ["m/1 READY"]
            where = {"model": "m", "version": "1", "backend": "onnx", "device": "cpu"}
            assert repository.scraped("lstm_model_info", **where) == 1

    run(test)


def test_a_replaced_version_answers_what_was_routed_to_it_and_only_then_is_released(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            routed = registry.find("m")
            with routed.in_use:
                repository.publish("m/2")
                await registry.sync()
                await asyncio.sleep(0)
                assert index(registry) == ["m/1 UNLOADING replaced", "m/2 READY"]
            await asyncio.sleep(0.05)
            assert index(registry) == ["m/1 UNAVAILABLE replaced", "m/2 READY"]

    run(test)


def test_nothing_of_a_replaced_version_stays_in_memory(repository: Repository) -> None:
    def watch(engine: Engine) -> list[weakref.ref[Any]]:
        return [weakref.ref(engine), weakref.ref(engine.backend)]

    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            watched = watch(registry.find("m"))
            repository.publish("m/2")
            await registry.sync()
            watched += watch(registry.find("m"))
            await registry.unload_model("m")
            await asyncio.sleep(0.05)
            gc.collect()
            assert [one() for one in watched] == [None] * 4

    run(test)


def test_a_device_that_fails_ends_the_start_and_later_refuses_a_version(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = engine_module.load_backend

    def fail_on_the_second(bundle: Bundle, name: RuntimeName, runtime: Runtime) -> Any:
        if bundle.manifest.version == 2:
            raise BackendError("out of memory")
        return load(bundle, name, runtime)

    monkeypatch.setattr(engine_module, "load_backend", fail_on_the_second)

    async def test() -> None:
        repository.publish("m/1")
        async with repository.served() as registry:
            repository.publish("m/2")
            await registry.sync()
            assert index(registry) == ["m/1 READY", "m/2 UNAVAILABLE out of memory"]
        with pytest.raises(BackendError, match="out of memory"):
            async with repository.served():
                pass

    run(test)


def test_whatever_one_bundle_brings_up_the_others_are_served(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    load = engine_module.load_backend

    def stumble_over_m(bundle: Bundle, name: RuntimeName, runtime: Runtime) -> Any:
        return load(bundle, name, runtime) if bundle.manifest.name != "m" else bundle.no_such_thing  # type: ignore[attr-defined]

    monkeypatch.setattr(engine_module, "load_backend", stumble_over_m)

    async def test() -> None:
        repository.publish("m/1", "n/1")
        async with repository.served() as registry:
            assert serving(registry) == ["n/1"]
            assert "no_such_thing" in index(registry)[0]

    run(test)
    assert "Traceback" in caplog.text


def test_a_default_model_that_is_unloaded_is_explained(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1", "n/1")
        async with repository.served("--default-model=m") as registry:
            await registry.unload_model("m")
            with pytest.raises(Unavailable, match="the default model 'm' is unloaded on request"):
                registry.find()
            with pytest.raises(NotFound, match="model 'o' is not served; there are: n"):
                registry.find("o")
            listed = await ModelsApi(registry).list_models()
            assert (listed.default_model, [model.name for model in listed.models]) == (None, ["n"])

    run(test)


@asynccontextmanager
async def two_workers(repository: Repository) -> AsyncIterator[list[Registry]]:
    """Two services that share what workers share, with 1 s between their looks at the folder."""
    settings = load_settings([f"--repository={repository.folder}"], {})
    control, readiness = Control(2), Readiness(2)
    services = []
    for worker in range(2):
        hand, state = copy.copy(control), copy.copy(readiness)
        hand.become_worker(worker)
        state.become_worker(worker)
        services.append(Service(settings, Runtime(("onnx",), "cpu", 1), state, hand))
    await asyncio.gather(*(service.load() for service in services))
    try:
        yield [service._registry for service in services]
    finally:
        for service in services:
            await service.close()


def test_load_and_unload_on_one_worker_hold_for_all_when_they_return(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1", "n/1")
        async with two_workers(repository) as (one, other):
            for _ in range(3):
                await one.unload_model("m")
                assert [serving(one), serving(other)] == [["n/1"], ["n/1"]]
                await other.load_model("m")
                assert [serving(one), serving(other)] == [["m/1", "n/1"]] * 2
            repository.publish("m/2")
            await asyncio.gather(one.load_model("m"), other.load_model("n"))
            assert [serving(one), serving(other)] == [["m/2", "n/1"]] * 2
            repository.publish("m/3", corrupt=True)
            with pytest.raises(InvalidRequest, match="content differs"):
                await other.load_model("m")
            assert index(one) == index(other)

    run(test)


def test_a_new_version_that_one_worker_tells_of_every_worker_can_answer_for(repository: Repository) -> None:
    async def test() -> None:
        repository.publish("m/1")
        async with two_workers(repository) as workers:
            for version in ("2", "3"):
                repository.publish(f"m/{version}")
                told = None
                async with asyncio.timeout(10):
                    while told != version:
                        await asyncio.sleep(0)
                        for worker in workers:
                            told = worker.find("m").version
                            if told == version:
                                assert [other.find("m", told).version for other in workers] == [told, told]

    run(test)


@asynccontextmanager
async def beside_another(repository: Repository) -> AsyncIterator[tuple[Registry, Control, Control]]:
    """A registry that serves m/1, its hand on the document, and that of a worker which says what a test lets it."""
    repository.publish("m/1")
    control = Control(2)
    other = copy.copy(control)
    control.become_worker(0)
    other.become_worker(1)
    other.report(Report(0, {"m": [1]}))
    settings = load_settings([f"--repository={repository.folder}"], {})
    runtime = Runtime(("onnx",), "cpu", 1)
    registry = Registry(settings, runtime, limits=LIMITS, metrics=repository.metrics, control=control)
    control.listen()
    await registry.load()
    try:
        yield registry, control, other
    finally:
        await registry.close()
        control.stop_listening()


async def holds(control: Control, *versions: int) -> None:
    """Wait until the registry has told the others that it holds these of `m`."""
    async with asyncio.timeout(10):
        while control.read().reports[0].held.get("m") != [*versions]:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("unloads", [False, True])
def test_a_worker_that_is_ahead_is_waited_for_unless_it_was_told_to_unload_the_model(
    repository: Repository, unloads: bool
) -> None:
    async def test() -> None:
        async with beside_another(repository) as (registry, control, other):
            repository.publish("m/2")
            # The other has followed a wish that this one, whose look at the folder has begun, does not know yet.
            wishes = control.read().wishes
            generation = other.ask_to_unload("m" if unloads else "n")
            other.report(Report(generation, {} if unloads else {"m": [1]}))
            with pytest.MonkeyPatch.context() as patch:

                def read_too_early() -> Shared:
                    patch.undo()
                    return Shared(wishes, control.read().reports)

                patch.setattr(control, "read", read_too_early)
                look = asyncio.create_task(registry.sync())
                await asyncio.wait([look], timeout=0.5)
                assert look.done() is unloads
                other.report(Report(generation, {"m": [1, 2]}))
                await look
            assert serving(registry) == ["m/2"]

    run(test)


def test_a_worker_that_has_refused_a_version_is_waited_for_unless_it_was_the_same_content(
    repository: Repository,
) -> None:
    async def test() -> None:
        async with beside_another(repository) as (registry, control, other):
            repository.publish("m/2", corrupt=True)
            await registry.sync()
            corrupt = registry._models["m"].content(2)
            other.report(Report(0, {"m": [1]}, {"m": [corrupt]}, {"m": "content differs"}))
            shutil.rmtree(repository.folder / "m" / "2")
            repository.publish("m/2")
            look = asyncio.create_task(registry.sync())
            await holds(control, 1, 2)
            await asyncio.wait([look], timeout=0.2)
            assert not look.done()  # the other has yet to see that it is another one
            good = registry._models["m"].content(2)
            assert good != corrupt
            other.report(Report(0, {"m": [1]}, {"m": [good]}, {"m": "no memory"}))
            await look
            assert serving(registry) == ["m/2"]

    run(test)


def test_a_worker_that_starts_looks_again_when_others_can_wait_for_it(repository: Repository) -> None:
    async def test() -> None:
        async with beside_another(repository) as (registry, control, _):
            control.become_worker(0)  # as one that replaces it
            assert control.read().reports[0].generation == -1
            look, looks = registry._look, 0

            async def look_and_publish() -> Found:
                nonlocal looks
                looks += 1
                found = await look()
                if looks == 1:
                    repository.publish("m/2")  # appears, and may be served by others, right after the first look
                return found

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(registry, "_look", look_and_publish)
                load = asyncio.create_task(registry.load())
                await holds(control, 1, 2)
                load.cancel()
                await asyncio.wait([load])

    run(test)


def test_a_worker_that_waits_for_another_which_has_seen_a_newer_version_looks_again(repository: Repository) -> None:
    async def test() -> None:
        async with beside_another(repository) as (registry, control, other):
            repository.publish("m/2")
            look = asyncio.create_task(registry.sync())
            await holds(control, 1, 2)
            repository.publish("m/3")
            other.report(Report(0, {"m": [1, 3]}))  # it will never have 2
            async with asyncio.timeout(5):
                await look
                assert serving(registry) == ["m/3"]
                while len(registry._models["m"].engines) > 1:
                    await asyncio.sleep(0.01)
            assert [(state.version, state.state) for state in registry.index() if state.version == 2] == [
                (2, State.UNAVAILABLE)
            ]

    run(test)


def test_content_that_was_to_replace_what_is_served_and_then_was_not_takes_nothing_with_it(
    repository: Repository,
) -> None:
    async def test() -> None:
        async with beside_another(repository) as (registry, _, other):
            serves = registry.find("m")
            make_bundle(repository.folder.parent / "other", "m", seed=9)
            shutil.rmtree(repository.folder / "m" / "1")
            (repository.folder.parent / "other" / "m" / "1").rename(repository.folder / "m" / "1")
            repository.publish("n/1")  # which the other worker does not hold yet, so that nothing is switched
            look = asyncio.create_task(registry.sync())
            async with asyncio.timeout(10):
                while registry._models["m"].coming.get(1) in {None, serves}:
                    await asyncio.sleep(0.01)
                repository.publish("m/2")
                while registry._models["m"].coming.keys() != {2} or len(registry._models["m"].engines) > 1:
                    await asyncio.sleep(0.01)
                where = {"model": "m", "version": "1", "backend": "onnx", "device": "cpu"}
                assert registry.find("m") is serves
                assert "m/1 READY" in index(registry)
                assert repository.scraped("lstm_model_info", **where) == 1
                other.report(Report(0, {"m": [1, 2], "n": [1]}))
                await look
            assert serving(registry) == ["m/2", "n/1"]
            assert repository.scraped("lstm_model_info", **where) == 0

    run(test)
