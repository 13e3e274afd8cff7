"""A run as Markdown: a table of medians for each model, the targets, what was used, what failed, all versions."""

from collections.abc import Callable, Iterable
from typing import Final

from bench.limit import workload_of
from bench.registry import SERVERS
from bench.results import Cell, Run, Spread, spread
from bench.targets import MEGABYTE, Verdict, judge
from bench.workload import Scenario, cells, models_named

_ABSENT: Final = ""
_VERDICTS: Final = {True: "met", False: "**missed**", None: "not measured"}
_HALF_PERCENT: Final = 0.005


def markdown(run: Run) -> str:
    """Everything, in the order in which one wants to read it."""
    parts = [_heading(run)]
    parts += [rates(run, model.name) for model in models_named(tuple(run.settings["models"]))]
    parts += [targets(judge(run)), _usage(run), _failures(run), _versions(run)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(run: Run) -> str:
    machine = run.machine
    return (
        f"Medians of {len(run.rounds_done)} rounds of {run.settings['seconds']} s, with the least and the most as "
        f"percentages of them; {machine['cores']} cores of {machine['cpu']}, which the load generator shares; "
        f"{run.started[:10]}."
    )


def rates(run: Run, model: str) -> str:
    """Sequences/s, S1 in ms, of every server that was measured with `model`, and of the limit."""
    (size,) = models_named((model,))
    columns = cells(size, tuple(run.settings["scenarios"]))
    titles = [f"{scenario.name} p50" if scenario.name == "S1" else scenario.name for scenario in columns]
    names = [name for name in SERVERS if any(cell.server == name and cell.model == model for cell in run.cells)]
    rows = [[SERVERS[name].title, *(_of_server(run, name, model, scenario) for scenario in columns)] for name in names]
    rows.append(["the limit, in process", *(_of_limit(run, model, scenario) for scenario in columns)])
    return _table([f"`{model}`", *titles], rows)


def _of_server(run: Run, server: str, model: str, scenario: Scenario) -> str:
    found = [cell for number in run.rounds if (cell := run.cell(number, server, model, scenario.name))]
    errors = sum(cell.errors for cell in found)
    if scenario.name == "S1":
        text = _spread(spread(cell.p50_ms for cell in found if cell.answers), "{:.2f} ms")
    else:
        text = _spread(spread(cell.sequences_per_s for cell in found), "{:,.0f}")
    return f"{text} ({errors:,} errors)" if errors else text


def _of_limit(run: Run, model: str, scenario: Scenario) -> str:
    workload = workload_of(scenario)
    found = [point for number in run.rounds if (point := run.limit(number, model, workload))]
    if workload == "single":
        return _spread(spread(point.p50_ms for point in found), "{:.2f} ms")
    return _spread(spread(point.sequences_per_s for point in found), "{:,.0f}")


def _spread(values: Spread | None, form: str) -> str:
    """`1,234 -3 +5 %`; without the percentages where there are none to speak of."""
    if values is None:
        return _ABSENT
    text = form.format(values.median)
    if not values.median or (values.high - values.low) / values.median < _HALF_PERCENT:
        return text
    low, high = (round(100 * (value / values.median - 1)) for value in (values.low, values.high))
    if low == high == 0:
        return text
    return f"{text} \N{MINUS SIGN}{-low} +{high} %"


def targets(verdicts: Iterable[Verdict]) -> str:
    """One line a target: what was reached, the bound, and whether it is met."""
    rows = []
    for verdict in verdicts:
        target, unit = verdict.target, f" {verdict.target.unit}" if verdict.target.unit else ""
        sign = "≥" if target.better == "higher" else "≤"
        times = "" if unit else " \N{MULTIPLICATION SIGN}"
        reached = _spread(verdict.reached, f"{{:.2f}}{unit}")
        bound = f"{sign} {target.bound:g}{unit}{times} {target.of}".rstrip()
        rows.append([target.model, target.scenario, bound, reached, _VERDICTS[verdict.is_met]])
    return _table(["model", "scenario", "target", "reached", ""], rows)


def _usage(run: Run) -> str:
    """What the servers cost: cores in S2, of them and of wrk beside them, memory, time to the first answer."""
    rows = []
    for model in run.settings["models"]:
        for name, server in SERVERS.items():
            found = [cell for cell in run.cells if (cell.server, cell.model) == (name, model)]
            if not found:
                continue
            in_s2 = [cell for cell in found if cell.scenario == "S2"]
            per_sequence = _median(in_s2, _server_us_per_sequence)
            ready = spread(start.ready_s for start in run.starts if (start.server, start.model) == (name, model))
            memory_mb = max(cell.largest_rss_bytes for cell in found) / MEGABYTE
            rows.append(
                [
                    model,
                    server.title,
                    _spread(_median(in_s2, lambda cell: cell.server_cpu_s / cell.duration_s), "{:.2f}"),
                    _spread(_median(in_s2, lambda cell: cell.client_cpu_s / cell.duration_s), "{:.2f}"),
                    _spread(per_sequence, "{:,.0f} µs"),
                    f"{memory_mb:.0f} MB",
                    _spread(ready, "{:.2f} s"),
                    f"{sum(cell.errors for cell in found):,}",
                ]
            )
    titles = ["model", "server", "its cores in S2", "wrk's", "CPU per sequence", "largest RSS", "start", "errors"]
    return _table(titles, rows)


def _median(found: list[Cell], figure: Callable[[Cell], float | None]) -> Spread | None:
    return spread(figure(cell) for cell in found)


def _server_us_per_sequence(cell: Cell) -> float | None:
    return cell.server_cpu_s / (cell.sequences_per_s * cell.duration_s) * 1e6 if cell.answers else None


def _failures(run: Run) -> str:
    seen = dict.fromkeys((failure.server, failure.model, failure.scenario, failure.reason) for failure in run.failures)
    lines = [f"- {' '.join(filter(None, failure[:3]))}: {failure[3]}" for failure in seen]
    return "\n".join(["Failed:", "", *lines]) if lines else ""


def _versions(run: Run) -> str:
    lines = [f"- {name}: {', '.join(' '.join(item) for item in found.items())}" for name, found in run.versions.items()]
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    return "\n".join(["Versions:", "", f"- machine: {machine}", *lines])


def _table(titles: list[str], rows: list[list[str]]) -> str:
    """Markdown, padded so that it can be read as it is."""
    widths = [max(len(row[column]) for row in [titles, *rows]) for column in range(len(titles))]
    lines = [titles, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    )
