"""All model versions that are served, kept equal to what the repository, the version policy and the operators want.

    survey ─▶ every model plans, loads and warms ─▶ all workers hold what is coming ─▶ every model switches

`sync` does all of it, changes nothing when nothing has changed, and may be called at any time.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from time import monotonic

from model.bundle import BundleError, Fingerprint, survey
from service.backends import Runtime
from service.control import Control, Report, Wishes
from service.engine import Engine, EngineLimits
from service.errors import InvalidRequest, NotFound, Unavailable
from service.metrics import Metrics
from service.settings import Settings
from service.versions import Loader, Model, VersionState

# How long a worker waits for the others to hold what it is about to serve, and a caller for all to have done it.
_SWITCH_TIMEOUT_S = 10.0
# A worker that waits may have seen one version, and the one that it waits for the next, which came since.
_LOOK_AGAIN_S = 0.5
_FOLLOW_TIMEOUT_S = 60.0

# By model: its versions and what each folder holds, or why it cannot be listed.
Found = Mapping[str, Mapping[int, Fingerprint] | BundleError]

logger = logging.getLogger(__name__)


class Registry:
    """The served engines by name and version. Belongs to one event loop."""

    def __init__(
        self, settings: Settings, runtime: Runtime, *, limits: EngineLimits, metrics: Metrics, control: Control
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._control = control
        self._loader = Loader(settings.repository, runtime, limits=limits, metrics=metrics)
        self._models: dict[str, Model] = {}
        self._served: dict[str, Model] = {}  # those of them that serve a version
        self._wishes = Wishes(generation=-1)
        self._hidden: set[str] = set()  # what cannot be listed, and why
        self._syncing = asyncio.Lock()

    @property
    def missing(self) -> str:
        """Why no request can be answered yet; empty once the repository is loaded and the default model is in it."""
        repository, default = self._settings.repository, self._settings.default_model
        if self._wishes.generation < 0:
            return "still loading"
        if not self._served:
            if names := self._models.keys() & set(self._wishes.unloaded):
                return f"unloaded on request: {', '.join(sorted(names))}"
            return f"{repository} holds no model that can be served; train one: python -m model train reference"
        if default is not None and default not in self._served:
            unloaded = default in self._wishes.unloaded
            return f"the default model {default!r} is {'unloaded on request' if unloaded else f'not in {repository}'}"
        return ""

    def __iter__(self) -> Iterator[Engine]:
        """Every served version, by name, then ascending."""
        for _, model in sorted(self._served.items()):
            for _, one in sorted(model.serving.items()):
                yield one

    @property
    def longest_run_s(self) -> float:
        """How long the longest of the runs that are under way has taken, of what is being released too."""
        return max((one.run_s for model in self._models.values() for one in model.engines), default=0.0)

    def find(self, name: str | None = None, version: str | None = None) -> Engine:
        """The engine of `name` (or the default model) and `version` (or the highest).

        Raises `NotFound`, or `Unavailable` while the repository is being loaded.
        """
        if name is None:
            if missing := self.missing:
                raise Unavailable(f"no model to answer: {missing}")
            name = self._settings.default_model or min(self._served)
        model = self._models.get(name)
        if model is None or not (versions := model.serving or model.coming):
            raise self._not_served(name)
        if version is None:
            return versions[max(versions)]
        # What is coming can be named already: another worker may have switched, and told its clients, a moment ago.
        for one in (*model.serving.values(), *model.coming.values()):
            if one.version == version:
                return one
        served = ", ".join(str(number) for number in sorted(versions))
        raise NotFound(f"model {name!r} has no served version {version!r}; there are: {served}")

    def index(self) -> list[VersionState]:
        """Every version that is served, loading, refused, leaving, or unloaded on request, by name, then ascending."""
        return [state for _, model in sorted(self._models.items()) for state in model.states()]

    async def load(self) -> None:
        """Load what is wanted; skip, and log, what is corrupt. Raises `BackendError` if the device cannot be used.

        Looks twice: until it has reported once, no other worker waits for this one before it serves a new version.
        """
        await self.sync()
        await self.sync()
        if self._loader.device_fault is not None:
            raise self._loader.device_fault
        if self.missing:
            logger.error("not ready: %s", self.missing)

    async def load_model(self, name: str) -> None:
        """Have every worker serve `name` again, and try once more what was refused; return when all of them do.

        Raises `NotFound` if there is no such model, `InvalidRequest` with the reason if a version of it is refused,
        `Unavailable` if a worker takes too long.
        """
        if name not in self._models and name not in await self._look():
            raise NotFound(f"model {name!r} is not in the repository")
        reports = await self._follow(self._control.ask_to_load(name))
        faults = [report.faults[name] for report in reports if name in report.faults]
        if not faults and name not in self._served:
            faults = [f"the version policy {self._settings.version_policy} leaves nothing of it to serve"]
        if faults:
            raise InvalidRequest(f"failed to load {name!r}: {faults[0]}")

    async def unload_model(self, name: str) -> None:
        """Have every worker stop serving `name` until it is loaded again; what they have taken they still answer.

        Raises `NotFound` if there is no such model, `Unavailable` if a worker takes too long.
        """
        if name not in self._models:
            raise self._not_served(name)
        await self._follow(self._control.ask_to_unload(name))

    async def sync(self) -> None:
        """Make what is served equal to what is wanted. Concurrent calls take turns."""
        async with self._syncing:
            wishes = self._control.read().wishes
            found = await self._look()
            await self._plan_all(found, wishes)
            deadline_s = monotonic() + _SWITCH_TIMEOUT_S
            while coming := await self._lacking_elsewhere(wishes):
                if monotonic() > deadline_s:
                    logger.warning("%s is served from now on, though not by every worker", ", ".join(sorted(coming)))
                    break
                before, found = found, await self._look()
                if repr(found) != repr(before):  # which two errors of one kind are not otherwise
                    await self._plan_all(found, wishes)
                    deadline_s = monotonic() + _SWITCH_TIMEOUT_S
            for model in self._models.values():
                model.switch()
            self._models = {name: model for name, model in self._models.items() if model}
            self._served = {name: model for name, model in self._models.items() if model.serving}
            self._wishes = wishes
            self._report()

    async def close(self) -> None:
        """Finish all that was taken and release every backend."""
        async with self._syncing:
            for model in self._models.values():
                await model.close()

    def _not_served(self, name: str) -> NotFound | Unavailable:
        if name in self._wishes.unloaded and name in self._models:
            return NotFound(f"model {name!r} is unloaded; POST /v2/repository/models/{name}/load brings it back")
        if not self._served or name == self._settings.default_model:
            return Unavailable(f"model {name!r} is not served: {self.missing}")
        return NotFound(f"model {name!r} is not served; there are: {', '.join(sorted(self._served))}")

    async def _look(self) -> Found:
        """What the repository holds. If it cannot be listed, every model that is known hides for that reason."""
        try:
            found = await asyncio.to_thread(survey, self._settings.repository)
            hidden = {str(versions) for versions in found.values() if isinstance(versions, BundleError)}
        except BundleError as error:
            found, hidden = dict.fromkeys(self._models, error), {str(error)}
        for reason in sorted(hidden - self._hidden):
            logger.error("repository cannot be read: %s", reason)
        if self._hidden and not hidden:
            logger.info("repository can be read again")
        self._hidden = hidden
        self._metrics.looked_at_repository(readable=not hidden)
        return found

    async def _plan_all(self, found: Found, wishes: Wishes) -> None:
        for name in sorted(found.keys() | self._models.keys()):
            await self._plan(name, found.get(name, {}), wishes)

    async def _plan(self, name: str, found: Mapping[int, Fingerprint] | BundleError, wishes: Wishes) -> None:
        model = self._models.setdefault(name, Model(name, self._settings.version_policy, self._loader))
        if name in wishes.unloaded:
            model.plan_to_unload(() if isinstance(found, BundleError) else tuple(found))
        elif isinstance(found, BundleError):
            model.plan_to_stay(str(found))
        else:
            await model.plan(found, again=wishes.loads.get(name, 0) > self._wishes.generation)

    async def _lacking_elsewhere(self, wishes: Wishes) -> set[str]:
        """Wait a while for every worker to be able to answer for what is coming; return its models if one cannot.

        So that no answer of one worker names what another lacks.
        """
        coming: dict[str, dict[int, str]] = {}
        for name, model in self._models.items():
            if numbers := model.coming.keys() - model.serving.keys():
                coming[name] = {number: model.content(number) for number in numbers}
        if self._wishes.generation < 0 or not coming:
            return set()

        def holds(report: Report) -> bool:
            if report.generation < 0:  # it is starting
                return True
            # A worker that is ahead may have been told to unload what is coming here, and then never has it.
            unloaded = self._control.read().wishes.unloaded if report.generation > wishes.generation else ()
            return all(
                name in unloaded or number in report.held.get(name, ()) or content in report.refused.get(name, ())
                for name, contents in coming.items()
                for number, content in contents.items()
            )

        self._report()
        reports = await self._control.until(lambda reports: all(map(holds, reports)), timeout_s=_LOOK_AGAIN_S)
        return set(coming) if reports is None else set()

    def _report(self) -> None:
        held = {name: held for name, model in self._models.items() if (held := model.held)}
        refused = {name: refused for name, model in self._models.items() if (refused := model.refused)}
        faults = {name: fault for name, model in self._models.items() if (fault := model.fault)}
        self._control.report(Report(self._wishes.generation, held, refused, faults))

    async def _follow(self, generation: int) -> Sequence[Report]:
        """Do what was asked for; return every worker's report when all of them have done it."""
        await self.sync()
        reports = await self._control.until(
            lambda reports: all(report.generation >= generation for report in reports), timeout_s=_FOLLOW_TIMEOUT_S
        )
        if reports is None:
            raise Unavailable(f"not every worker has followed within {_FOLLOW_TIMEOUT_S:g} s; the others have")
        return reports
