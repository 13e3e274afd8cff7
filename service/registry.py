"""All model versions that are served, loaded from the repository once the service runs."""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from functools import partial

from model.bundle import BundleError, list_models, list_versions, open_bundle
from service import engine
from service.backends import Runtime
from service.engine import Engine, EngineLimits, Loaded
from service.errors import NotFound, Unavailable
from service.metrics import Metrics
from service.settings import Settings

logger = logging.getLogger(__name__)


class Registry:
    """The served engines by name and version. Belongs to one event loop."""

    def __init__(self, settings: Settings, runtime: Runtime, *, limits: EngineLimits, metrics: Metrics) -> None:
        self._settings = settings
        self._runtime = runtime
        self._limits = limits
        self._metrics = metrics
        self._engines: dict[str, dict[int, Engine]] = {}
        self._missing = "still loading"

    @property
    def missing(self) -> str:
        """Why no request can be answered yet; empty once the repository is loaded and the default model is in it."""
        return self._missing

    def __iter__(self) -> Iterator[Engine]:
        """Every served version, by name, then ascending."""
        for _, versions in sorted(self._engines.items()):
            for _, one in sorted(versions.items()):
                yield one

    def find(self, name: str | None = None, version: str | None = None) -> Engine:
        """The engine of `name` (or the default model) and `version` (or the highest).

        Raises `NotFound`, or `Unavailable` while the repository is being loaded.
        """
        if name is None:
            if self._missing:
                raise Unavailable(f"no model to answer: {self._missing}")
            name = self._settings.default_model or min(self._engines)
        versions = self._engines.get(name)
        if not versions:
            if self._missing:
                raise Unavailable(f"model {name!r} is not served: {self._missing}")
            raise NotFound(f"model {name!r} is not served; there are: {', '.join(sorted(self._engines))}")
        if version is None:
            return versions[max(versions)]
        for one in versions.values():
            if one.version == version:
                return one
        served = ", ".join(str(number) for number in sorted(versions))
        raise NotFound(f"model {name!r} has no served version {version!r}; there are: {served}")

    async def load(self) -> None:
        """Load what the version policy asks for, newest first; skip, and log, what is corrupt.

        Raises `BackendError` if the device cannot be used.
        """
        repository = self._settings.repository
        try:
            for name in await asyncio.to_thread(list_models, repository):
                self._engines[name] = await self._load_model(name)
        except BundleError as error:
            logger.error("repository cannot be read: %s", error)
        self._engines = {name: versions for name, versions in self._engines.items() if versions}
        default = self._settings.default_model
        if not self._engines:
            self._missing = (
                f"{repository} holds no model that can be served; train one: python -m model train reference"
            )
        elif default is not None and default not in self._engines:
            self._missing = f"the default model {default!r} is not in {repository}"
        else:
            self._missing = ""
        if self._missing:
            logger.error("not ready: %s", self._missing)

    async def close(self) -> None:
        """Finish all that was taken and release every backend."""
        for one in self:
            await one.close()

    async def _load_model(self, name: str) -> dict[int, Engine]:
        policy = self._settings.version_policy
        versions = await asyncio.to_thread(list_versions, self._settings.repository, name)
        wanted, at_most = choose_versions(policy, versions)
        engines: dict[int, Engine] = {}
        for version in wanted:
            if len(engines) < at_most:
                try:
                    loaded = await asyncio.to_thread(partial(self._load_version, name, version))
                except BundleError as error:
                    logger.error("%s/%d is not served: %s", name, version, error)
                else:
                    engines[version] = self._engine(loaded)
        return engines

    def _load_version(self, name: str, version: int) -> Loaded:
        bundle = open_bundle(self._settings.repository / name / str(version))
        return engine.load(bundle, self._runtime, self._limits)

    def _engine(self, loaded: Loaded) -> Engine:
        made = Engine(loaded, limits=self._limits, metrics=self._metrics)
        backend = made.backend
        self._metrics.loaded(
            model=made.name,
            version=made.version,
            backend=backend.name,
            device=backend.device,
            duration_s=loaded.duration_s,
        )
        where = {"backend": backend.name, "device": backend.device, "duration_s": round(loaded.duration_s, 3)}
        logger.info("%s/%s is served", made.name, made.version, extra={"fields": where})
        return made


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
