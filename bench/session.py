"""One server with one model in one round: start it, check it, load it, stop it."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench import ROOT
from bench.answers import WrongAnswer, check, wait_until_ready
from bench.graphs import open_graph, pad
from bench.models import ModelSize
from bench.open_loop import ARRIVALS, Arrivals
from bench.plan import CURVE_S, WARM_UP_S, Plan
from bench.processes import ProcessTree, free_port, running
from bench.registry import Server
from bench.results import Cell, Failure, OpenLoad, Run, Start
from bench.workload import SCENARIOS, Scenario, requests_of
from bench.wrk import WrkFailure, run_wrk
from model.bundle import ONNX, Bundle

OPEN_LOOP_SHARE: Final = 0.7  # of the server's own S2 rate
_GENERATOR_LIMIT_S: Final = 60


@dataclass(frozen=True, slots=True)
class Subject:
    """Which server is measured with which model, in which round."""

    round_number: int
    server: Server
    model: ModelSize
    bundle: Bundle

    def failure(self, scenario: str, reason: str) -> Failure:
        """A failure of it; `scenario` is empty if it did not start."""
        return Failure(self.round_number, self.server.name, self.model.name, scenario, reason)

    def environ(self, port: int) -> dict[str, str]:
        """What `bench/servers/` reads, and what the server itself does."""
        return {
            "BENCH_MODEL": str(self.bundle.folder / ONNX),
            "BENCH_NAME": self.model.name,
            "BENCH_FEATURES": str(self.model.input_size),
            "BENCH_PORT": str(port),
            **{name: text.format(port=port) for name, text in self.server.environ.items()},
        }


@dataclass(frozen=True, slots=True)
class Session:
    """A server that runs, and where its figures go."""

    plan: Plan
    run: Run
    subject: Subject
    port: int
    tree: ProcessTree

    def measure(self) -> None:
        """All that the plan has for this server and model; a scenario that fails leaves the others alone."""
        for scenario in self.plan.cells(self.subject.server, self.subject.model):
            self._try(scenario, self.plan.seconds, warm_up_s=WARM_UP_S)
        for point in self.plan.curve_points(self.subject.server):
            self._try(point, CURVE_S, warm_up_s=0)
        s2 = self.run.cell(self.subject.round_number, self.subject.server.name, self.subject.model.name, "S2")
        if self.plan.has_open_loop(self.subject.server) and s2 is not None and s2.answers:
            for arrivals in ARRIVALS:
                with self._failing(arrivals):
                    self._open_loop(arrivals, OPEN_LOOP_SHARE * s2.sequences_per_s)

    def _try(self, scenario: Scenario, seconds: int, *, warm_up_s: int) -> None:
        with self._failing(scenario.name):
            files = self._prepare(scenario)
            if warm_up_s:
                run_wrk(self.port, scenario, files, seconds=warm_up_s)
            self.run.cells.append(self._load(scenario, files, seconds))

    @contextmanager
    def _failing(self, scenario: str) -> Iterator[None]:
        try:
            yield
        except (WrongAnswer, WrkFailure, subprocess.SubprocessError) as error:
            reason = str(error) if self.tree.process.poll() is None else f"the server ended: {self.tree.last_words()}"
            self.run.failures.append(self.subject.failure(scenario, reason))

    def _prepare(self, scenario: Scenario) -> tuple[Path, ...]:
        """Write the scenario's requests to files; check the answer to the first."""
        wire = self.subject.server.wires[scenario.encoding]
        requests = requests_of(scenario, self.subject.model)
        folder = self.plan.folder / "requests"
        folder.mkdir(exist_ok=True)
        files = []
        for number, sequences in enumerate(requests):
            files.append(folder / f"{number}.http")
            files[-1].write_bytes(wire.request(self.subject.model.name, sequences))
        expected = open_graph(self.subject.bundle, "onnx")(pad(self.subject.bundle, requests[0]))
        check(self.port, wire, files[0].read_bytes(), expected)
        return tuple(files)

    def _load(self, scenario: Scenario, files: tuple[Path, ...], seconds: int) -> Cell:
        before = self.tree.usage()
        load = run_wrk(self.port, scenario, files, seconds=seconds)
        after = self.tree.usage()
        return Cell(
            round_number=self.subject.round_number,
            server=self.subject.server.name,
            model=self.subject.model.name,
            scenario=scenario.name,
            sequences_per_s=load.answers * scenario.sequences_per_request / load.duration_s,
            p50_ms=load.p50_ms,
            p99_ms=load.p99_ms,
            answers=load.answers,
            errors=load.errors,
            duration_s=load.duration_s,
            server_cpu_s=after.cpu_s - before.cpu_s,
            client_cpu_s=load.cpu_s,
            largest_rss_bytes=after.largest_rss_bytes,
        )

    def _open_loop(self, arrivals: Arrivals, rate_per_s: float) -> None:
        files = self._prepare(SCENARIOS["S2"])
        command = [sys.executable, "-m", "bench.open_loop", str(self.port), str(rate_per_s), str(self.plan.seconds)]
        limit_s = self.plan.seconds + _GENERATOR_LIMIT_S
        ran = subprocess.run(
            [*command, arrivals, *map(str, files)], cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=limit_s
        )
        outcome = json.loads(ran.stdout)
        self.run.open_loads.append(
            OpenLoad(
                round_number=self.subject.round_number,
                server=self.subject.server.name,
                model=self.subject.model.name,
                arrivals=arrivals,
                rate_per_s=rate_per_s,
                client_cpu_s=outcome.pop("cpu_s"),
                **outcome,
            )
        )


def measure_server(plan: Plan, run: Run, subject: Subject, python: Path) -> None:
    """Start the server with `python`, measure it and stop it; what goes wrong becomes a `Failure` in `run`."""
    port, repository = free_port(), subject.bundle.folder.parent.parent
    command = [text.format(port=port, repository=repository) for text in (str(python), *subject.server.arguments)]
    first_sequences = requests_of(SCENARIOS["S1"], subject.model)[0]
    first = subject.server.wires["json"].request(subject.model.name, first_sequences)
    started = time.monotonic()
    with running(command, subject.environ(port), plan.folder / f"{subject.server.name}.log") as tree:
        try:
            ready_s = wait_until_ready(port, first, tree.has_ended) - started
        except WrongAnswer as error:
            run.failures.append(subject.failure("", f"{error}; {tree.last_words()}"))
            return
        run.starts.append(Start(subject.round_number, subject.server.name, subject.model.name, ready_s))
        Session(plan, run, subject, port, tree).measure()
