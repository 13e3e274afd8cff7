"""`python -m bench`: measure, or make table and plot again from a run's JSON, or measure on a GPU."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bench import ROOT, gpu
from bench.environments import Environments
from bench.models import MODELS
from bench.plan import Plan
from bench.plot import draw
from bench.registry import SERVERS
from bench.results import Run, read, write
from bench.rounds import new_run, run_all
from bench.table import markdown
from bench.workload import SCENARIOS

RESULTS = ROOT / "bench" / "results"


def main(arguments: Sequence[str]) -> int:
    """Run one of the three commands; return the exit status."""
    options = _parser().parse_args(arguments)
    if options.command == "gpu":
        return gpu.main()
    if options.command == "report":
        _publish(read(options.file), options.file.with_suffix(""))
        return 0
    return _measure(options)


def _measure(options: argparse.Namespace) -> int:
    if shutil.which("wrk") is None:
        print("wrk is not installed: apt-get install wrk", file=sys.stderr)
        return 1
    plan = _plan(options)
    run = new_run(plan)
    expected_s = sum(plan.steps())
    print(f"about {expected_s / 60:.0f} min, and pip's time for environments that are not there yet")
    environments = Environments(plan.folder / "venvs", {"ours": options.python})
    interrupted = False
    try:
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
            console=Console(stderr=True), refresh_per_second=1,
        ) as progress:  # fmt: skip
            task = progress.add_task("the models", total=expected_s)
            run_all(plan, run, environments, lambda text, done_s: progress.update(
                task, advance=done_s, **({"description": text} if text else {})
            ))  # fmt: skip
    except KeyboardInterrupt:
        interrupted = True
    stem = RESULTS / run.started.replace(":", "").removesuffix("+0000")
    for path in (stem, RESULTS / "latest"):
        write(run, path.with_suffix(".json"))
    _publish(run, RESULTS / "latest")
    return 130 if interrupted else 0


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
    """Print the table; write it and the plot beside the JSON."""
    text = markdown(run)
    print(text)
    stem.with_suffix(".md").write_text(text)
    draw(run, stem.with_suffix(".png"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    report = commands.add_parser("report", help="print the table of a run again; write table and plot beside its JSON")
    report.add_argument("file", type=Path, metavar="FILE.json")
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
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="interpreter for our own service")
    parser.add_argument("--folder", type=Path, default=ROOT / ".bench", help="models and environments (default .bench)")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, allowed is 1 and more")
    return value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
