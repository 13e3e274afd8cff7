"""The picture: latency against load. A curve a server, a point a number of connections, from 1 to 128.

Right is more throughput, down is less latency. The shade goes from p50 up to p99.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bench.registry import SERVERS
from bench.results import Run, spread
from bench.workload import CURVE_CONNECTIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours, which the colour-blind tell apart; ours is the strongest.
COLOURS: Final = {
    "ours": "#D55E00",
    "fastapi": "#999999",
    "fastapi-async": "#56B4E9",
    "mosec": "#0072B2",
    "triton": "#009E73",
    "litserve": "#CC79A7",
}
_INK: Final = "#333333"


@dataclass(frozen=True, slots=True)
class Curve:
    """Medians over the rounds, one each per number of connections."""

    server: str
    rates: tuple[float, ...]
    p50_ms: tuple[float, ...]
    p99_ms: tuple[float, ...]


def curves(run: Run, model: str) -> tuple[Curve, ...]:
    """The curves of the servers that were measured with `model`; points that failed are left out."""
    found = []
    for server in COLOURS:
        points = []
        for connections in CURVE_CONNECTIONS:
            cells = [run.cell(number, server, model, f"C{connections}") for number in run.rounds]
            good = [cell for cell in cells if cell and cell.answers]
            figures = [
                spread(values)
                for values in (
                    [cell.sequences_per_s for cell in good],
                    [cell.p50_ms for cell in good],
                    [cell.p99_ms for cell in good],
                )
            ]
            points += [tuple(figure.median for figure in figures if figure)] if good else []
        if points:
            found.append(Curve(server, *zip(*points, strict=True)))
    return tuple(found)


def draw(run: Run, path: Path) -> bool:
    """Write the PNG; return False, writing nothing, if the run has no load curve."""
    panels = [(model, found) for model in run.settings["models"] if (found := curves(run, model))]
    if not panels:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context(
        {"font.size": 9, "font.family": "DejaVu Sans", "text.color": _INK, "axes.edgecolor": "#888888"}
    ):
        figure, row = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4.3), squeeze=False, layout="constrained")
        for axes, (model, found) in zip(row[0], panels, strict=True):
            _draw_panel(axes, run, model, found)
        row[0][0].set_ylabel("latency, ms: p50, shaded up to p99")
        figure.savefig(path, dpi=170)
        plt.close(figure)
    return True


def _draw_panel(axes: "Axes", run: Run, model: str, found: tuple[Curve, ...]) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    for curve in found:
        is_ours = curve.server == "ours"
        style = {"color": COLOURS[curve.server], "zorder": 3 if is_ours else 2}
        axes.fill_between(curve.rates, curve.p50_ms, curve.p99_ms, alpha=0.10, linewidth=0, **style)
        axes.plot(curve.rates, curve.p50_ms, marker="o", markersize=3.5, linewidth=2.4 if is_ours else 1.4, **style)
    limits = [point.sequences_per_s for number in run.rounds if (point := run.limit(number, model, "fixed"))]
    _finish_axes(axes, model, found)
    if (best := spread(limits)) and best.median < axes.get_xlim()[1]:
        axes.axvline(best.median, color=_INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            "limit", (best.median, axes.get_ylim()[1]), (-3, -3), textcoords="offset points", ha="right", va="top"
        )
    _label(axes, found)


def _finish_axes(axes: "Axes", model: str, found: tuple[Curve, ...]) -> None:
    from matplotlib.ticker import FuncFormatter, NullFormatter

    rates = [rate for curve in found for rate in curve.rates]
    axes.set_xlim(min(rates) / 1.3, max(rates) * 3.2)  # room for the labels
    axes.set_title(model, loc="left", fontweight="bold")
    axes.set_xlabel("sequences/s, one a request, JSON, 1 to 128 connections")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="#DDDDDD", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", color="#BBBBBB")


def _label(axes: "Axes", found: tuple[Curve, ...]) -> None:
    """Each server's name beside its curve's end, pushed apart where two would touch."""
    ends = (
        sorted((float(axes.transData.transform((curve.rates[-1], curve.p50_ms[-1]))[1]), curve) for curve in found)
        if len(found) == 1
        else sorted(
            ((float(axes.transData.transform((curve.rates[-1], curve.p50_ms[-1]))[1]), curve) for curve in found),
            key=lambda end: end[0],
        )
    )
    line, lowest = 13.0 * axes.figure.dpi / 72, float("-inf")
    for height, curve in ends:
        wanted = max(height, lowest + line)
        lowest = wanted
        axes.annotate(
            SERVERS[curve.server].title,
            (curve.rates[-1], curve.p50_ms[-1]),
            (8, (wanted - height) * 72 / axes.figure.dpi),
            textcoords="offset points",
            color=COLOURS[curve.server],
            fontweight="bold" if curve.server == "ours" else "normal",
            va="center",
        )
