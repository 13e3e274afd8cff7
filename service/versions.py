"""One model's versions: what is known of each, which of them to serve, the step from one set of them to the next.

    plan: keep, or load and warm, what is wanted ─▶ coming ─▶ switch ─▶ serving; what is replaced is released

What is served stays in memory until something else takes its place: a version that becomes corrupt, is deleted or
hidden goes on answering.
"""

import asyncio
import ctypes
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from zlib import crc32

from model.bundle import BundleError, Fingerprint, open_bundle
from service import engine
from service.backends import BackendError, Runtime
from service.engine import Engine, EngineLimits
from service.metrics import Metrics

_UNLOADED = "unloaded on request"

logger = logging.getLogger(__name__)


class State(StrEnum):
    """Where a model version stands; the names are Triton's."""

    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True, slots=True)
class VersionState:
    """One line of the index. `reason`: why it is not ready, or what is wrong on disk with one that is."""

    name: str
    version: int
    state: State
    reason: str


@dataclass(slots=True)
class _Version:
    """What is known of one version. `refusal` is about the content that has `fingerprint`, `absence` about now."""

    engine: Engine | None = None
    fingerprint: Fingerprint | None = None
    state: State = State.LOADING
    refusal: str = ""
    absence: str = ""


class Loader:
    """Makes engines out of bundles of one repository."""

    def __init__(self, repository: Path, runtime: Runtime, *, limits: EngineLimits, metrics: Metrics) -> None:
        self.repository = repository
        self.metrics = metrics
        self.device_fault: BackendError | None = None  # the last one
        self._runtime = runtime
        self._limits = limits
        # As it was asked for: which runtimes are kept differs with what each worker measured.
        self.where = {"backend": runtime.backend, "device": runtime.device}

    async def load(self, name: str, number: int, *, replaces: Engine | None) -> Engine:
        """The engine of `name`/`number`: `replaces` if it has the same content, else a new one, warm.

        Raises `BundleError` if it cannot be had, be it the bundle's fault or the device's.
        """
        bundle = await asyncio.to_thread(open_bundle, self.repository / name / str(number))
        if replaces is not None and replaces.manifest == bundle.manifest:  # with the hash of every file
            return replaces
        cores = self._runtime.cores
        cores.take()
        try:
            loaded = await asyncio.to_thread(engine.load, bundle, self._runtime, self._limits)
        except BackendError as error:
            self.device_fault = error
            raise BundleError(str(error)) from error
        finally:
            cores.give_back()
        made = Engine(loaded, limits=self._limits, metrics=self.metrics, cores=cores)
        self.metrics.loaded(model=name, version=made.version, duration_s=loaded.duration_s, **self.where)
        fields = {
            "backend": made.backend.name,
            "device": made.backend.device,
            "precision": made.backend.precision,
            "threads": self._runtime.threads,
            "lone_threads": max(self._runtime.threads, self._runtime.lone_threads),
            "computed_by": made.costs.summary(),
            "duration_s": round(loaded.duration_s, 3),
        }
        logger.info("%s/%s is loaded", name, made.version, extra={"fields": fields})
        logger.debug("%s/%s: ms of a run of sequences x steps: %s", name, made.version, made.costs)
        return made


class Model:
    """The versions of one model. `serving` is what answers; `coming` is what the next `switch` makes of it."""

    def __init__(self, name: str, policy: str, loader: Loader) -> None:
        self.name = name
        self.serving: dict[int, Engine] = {}
        self.coming: dict[int, Engine] = {}
        self._policy = policy
        self._loader = loader
        self._versions: dict[int, _Version] = {}
        self._hidden = ""  # why its folder cannot be listed
        self._farewell = ""  # why what the next switch takes away goes
        self._releasing: dict[asyncio.Task[None], Engine] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to say of it."""
        return bool(self._versions or self._hidden or self._releasing)

    @property
    def engines(self) -> list[Engine]:
        """All that may be computing: what is served, and what is being released."""
        return [*self.serving.values(), *self._releasing.values()]

    @property
    def held(self) -> list[int]:
        """The versions that can answer if they are named, ascending."""
        return sorted(self.serving.keys() | self.coming.keys())

    @property
    def refused(self) -> list[str]:
        """The contents that cannot be loaded, ascending by version."""
        return [self.content(number) for number, one in sorted(self._versions.items()) if one.refusal]

    def content(self, number: int) -> str:
        """Name version `number` and what its folder held when it was looked at; the same in every worker."""
        return f"{number}@{crc32(repr(self._versions[number].fingerprint).encode()):08x}"

    @property
    def fault(self) -> str:
        """What keeps it from being served as it is wanted: its folder, or the newest version that was refused."""
        refusals = [one.refusal for _, one in sorted(self._versions.items(), reverse=True) if one.refusal]
        return self._hidden or next(iter(refusals), "")

    def states(self) -> list[VersionState]:
        """Its lines of the index, ascending."""
        return [
            VersionState(self.name, number, one.state, one.refusal or one.absence)
            for number, one in sorted(self._versions.items())
        ]

    def plan_to_unload(self, numbers: Sequence[int]) -> None:
        """Let nothing be served after the next switch, on request; `numbers` are the versions in the repository."""
        self._hidden, self._farewell = "", _UNLOADED
        self._come({})
        wanted, at_most = choose_versions(self._policy, sorted({*numbers, *self.serving}))
        self._forget_all_but(wanted[:at_most])
        for number in wanted[:at_most]:
            one = self._versions.setdefault(number, _Version(state=State.UNAVAILABLE))
            one.refusal, one.absence = "", _UNLOADED

    def plan_to_stay(self, reason: str) -> None:
        """Let the same be served after the next switch, from memory, since its folder is out of reach."""
        self._hidden = reason
        self._come(dict(self.serving))
        for number in self.serving:
            self._versions[number].absence = f"served from memory: {reason}"

    async def plan(self, found: Mapping[int, Fingerprint], *, again: bool) -> None:
        """Load what the version policy wants of `found` and is not there yet; `again`: also what was refused before.

        Of a version whose folder has gone, what is in memory serves until the policy has another in its place.
        """
        wanted, at_most = choose_versions(self._policy, sorted(found.keys() | self.serving.keys()))
        wanted.sort(key=lambda number: number not in found)
        self._hidden, self._farewell = "", "replaced"
        coming: dict[int, Engine] = {}
        tried = []
        for number in wanted:
            if len(coming) == at_most:
                break
            tried.append(number)
            one = self._versions.setdefault(number, _Version())
            if number in found:
                one.absence = ""
                await self._bring(number, one, found[number], again=again)
            else:
                one.absence = "served from memory: its folder is gone"
            if one.engine is not None:
                coming[number] = one.engine
        self._come(coming)
        self._forget_all_but(tried)

    def switch(self) -> None:
        """Serve what was planned; what it replaces answers what it has taken, and is released."""
        before, self.serving, self.coming = self.serving, self.coming, {}
        for number in self.serving:
            self._versions[number].state = State.READY
        for number, one in before.items():
            if self.serving.get(number) is not one:
                self._start_release(number, one)

    async def close(self) -> None:
        """Finish all that was taken and release every backend."""
        self._come({})
        self.switch()
        if self._releasing:
            await asyncio.wait(self._releasing)

    def _come(self, coming: dict[int, Engine]) -> None:
        """Replace `coming`, and release what was in it: requests may have named it already."""
        before, self.coming = self.coming, coming
        kept = (*coming.values(), *self.serving.values())
        for number, one in before.items():
            if one not in kept:
                self._start_release(number, one)

    def _start_release(self, number: int, leaving: Engine) -> None:
        """Let `leaving` answer what it has taken. Unless another has its place, its entry stays until the next plan."""
        one = self._versions[number]
        if one.engine is leaving:
            one.engine, one.fingerprint = self.serving.get(number), None
            if one.engine is None:
                one.state, one.refusal, one.absence = State.UNLOADING, "", self._farewell
        if one.engine is None:
            self._loader.metrics.unloaded(model=self.name, version=leaving.version, **self._loader.where)
        task = asyncio.create_task(self._release(number, leaving))
        self._releasing[task] = leaving
        task.add_done_callback(self._released)

    async def _release(self, number: int, leaving: Engine) -> None:
        await leaving.close()
        one = self._versions.get(number)
        if one is not None and one.state is State.UNLOADING:
            one.state = State.UNAVAILABLE
        self._loader.metrics.retired(self.name, leaving.version)
        logger.info("%s/%d is released", self.name, number)

    def _released(self, task: asyncio.Task[None]) -> None:
        del self._releasing[task]
        asyncio.get_running_loop().run_in_executor(None, _give_back_memory)

    async def _bring(self, number: int, one: _Version, fingerprint: Fingerprint, *, again: bool) -> None:
        """Load version `number` if its folder is new or has changed, or it was refused and is to be tried `again`."""
        if one.fingerprint == fingerprint and not (one.refusal and again):
            return
        serving = self.serving.get(number)
        if serving is None:
            one.state = State.LOADING
        try:
            one.engine = await self._loader.load(self.name, number, replaces=serving)
            one.refusal = ""
        except Exception as error:  # whatever one bundle brings up, the others are to be served
            self._refuse(number, one, error)
        one.fingerprint = fingerprint

    def _refuse(self, number: int, one: _Version, error: Exception) -> None:
        self._loader.metrics.load_failed(self.name)
        reason = str(error) if isinstance(error, BundleError) else f"cannot be loaded: {error!r}"
        if one.refusal != reason:
            what = "goes on being served from memory" if number in self.serving else "is not served"
            bug = None if isinstance(error, BundleError) else error
            logger.error("%s/%d %s: %s", self.name, number, what, reason, exc_info=bug)
        one.refusal = reason
        if number not in self.serving:
            one.engine, one.state = None, State.UNAVAILABLE

    def _forget_all_but(self, numbers: Sequence[int]) -> None:
        for number in self._versions.keys() - {*numbers, *self.serving}:
            if self._versions[number].state is not State.UNLOADING:
                del self._versions[number]


def _give_back_memory() -> None:
    """Have the C library return to the system what it keeps of what was freed, if it can; takes a millisecond.

    It keeps it in pieces for each thread: workers that are given versions for hours would grow.
    """
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def choose_versions(policy: str, versions: Sequence[int]) -> tuple[list[int], int]:
    """Which of `versions` to try, in order, and how many of them to serve, by `Settings.version_policy`.

    `latest:N` falls back on an older version for each one that cannot be loaded.
    """
    newest_first = sorted(versions, reverse=True)
    if policy == "all":
        return newest_first, len(newest_first)
    if policy.startswith("latest"):
        _, _, count = policy.partition(":")
        return newest_first, int(count or 1)
    listed = [int(version) for version in policy.split(",")]
    return [version for version in newest_first if version in listed], len(listed)
