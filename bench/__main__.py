"""`python -m bench`: measure, or make table and plot again from a run's JSON, or measure int8, or a GPU."""

import argparse
import importlib
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import ROOT, gpu, int8
from bench.environments import Environments
from bench.models import MODELS
from bench.plan import Plan
from bench.plot import draw
from bench.registry import SERVERS
from bench.results import Run, read, write
from bench.rounds import new_run, run_all
from bench.table import markdown
from bench.workload import SCENARIOS

RESULTS: Final = ROOT / "bench" / "results"
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "gpu":
        return gpu.main()
    if options.command == "int8":
        return int8.main()
    if options.command == "report":
        try:
            run = read(options.file)
        except (OSError, ValueError, TypeError) as error:
            print(f"{options.file} is no run of the benchmark: {error}", file=sys.stderr)
            return 1
        _publish(run, options.file.with_suffix(""))
        print(markdown(run))
        return 0
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    if shutil.which("wrk") is None:
        print("wrk is not installed: apt-get install wrk", file=sys.stderr)
        return 1
    RESULTS.mkdir(parents=True, exist_ok=True)  # what is needed at the end is found missing at the start
    importlib.import_module("matplotlib")
    plan = _plan(options)
    run = new_run(plan)
    expected_s = sum(plan.steps())
    print(f"about {expected_s / 60:.0f} min, and pip's time for environments that are not there yet")
    environments = Environments(
        plan.folder / "venvs", {"ours": Path(shutil.which(options.python) or options.python).absolute()}
    )
    stem = RESULTS / run.started.replace(":", "").removesuffix("+0000")
    is_whole = False
    try:
        is_whole = _run_with_progress(plan, run, environments, expected_s)
    finally:
        run.settings["is_whole"] = is_whole
        write(run, stem.with_suffix(".json"))
        print(markdown(run))
    _publish(run, stem)
    if not run.cells:
        return 1 if is_whole else _INTERRUPTED
    if is_whole and _is_everything(options):
        write(run, (RESULTS / "latest").with_suffix(".json"))
        _publish(run, RESULTS / "latest")
    return 0 if is_whole else _INTERRUPTED


def _is_everything(options: argparse.Namespace) -> bool:
    """Whether nothing was left out: only such a run takes the place of the latest."""
    chosen = (options.servers, SERVERS), (options.models, MODELS), (options.scenarios, SCENARIOS)
    left_out = options.quick or options.no_curve or options.no_open_loop or options.no_limit
    return not left_out and all(set(names) == set(known) for names, known in chosen)


def _run_with_progress(plan: Plan, run: Run, environments: Environments, expected_s: float) -> bool:
    """Return False if Ctrl-C or SIGTERM ended it; `run` then holds what there was."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # servers are stopped on the way out
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=1,  # it draws on the cores that are measured
    )
    task = bar.add_task("the models", total=expected_s)
    try:
        with bar:
            run_all(plan, run, environments, lambda step, done_s: bar.update(task, description=step, advance=done_s))
    except KeyboardInterrupt:
        return False
    return True


def _plan(options: argparse.Namespace) -> Plan:
    return Plan(
        rounds=1 if options.quick else options.rounds,
        seconds=1 if options.quick else options.seconds,
        servers=tuple(options.servers),
        models=tuple(options.models),
        scenarios=tuple(options.scenarios),
        curve=not options.no_curve,
        open_loop=not options.no_open_loop,
        limit=not options.no_limit,
        folder=options.folder.absolute(),
    )


def _publish(run: Run, stem: Path) -> None:
    """Write the table and the plot beside the JSON."""
    stem.with_suffix(".md").write_text(markdown(run))
    if not draw(run, stem.with_suffix(".png")):
        stem.with_suffix(".png").unlink(missing_ok=True)  # of an earlier run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    report = commands.add_parser("report", help="print the table of a run again; write table and plot beside its JSON")
    report.add_argument("file", type=Path, metavar="FILE.json")
    commands.add_parser(
        "int8", help="the published graph in int8: how fast, how exact, and why not by ONNX Runtime's tool"
    )
    commands.add_parser("gpu", help="both runtimes on CUDA against a bare torch.nn.LSTM")
    parser.add_argument("--rounds", type=_positive, default=3, help="interleaved rounds (default 3)")
    parser.add_argument("--seconds", type=_positive, default=3, help="of each measurement, whole ones (default 3)")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s each: to see that all works")
    for name, known in (("servers", SERVERS), ("models", MODELS), ("scenarios", SCENARIOS)):
        parser.add_argument(f"--{name}", nargs="+", choices=list(known), default=list(known), metavar="NAME",
                            help=f"only these: {', '.join(known)}")  # fmt: skip
    parser.add_argument("--no-curve", action="store_true", help="without the load curve that the plot is made of")
    parser.add_argument("--no-open-loop", action="store_true", help="without the open loop")
    parser.add_argument("--no-limit", action="store_true", help="without the limit, and the ratios that need it")
    parser.add_argument("--python", default=sys.executable, help="interpreter for our own service")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench", help="models and environments (default .bench)")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, allowed are whole numbers from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
