"""The picture: latency against load. A curve a server, a point a number of connections, from 1 to 128.

Right is more throughput, down is less latency: p50 above, p99 below.
"""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
from numpy.typing import NDArray

from bench.results import Run, spread
from bench.workload import CURVE_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

# Okabe and Ito's colours, which the colour-blind tell apart; ours is the strongest.
COLOURS: Final = {
    "ours": "#D55E00",
    "fastapi": "#999999",
    "fastapi-async": "#56B4E9",
    "mosec": "#0072B2",
    "triton": "#009E73",
    "litserve": "#CC79A7",
}
NAMES: Final = {
    "ours": "lstm-serve",
    "fastapi": "FastAPI",
    "fastapi-async": "FastAPI async",
    "mosec": "mosec",
    "triton": "Triton",
    "litserve": "LitServe",
}
_INK: Final = "#333333"
_DOTS_PER_INCH: Final = 160  # 1,600 pixels wide for two models: what a README shows at most, twice
_NEAR: Final = 4.0
_OVERHANG: Final = 4.0
_SAMPLES: Final = 20  # of a line between two points
_END_WEIGHT: Final = 5.0  # a name over another curve's end would seem to be that curve's
# Where a name may stand beside its point: points right and up, and which end of it is meant; the best first.
Place = tuple[int, int, Literal["left", "center", "right"]]
_SIDES: Final[tuple[tuple[int, Literal["left", "center", "right"]], ...]] = ((8, "left"), (-8, "right"), (0, "center"))
_PLACES: Final[tuple[Place, ...]] = tuple(
    (right, up, side)
    for up in (0, 9, -9, 18, -18, 27, -27, 36, -36)
    for right, side in _SIDES
    if up or side != "center"
)


@dataclass(frozen=True, slots=True)
class Line:
    """One of a curve's percentiles: what a panel shows."""

    server: str
    rates: tuple[float, ...]
    latency_ms: tuple[float, ...]


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
    columns = [(model, found) for model in run.settings["models"] if (found := curves(run, model))]
    if not columns:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with plt.rc_context({"font.size": 9, "font.family": "DejaVu Sans", "text.color": _INK, "axes.labelcolor": _INK}):
        size = (5 * len(columns), 7)
        figure, grid = plt.subplots(2, len(columns), figsize=size, squeeze=False, sharex="col", layout="constrained")
        for column, (model, found) in enumerate(columns):
            for axes, percentile in zip(grid[:, column], ("p50", "p99"), strict=True):
                lines = [
                    Line(curve.server, curve.rates, curve.p50_ms if percentile == "p50" else curve.p99_ms)
                    for curve in found
                ]
                _draw_panel(axes, lines, title=f"{model}, {percentile}")
            _mark_limit(grid[:, column], run, model)
            grid[1][column].set_xlabel("sequences/s, one a request, JSON, at 1 to 128 connections")
        for axes in grid[:, 0]:
            axes.set_ylabel("latency, ms")
        figure.canvas.draw()  # settles the layout, which the labels' places depend on
        for axes in grid.flat:
            _label(axes)
        figure.savefig(path, dpi=_DOTS_PER_INCH)
        plt.close(figure)
    return True


def _draw_panel(axes: "Axes", lines: list[Line], *, title: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axes.set_yscale("log")
    for line in lines:
        is_ours = line.server == "ours"
        axes.plot(
            line.rates,
            line.latency_ms,
            color=COLOURS[line.server],
            label=line.server,
            linewidth=2.4 if is_ours else 1.3,
            marker="o",
            markersize=4 if is_ours else 3,
            zorder=3 if is_ours else 2,
        )
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.margins(x=0.16, y=0.1)  # room for the names at the curves' ends
    axes.set_title(title, loc="left", fontweight="bold")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.grid(which="major", color="#DDDDDD", linewidth=0.6)
    axes.grid(which="minor", color="#F2F2F2", linewidth=0.4)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")
    axes.tick_params(which="both", color="#BBBBBB", labelcolor=_INK)


def _mark_limit(column: "Iterable[Axes]", run: Run, model: str) -> None:
    """A line at the rate of the graph in process, where that is not far beyond all servers."""
    best = spread(point.sequences_per_s for number in run.rounds if (point := run.limit(number, model, "fixed")))
    for axes in column:
        if best and best.median < _NEAR * axes.get_xlim()[1]:
            axes.axvline(best.median, color=_INK, linewidth=1, linestyle=(0, (1, 2)), zorder=1)
            place = (best.median, axes.get_ylim()[1])
            axes.annotate("limit", place, (-3, -3), textcoords="offset points", ha="right", va="top")


def _label(axes: "Axes") -> None:
    """Write each server's name at its curve's end, where it hides the least of the curves and no other name."""
    from matplotlib.patheffects import withStroke

    curves = [line for line in axes.get_lines() if line.get_label() in COLOURS]
    inked = [
        tuple(point)
        for line in curves
        for start, end in pairwise(axes.transData.transform(_points(line)))
        for point in np.linspace(start, end, _SAMPLES)
    ]
    ends = [tuple(axes.transData.transform(_points(line)[-1])) for line in curves]
    taken: list[Bbox] = []
    for line in sorted(curves, key=lambda line: -float(_points(line)[-1, 0])):  # on the right there is the least room
        name = str(line.get_label())
        x, y = _points(line)[-1].tolist()
        text = axes.annotate(
            NAMES[name],
            (x, y),
            (0, 0),
            textcoords="offset points",
            color=COLOURS[name],
            fontweight="bold" if name == "ours" else "normal",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
            va="center",
            zorder=4,
        )

        def cost(place: Place, text: "Annotation" = text) -> float:
            box = _move(text, place)
            hidden = sum(bool(box.contains(*point)) for point in inked) / _SAMPLES
            hidden += _END_WEIGHT * sum(bool(box.contains(*point)) for point in ends)
            outside = sum(not axes.bbox.padded(_OVERHANG).contains(*corner) for corner in box.corners())
            overlaps = sum(bool(box.overlaps(other)) for other in taken)
            return 3 * hidden + abs(place[1]) / 12 + 50 * (overlaps + outside)

        taken.append(_move(text, min(_PLACES, key=cost)))


def _points(line: "Line2D") -> NDArray[np.float64]:
    """The points of a curve (N, 2)."""
    return np.asarray(line.get_xydata(), np.float64)


def _move(text: "Annotation", place: Place) -> "Bbox":
    """Put `text` at an offset from its point; return the box, in pixels, that it then covers."""
    text.set_position(place[:2])
    text.set_horizontalalignment(place[2])
    return text.get_window_extent().padded(2)
