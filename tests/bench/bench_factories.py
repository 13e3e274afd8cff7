"""Makers of runs with made-up figures."""

from typing import Any

from bench.results import Cell, Failure, LimitPoint, OpenLoad, Run, Start


def make_run(rounds: int = 1, **lists: Any) -> Run:
    settings = {"rounds": rounds, "seconds": 1, "models": ["tiny", "medium"], "scenarios": ["S1", "S2", "S3"]}
    return Run("2026-11-23T12:00:00+00:00", {"cpu": "abacus", "cores": "2"}, settings, **lists)


def make_cell(server: str, scenario: str, rate: float = 100.0, **changes: Any) -> Cell:
    figures: dict[str, Any] = {
        "round_number": 1,
        "server": server,
        "model": "tiny",
        "scenario": scenario,
        "sequences_per_s": rate,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "answers": 100,
        "errors": 0,
        "duration_s": 1.0,
        "server_cpu_s": 0.5,
        "client_cpu_s": 0.25,
        "largest_rss_bytes": 100_000_000,
    }
    return Cell(**(figures | changes))


def make_limit(workload: str, rate: float = 100.0, p50_ms: float = 1.0, **changes: Any) -> LimitPoint:
    figures: dict[str, Any] = {"round_number": 1, "model": "medium", "runtime": "onnx", "batch_size": 8}
    return LimitPoint(workload=workload, sequences_per_s=rate, p50_ms=p50_ms, **(figures | changes))


def make_open_load(p50_ms: float, p99_ms: float, **changes: Any) -> OpenLoad:
    figures: dict[str, Any] = {
        "round_number": 1,
        "server": "ours",
        "model": "tiny",
        "arrivals": "poisson",
        "rate_per_s": 70.0,
        "answers": 700,
        "errors": 0,
        "late_p99_ms": 0.1,
        "client_cpu_s": 0.1,
    }
    return OpenLoad(p50_ms=p50_ms, p99_ms=p99_ms, **(figures | changes))


def make_start(server: str, ready_s: float, round_number: int = 1) -> Start:
    return Start(round_number, server, "tiny", ready_s)


def make_failure(server: str, scenario: str, round_number: int = 1) -> Failure:
    return Failure(round_number, server, "tiny", scenario, "it ended")
