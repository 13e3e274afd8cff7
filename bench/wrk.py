"""Closed loop: `wrk`, one thread, on the same cores as the server.

wrk counts an answer of status 400 and above as a request; here it is an error. A latency of more than twice the mean
between answers is counted by wrk as several (its `stats_correct`): p99 is pessimistic where single answers are slow.
"""

import json
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.workload import Scenario

_SCRIPT: Final = Path(__file__).with_suffix(".lua")
_REQUEST_TIMEOUT_S: Final = 10
_ERRORS: Final = ("connect", "read", "write", "status", "timeout")


class WrkFailure(RuntimeError):
    """wrk is not installed, did not end, or said nothing of use."""


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk saw. `answers` are good ones; `errors` are bad statuses, broken connections and timeouts."""

    answers: int
    errors: int
    duration_s: float
    p50_ms: float
    p99_ms: float
    cpu_s: float


def run_wrk(port: int, scenario: Scenario, files: tuple[Path, ...], *, seconds: int) -> Load:
    """Load the server on `port` for `seconds`, whole ones since wrk knows no others, with the requests in `files`."""
    command = ["wrk", "--threads", "1", "--connections", str(scenario.connections), "--duration", f"{seconds}s"]
    command += ["--timeout", f"{_REQUEST_TIMEOUT_S}s", "--script", str(_SCRIPT), f"http://127.0.0.1:{port}/", "--"]
    before = _children_cpu_s()
    try:
        ran = subprocess.run(
            [*command, *map(str, files)],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + 2 * _REQUEST_TIMEOUT_S,
        )
    except FileNotFoundError as error:
        raise WrkFailure("wrk is not installed: apt-get install wrk") from error
    except subprocess.TimeoutExpired as error:
        raise WrkFailure(f"wrk did not end within {error.timeout:.0f} s") from error
    if ran.returncode:
        raise WrkFailure(f"wrk: {(ran.stderr or ran.stdout).strip()}")
    return parse(ran.stdout, cpu_s=_children_cpu_s() - before)


def parse(output: str, *, cpu_s: float) -> Load:
    """The line of JSON that ends `output`; raise `WrkFailure` if there is none."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise WrkFailure(f"wrk's script printed no figures: {output.strip()[-200:]}")
    figures = json.loads(lines[-1])
    return Load(
        answers=figures["requests"] - figures["status"],
        errors=sum(figures[kind] for kind in _ERRORS),
        duration_s=figures["duration_us"] / 1e6,
        p50_ms=figures["p50_us"] / 1e3,
        p99_ms=figures["p99_us"] / 1e3,
        cpu_s=cpu_s,
    )


def _children_cpu_s() -> float:
    """Of all children that have been waited for: nothing else is waited for while wrk runs."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
