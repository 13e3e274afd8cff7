"""The whole run: rounds of all models and servers, so that what disturbs the machine for a while disturbs them all."""

import datetime
import platform
import queue
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench import ROOT
from bench.environments import EnvironmentFailure, Environments
from bench.limit import measure_limit
from bench.models import ModelSize, make_model
from bench.plan import Plan, cores
from bench.registry import Server
from bench.results import Failure, Run
from bench.session import Subject, measure_server
from bench.workload import models_named
from model.bundle import Bundle

_CPU_INFO: Final = Path("/proc/cpuinfo")
Report = Callable[[str, float], object]  # what is done now, and the expected seconds of what is now behind


def run_all(plan: Plan, run: Run, environments: Environments, report: Report) -> None:
    """Do what `plan` says; figures go into `run` as they come, so that an interrupted run keeps what it has."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    (plan.folder / ".gitignore").write_text("*\n")
    bundles = {model: make_model(plan.folder / "models", model) for model in models_named(plan.models)}
    servers = [server for server in plan.chosen_servers() if _is_installed(server, environments, run, report)]
    steps = plan.steps()
    for number in run.rounds:
        for model, bundle in bundles.items():
            if plan.limit:
                report(f"round {number}, {model.name}: the limit", 0)
                _measure_limit(plan, run, number, model, bundle)
                report("…", next(steps))
            for server in plan.chosen_servers():
                if server in servers:
                    report(f"round {number}, {model.name}: {server.title}", 0)
                    _measure(plan, run, Subject(number, server, model, bundle), environments.interpreter(server))
                report("…", next(steps))


def _measure_limit(plan: Plan, run: Run, number: int, model: ModelSize, bundle: Bundle) -> None:
    points = measure_limit(
        bundle, model, plan.workloads(model), round_number=number, seconds_per_job=plan.seconds_per_limit_job()
    )
    try:
        run.limits.extend(points)
    except queue.Empty:
        run.failures.append(Failure(number, "limit", model.name, "", "a process of it ended early"))


def _measure(plan: Plan, run: Run, subject: Subject, python: Path) -> None:
    """One server in one round; no failure of a server ends the run."""
    try:
        measure_server(plan, run, subject, python)
    except (OSError, subprocess.SubprocessError) as error:
        run.failures.append(subject.failure("", f"{type(error).__name__}: {error}"))


def _is_installed(server: Server, environments: Environments, run: Run, report: Report) -> bool:
    report(f"environment of {server.title}", 0)
    try:
        run.versions[server.name] = environments.versions(server)
    except (EnvironmentFailure, OSError, subprocess.SubprocessError) as error:
        run.failures.append(Failure(0, server.name, "", "", f"cannot be installed: {error}"))
        return False
    return True


def new_run(plan: Plan) -> Run:
    """An empty run of this machine, now."""
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return Run(started, describe_machine(), plan.settings())


def describe_machine() -> dict[str, str]:
    """What the figures depend on; nothing that names the machine."""
    models = [line.split(":", 1)[1].strip() for line in _CPU_INFO.read_text().splitlines() if "model name" in line]
    revision = ("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": str(cores()),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": platform.python_version(),
        "wrk": _said("wrk", "-v").split(" Copyright")[0].removeprefix("wrk "),
        "revision": _said(*revision),
    }


def _said(*command: str) -> str:
    """What `command` prints, whatever its status; nothing if it is not installed."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
