"""What a run has measured, and its JSON. Every figure is one measurement: `table` and `targets` make the medians.

Rounds count from 1. CPU seconds are of the measured time alone.
"""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Cell:
    """One server under one scenario in one round. `sequences_per_s` counts good answers only."""

    round_number: int
    server: str
    model: str
    scenario: str
    sequences_per_s: float
    p50_ms: float
    p99_ms: float
    answers: int
    errors: int
    duration_s: float
    server_cpu_s: float
    client_cpu_s: float
    largest_rss_bytes: int


@dataclass(frozen=True, slots=True)
class Start:
    """From the start of a server's process to its first good answer."""

    round_number: int
    server: str
    model: str
    ready_s: float


@dataclass(frozen=True, slots=True)
class OpenLoad:
    """One open loop: latencies count from the scheduled times."""

    round_number: int
    server: str
    model: str
    arrivals: str
    rate_per_s: float
    answers: int
    errors: int
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    client_cpu_s: float


@dataclass(frozen=True, slots=True)
class LimitPoint:
    """The graphs in process, one runtime at one batch size: all processes' rate, and the median time of one run."""

    round_number: int
    model: str
    workload: str
    runtime: str
    batch_size: int
    sequences_per_s: float
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there are no figures. `scenario` is empty if the server did not start at all."""

    round_number: int
    server: str
    model: str
    scenario: str
    reason: str


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmark; its lists grow while it goes on."""

    started: str
    machine: dict[str, str]
    settings: dict[str, Any]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    cells: list[Cell] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    open_loads: list[OpenLoad] = field(default_factory=list)
    limits: list[LimitPoint] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def rounds(self) -> range:
        """The rounds that were to be run."""
        return range(1, int(self.settings["rounds"]) + 1)

    @property
    def rounds_done(self) -> list[int]:
        """Those of them in which anything was measured, or failed; of an interrupted run the last one has holes."""
        entries = (self.cells, self.starts, self.open_loads, self.limits, self.failures)
        begun = [
            number for number in self.rounds if any(one.round_number == number for some in entries for one in some)
        ]
        return begun if self.settings.get("is_whole", True) else begun[:-1]

    def cell(self, round_number: int, server: str, model: str, scenario: str) -> Cell | None:
        """That measurement, if it was made."""
        wanted = (round_number, server, model, scenario)
        found = (cell for cell in self.cells if (cell.round_number, cell.server, cell.model, cell.scenario) == wanted)
        return next(found, None)

    def limit(self, round_number: int, model: str, workload: str) -> LimitPoint | None:
        """The best of that round: the highest rate, or for single calls the shortest time."""
        points = [
            point
            for point in self.limits
            if (point.round_number, point.model, point.workload) == (round_number, model, workload)
        ]
        if workload == "single":
            return min(points, key=lambda point: point.p50_ms, default=None)
        return max(points, key=lambda point: point.sequences_per_s, default=None)


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and the smallest and largest of what it is the median of."""

    median: float
    low: float
    high: float


def spread(values: Iterable[float | None]) -> Spread | None:
    """The median of the values that there are; None if there is none."""
    there = [value for value in values if value is not None]
    return Spread(statistics.median(there), min(there), max(there)) if there else None


def write(run: Run, path: Path) -> None:
    """Write `run` as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(asdict(run), indent=1) + "\n")


def read(path: Path) -> Run:
    """Read what `write` wrote."""
    content = json.loads(path.read_text())
    lists = {"cells": Cell, "starts": Start, "open_loads": OpenLoad, "limits": LimitPoint, "failures": Failure}
    return Run(**content | {name: [kind(**entry) for entry in content[name]] for name, kind in lists.items()})
