"""The ratios that issue 4 asks for, each with its bound. A ratio is made within a round, and then the median taken."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from bench.open_loop import ARRIVALS
from bench.results import Run, Spread, spread

Ratio = Callable[[Run, int], float | None]  # of one round; None if a figure is missing
OURS: Final = "ours"
OURS_ONNX: Final = "ours-onnx"
MEGABYTE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class Target:
    """One bound. `unit` is empty for a ratio."""

    model: str
    scenario: str
    of: str
    bound: float
    better: Literal["higher", "lower"]
    ratio: Ratio
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target and what came of it; `reached` is None where it was not measured.

    `is_complete`: whether every round has it. A round that failed is no reason to judge by the others.
    """

    target: Target
    reached: Spread | None
    is_complete: bool = True

    @property
    def is_met(self) -> bool | None:
        """Whether every round has a figure and their median keeps to the bound; None if there is no median."""
        if self.reached is None:
            return None
        if not self.is_complete:
            return False
        if self.target.better == "higher":
            return self.reached.median >= self.target.bound
        return self.reached.median <= self.target.bound


def judge(run: Run) -> tuple[Verdict, ...]:
    """All targets of the models that were run."""
    ratios = {
        target: [target.ratio(run, number) for number in run.rounds_done]
        for target in TARGETS
        if target.model in run.settings["models"]
    }
    return tuple(Verdict(target, spread(found), None not in found) for target, found in ratios.items())


def _divide(ours: float | None, other: float | None) -> float | None:
    """None where there is nothing to divide, or the other answered nothing."""
    return ours / other if ours is not None and other else None


def _p50_ms(run: Run, number: int, server: str, model: str) -> float | None:
    """In S1; None if nothing was answered well, or 1 % was not: wrk counts the latency of errors too."""
    cell = run.cell(number, server, model, "S1")
    return cell.p50_ms if cell and cell.errors * 100 < cell.answers else None


def _rate(run: Run, number: int, server: str, model: str, scenario: str) -> float | None:
    cell = run.cell(number, server, model, scenario)
    return cell.sequences_per_s if cell else None


def _times(scenario: str, model: str, server: str, bound: float) -> Target:
    """At least `bound` times what `server` does."""

    def ratio(run: Run, number: int) -> float | None:
        rates = (_rate(run, number, name, model, scenario) for name in (OURS, server))
        return _divide(*rates)

    return Target(model, scenario, server, bound, "higher", ratio)


def _share(scenario: str, bound: float, workload: str = "fixed") -> Target:
    """At least `bound` of the limit, on medium."""

    def ratio(run: Run, number: int) -> float | None:
        best = run.limit(number, "medium", workload)
        return _divide(_rate(run, number, OURS, "medium", scenario), best.sequences_per_s if best else None)

    return Target("medium", scenario, "the limit", bound, "higher", ratio)


def _s1_tiny(run: Run, number: int) -> float | None:
    return _divide(_p50_ms(run, number, OURS, "tiny"), _p50_ms(run, number, "fastapi", "tiny"))


def _s1_medium(run: Run, number: int) -> float | None:
    call = run.limit(number, "medium", "single")
    return _divide(_p50_ms(run, number, OURS, "medium"), call.p50_ms if call else None)


def _tail(model: str, arrivals: str) -> Target:
    def ratio(run: Run, number: int) -> float | None:
        wanted = (number, OURS, model, arrivals)
        for load in run.open_loads:
            if (load.round_number, load.server, load.model, load.arrivals) == wanted:
                # A request that failed is later than any percentile: 1 % of them and there is no p99.
                return _divide(load.p99_ms, load.p50_ms) if load.errors * 100 < load.answers else None
        return None

    return Target(model, f"open loop, {arrivals}", "its p50", 5, "lower", ratio)


def _memory(model: str, bound_mb: float) -> Target:
    def largest_mb(run: Run, number: int) -> float | None:
        sizes = [
            cell.largest_rss_bytes
            for cell in run.cells
            if (cell.round_number, cell.server, cell.model) == (number, OURS_ONNX, model)
        ]
        return max(sizes) / MEGABYTE if sizes else None

    return Target(model, "memory of an ONNX worker", "RSS after the load", bound_mb, "lower", largest_mb, "MB")


def _start(run: Run, number: int) -> float | None:
    for start in run.starts:
        if (start.round_number, start.server, start.model) == (number, OURS_ONNX, "tiny"):
            return start.ready_s
    return None


TARGETS: Final = (
    Target("tiny", "S1", "fastapi", 0.35, "lower", _s1_tiny),
    _times("S2", "tiny", "mosec", 1.25),
    _times("S3", "tiny", "mosec", 4),
    _times("S4a", "tiny", "mosec", 1.25),
    _times("S4b", "tiny", "mosec", 3),
    Target("medium", "S1", "one call on one thread", 1.15, "lower", _s1_medium),
    _times("S2", "medium", "mosec", 1.8),
    _times("S3", "medium", "triton", 1.4),
    _share("S3", 0.85),
    _times("S4a", "medium", "mosec", 2),
    _times("S4b", "medium", "triton", 1.4),
    _share("S4b", 0.9),
    *(_share(name, 0.85, workload) for workload in ("vowels", "spread") for name in (workload, f"{workload}-b")),
    *(_tail(model, arrivals) for model in ("tiny", "medium") for arrivals in ARRIVALS),
    _memory("tiny", 150),
    _memory("medium", 250),
    Target("tiny", "start to ready, ONNX only", "", 1.5, "lower", _start, "s"),
)
