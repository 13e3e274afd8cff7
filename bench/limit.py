"""The limit: what the exported graphs do in process, with no server around them, on the same cores in the same run.

Of both runtimes, over the batch sizes, the best: one process a core, all at once, so that they contend for memory and
clock as a server's workers do, each on one thread. For one connection it is one call of one sequence in one process.
For mixed lengths it is the same sequences sorted by length and cut into batches, padded before the clock starts.

The best of many short measurements is a little better than it could be for long: the error is in the limit's favour.
"""

import multiprocessing
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Final, Literal

from bench.graphs import RUNTIMES, Graph, Padded, RuntimeName, open_graph, pad
from bench.models import ModelSize
from bench.results import LimitPoint
from bench.workload import SCENARIOS, Lengths, Scenario, Sequences, mixed_sequences, requests_of
from model.bundle import Bundle, open_bundle

Workload = Literal["single", "fixed", "vowels", "spread"]
BATCH_SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MIXED_BATCH_SIZES: Final = BATCH_SIZES[:-1]
_STALL_LIMIT_S: Final = 120


def workload_of(scenario: Scenario) -> Workload:
    """Which workload is the limit of `scenario`."""
    return "single" if scenario.connections == 1 else scenario.lengths


@dataclass(frozen=True, slots=True)
class _Job:
    workload: Workload
    runtime: RuntimeName
    batch_size: int


@dataclass(frozen=True, slots=True)
class _Outcome:
    job: _Job
    sequences_per_s: float
    p50_ms: float


def jobs_of(workloads: tuple[Workload, ...]) -> list[_Job]:
    """What is tried: each runtime at each batch size that could be the best."""
    sizes = {"single": (1,), "fixed": BATCH_SIZES, "vowels": MIXED_BATCH_SIZES, "spread": MIXED_BATCH_SIZES}
    return [_Job(work, runtime, size) for work in workloads for runtime in RUNTIMES for size in sizes[work]]


def measure_limit(
    bundle: Bundle, model: ModelSize, workloads: tuple[Workload, ...], *, round_number: int, seconds_per_job: float
) -> Iterator[LimitPoint]:
    """Run every job for `seconds_per_job` in as many processes as there are cores; yield each job's sum or median."""
    cores = sorted(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(len(cores)), context.Queue()
    jobs = jobs_of(workloads)
    meeting = _Meeting(cores[0], seconds_per_job, barrier, queue)
    workers = [context.Process(target=_work, args=(bundle.folder, model, jobs, core, meeting)) for core in cores]
    try:
        for worker in workers:
            worker.start()
        for job in jobs:
            count = 1 if job.workload == "single" else len(cores)
            outcomes = [queue.get(timeout=_STALL_LIMIT_S) for _ in range(count)]
            assert all(outcome.job == job for outcome in outcomes), "the barrier keeps the processes together"
            rate = sum(outcome.sequences_per_s for outcome in outcomes)
            p50_ms = statistics.median(outcome.p50_ms for outcome in outcomes)
            yield LimitPoint(round_number, model.name, job.workload, job.runtime, job.batch_size, rate, p50_ms)
    finally:
        for worker in workers:
            if worker.pid is not None:  # it was started
                worker.kill()
                worker.join()


@dataclass(frozen=True, slots=True)
class _Meeting:
    """What the processes share: they begin each job together; the one on the first core alone makes single calls."""

    first_core: int
    seconds: float
    barrier: Barrier
    outcomes: "Queue[_Outcome]"


def _work(folder: Path, model: ModelSize, jobs: list[_Job], core: int, meeting: _Meeting) -> None:
    """One process: all jobs in turn, each begun by all processes together."""
    os.sched_setaffinity(0, {core})
    bundle = open_bundle(folder)
    graphs = {runtime: open_graph(bundle, runtime) for runtime in RUNTIMES}
    for job in jobs:
        batches = _batches(bundle, model, job)
        for batch in batches if job.workload in {"vowels", "spread"} else batches[:3]:  # TorchScript compiles at first
            graphs[job.runtime](batch)
        meeting.barrier.wait(_STALL_LIMIT_S)
        if job.workload != "single" or core == meeting.first_core:
            meeting.outcomes.put(_measure(graphs[job.runtime], batches, job, meeting.seconds))
        meeting.barrier.wait(_STALL_LIMIT_S)


def _batches(bundle: Bundle, model: ModelSize, job: _Job) -> list[Padded]:
    size = job.batch_size
    pool: Sequences
    if job.workload in {"single", "fixed"}:
        pool = tuple(sequence for request in requests_of(SCENARIOS["S3"], model) for sequence in request)
        pool = pool[: max(size, 32)]
    else:
        pool = tuple(sorted(mixed_sequences(_lengths(job.workload)), key=len))
    return [pad(bundle, pool[start : start + size]) for start in range(0, len(pool), size)]


def _lengths(workload: Workload) -> Lengths:
    return "vowels" if workload == "vowels" else "spread"


def _measure(graph: Graph, batches: list[Padded], job: _Job, seconds: float) -> _Outcome:
    """Go through all batches, whole passes only, until `seconds` are over."""
    times_s: list[float] = []
    sequences_a_pass = sum(len(batch[0]) for batch in batches)
    passes, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < seconds:
        for batch in batches:
            graph(batch)
            times_s.append(time.perf_counter() - now)
            now += times_s[-1]
        passes += 1
    return _Outcome(job, passes * sequences_a_pass / (now - started), statistics.median(times_s) * 1e3)
