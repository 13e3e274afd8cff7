"""What is to be measured, and how long that takes."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.limit import Workload, jobs_of, workload_of
from bench.models import ModelSize
from bench.registry import SERVERS, Server
from bench.workload import CURVE_CONNECTIONS, Scenario, cells, curve_point, models_named

WARM_UP_S: Final = 1
CURVE_S: Final = 1
_START_S: Final = 6.0  # a guess, for the estimate: to start a server, warm it up and stop it
_LIMIT_START_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The command line's choices. `folder` holds models, requests and logs, and keeps environments between runs."""

    rounds: int
    seconds: int
    servers: tuple[str, ...]
    models: tuple[str, ...]
    scenarios: tuple[str, ...]
    curve: bool
    open_loop: bool
    limit: bool
    folder: Path

    def settings(self) -> dict[str, Any]:
        """For the JSON; the folder says nothing about the figures."""
        return {name: value for name, value in asdict(self).items() if name != "folder"}

    def chosen_servers(self) -> tuple[Server, ...]:
        """In the order of the registry."""
        return tuple(server for server in SERVERS.values() if server.name in self.servers)

    def cells(self, server: Server, model: ModelSize) -> tuple[Scenario, ...]:
        """The scenarios that `server` is measured in: those that it has a protocol for."""
        wanted = tuple(name for name in self.scenarios if not server.scenarios or name in server.scenarios)
        return tuple(scenario for scenario in cells(model, wanted) if scenario.encoding in server.wires)

    def curve_points(self, server: Server) -> tuple[Scenario, ...]:
        """The points of its load curve."""
        return tuple(map(curve_point, CURVE_CONNECTIONS)) if self.curve and not server.scenarios else ()

    def has_open_loop(self, server: Server) -> bool:
        """Ours alone, and only after S2, whose rate it needs."""
        return self.open_loop and server.name == "ours" and "S2" in self.scenarios

    def workloads(self, model: ModelSize) -> tuple[Workload, ...]:
        """What the limit is measured for."""
        return tuple(dict.fromkeys(workload_of(scenario) for scenario in cells(model, self.scenarios)))

    def seconds_per_limit_job(self) -> float:
        """A limit is the best of some twenty short measurements."""
        return max(0.4, self.seconds / 6)

    def steps(self) -> Iterator[float]:
        """The expected seconds of each step of the whole run, for the progress bar."""
        for _ in range(self.rounds):
            for model in models_named(self.models):
                if self.limit:
                    yield _LIMIT_START_S + self.seconds_per_limit_job() * len(jobs_of(self.workloads(model)))
                for server in self.chosen_servers():
                    yield self.server_seconds(server, model)

    def server_seconds(self, server: Server, model: ModelSize) -> float:
        """What a server takes in one round with one model."""
        measured = (self.seconds + WARM_UP_S) * (len(self.cells(server, model)) + 2 * self.has_open_loop(server))
        return _START_S + measured + CURVE_S * len(self.curve_points(server))


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0))
