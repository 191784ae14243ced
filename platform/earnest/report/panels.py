"""Scores as curves: against the share of bytes saved, and against the sparsity or bits that were asked.

A curve starts at the dense point; its name stands at its end. The shaded band is all that still matches dense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from earnest.palette import ink
from earnest.records import CellRecord
from earnest.report.ink import BAND, MUTED, PAPER, TEXT, title
from earnest.report.survey import CONTROLS, Curve, Point, Survey, spoken
from earnest.statistics.paired import MATCHING

PANEL = (5.2, 3.7)
CEILING = 3.0  # perplexities beyond this multiple of dense leave the frame, and are named at its edge
PERCENT = FuncFormatter(lambda value, _: f"{value:.0%}")


def saved_figure(survey: Survey, task: str) -> Figure:
    """A task's score over the share of bytes saved: pruning and quantisation on one axis."""
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.add_subplot()
    _score_panel(axes, survey, task, survey.curves, lambda point: point.saved, origin=0.0, room=0.3)
    _reference_lines(axes, survey.references, task, survey.scale(task))
    axes.xaxis.set_major_formatter(PERCENT)
    axes.set_xlabel("share of the file's bytes saved")
    title(axes, spoken(task).capitalize(), f"{survey.headline(task).replace('_', ' ')}{_direction(survey, task)}")
    return figure


def asked_figure(survey: Survey, task: str) -> Figure:
    """A task's score over what was asked: sparsity at the left, bits at the right."""
    families = [f for f in ("pruning", "quantisation") if any(curve.family == f for curve in survey.curves)]
    figure = Figure(figsize=PANEL, layout="constrained")
    panels = figure.subplots(1, len(families), sharey=True, squeeze=False)[0]
    for axes, family in zip(panels, families, strict=True):
        curves = [curve for curve in survey.curves if curve.family == family]
        origin = 0.0 if family == "pruning" else min(point.harshness for curve in curves for point in curve.points)
        room = 0.22 if len(families) == 1 else 0.5
        _score_panel(axes, survey, task, curves, lambda point: point.harshness, origin=origin, room=room)
        _asked_axis(axes, family, curves)
    title(panels[0], spoken(task).capitalize(), f"{survey.headline(task).replace('_', ' ')}{_direction(survey, task)}")
    return figure


def _asked_axis(axes: Axes, family: str, curves: Sequence[Curve]) -> None:
    if family == "pruning":
        axes.xaxis.set_major_formatter(PERCENT)
        axes.set_xlabel("sparsity asked")
        return
    harshness = sorted({point.harshness for curve in curves for point in curve.points})
    axes.set_xticks(harshness, [f"{16 - value:g}" for value in harshness])
    axes.set_xlabel("bits asked")


def _direction(survey: Survey, task: str) -> str:
    return ", higher is better" if survey.higher_is_better(task) else ", lower is better"


@dataclass(frozen=True)
class _Line:
    """A curve as drawn: where it runs, and how it is named. `breaks` are the places where the model is not fluent."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    curve: Curve
    breaks: tuple[float, ...] = ()

    def path(self) -> tuple[list[float], list[float]]:
        """The line to draw, with a NaN at each break so that no stroke bridges it."""
        steps = sorted([*zip(self.x, self.y, strict=True), *((x, math.nan) for x in self.breaks)], key=lambda at: at[0])
        return [x for x, _ in steps], [y for _, y in steps]

    def name_at(self, high: float) -> tuple[float, float, str]:
        """Where the name goes, and the name; a line that leaves the frame is named where it leaves, with its end."""
        over = next((i for i, y in enumerate(self.y) if y > high), None)
        if over is None:
            return self.x[-1], self.y[-1], self.curve.name
        share = (high - self.y[over - 1]) / (self.y[over] - self.y[over - 1]) if over else 0.0
        x = self.x[over - 1] + share * (self.x[over] - self.x[over - 1]) if over else self.x[0]
        return x, high, f"{self.curve.name} ↑ {self.y[-1]:.3g}"


def _score_panel(
    axes: Axes,
    survey: Survey,
    task: str,
    curves: Sequence[Curve],
    along: Callable[[Point], float],
    *,
    origin: float,
    room: float,
) -> None:
    dense = survey.dense_score(task)
    scale = survey.scale(task)
    start = None if dense is None else (origin, dense.value * scale)
    lines = [line for curve in curves if (line := _line(curve, task, along, scale, start))]
    for line in lines:
        _draw_line(axes, line, task, along, scale)
    _frame(axes, survey, task, lines, room)
    _name_lines(axes, lines)
    if dense is not None:
        _dense_band(axes, dense.value * scale, higher=survey.higher_is_better(task))


def _line(
    curve: Curve, task: str, along: Callable[[Point], float], scale: float, start: tuple[float, float] | None
) -> _Line | None:
    """The curve's points where the task was scored, from the dense point on; N:M patterns stand alone."""
    scored = [(along(point), estimate.value * scale) for point in curve.points if (estimate := point.score(task))]
    if not scored:
        return None
    first = [] if start is None or curve.is_pattern else [start]
    x, y = zip(*[*first, *scored], strict=True)
    return _Line(x, y, curve, tuple(along(point) for point in curve.points if not point.is_fluent(task)))


def _draw_line(axes: Axes, line: _Line, task: str, along: Callable[[Point], float], scale: float) -> None:
    colour = ink(line.curve.method).light
    if line.curve.is_pattern:
        axes.plot(line.x, line.y, "D", color=colour, markersize=5, markeredgewidth=1.4, zorder=4)
    else:
        axes.plot(*line.path(), "o-", color=colour, linewidth=1.7, markersize=4, zorder=3)
    _hollow_points(axes, line, task, along, scale)
    scored = [(along(point), estimate) for point in line.curve.points if (estimate := point.score(task))]
    ends = [(x, e.low * scale, e.high * scale) for x, e in scored if e.low is not None and e.high is not None]
    if len(ends) > 1:
        gaps = [(x, math.nan, math.nan) for x in line.breaks]
        x, lows, highs = zip(*sorted([*ends, *gaps], key=lambda end: end[0]), strict=True)
        axes.fill_between(x, lows, highs, color=colour, alpha=0.13, linewidth=0)
    elif ends:
        axes.plot([ends[0][0]] * 2, ends[0][1:], color=colour, linewidth=1, alpha=0.5)


def _hollow_points(axes: Axes, line: _Line, task: str, along: Callable[[Point], float], scale: float) -> None:
    """Points of which neither a match nor a fall is shown get an empty middle."""
    left = [point for point in line.curve.points if not (point.no_worse(task) or point.falls(task))]
    at = [(along(point), estimate.value * scale) for point in left if (estimate := point.score(task))]
    if at:
        colour, marker = ink(line.curve.method).light, "D" if line.curve.is_pattern else "o"
        x, y = zip(*at, strict=True)
        axes.scatter(x, y, s=18, marker=marker, color=PAPER.light, edgecolors=colour, zorder=5)


def _frame(axes: Axes, survey: Survey, task: str, lines: Sequence[_Line], room: float) -> None:
    """Limits that let small changes be seen. A control may leave the frame; it is named at the edge, not hidden."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + room * (right - left))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    dense = survey.dense_score(task)
    if survey.higher_is_better(task):
        axes.set_ylim(max(low, -2.0), min(high, 103.0) if survey.scale(task) > 1 else high)
    elif dense is not None:
        tested = [y for line in lines if line.curve.method not in CONTROLS for y in line.y]
        most = max([*tested, dense.value * (1 + 2 * MATCHING)])
        axes.set_ylim(max(low, dense.value * 0.97), min(high, most * 1.04, dense.value * CEILING))


def _name_lines(axes: Axes, lines: Sequence[_Line]) -> None:
    """Write each name at its line's end, moved down where a neighbour stands already."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    gap, placed = (high - low) * 0.062, list[tuple[float, float]]()
    for line in sorted(lines, key=lambda each: -min(each.y[-1], high)):
        x, y, name = line.name_at(high)
        at = min(max(y, low + gap / 2), high - gap / 2)
        is_pattern = line.curve.is_pattern
        side = x - 0.2 * (right - left) if is_pattern else x
        while any(
            abs(at - y_taken) < gap and abs(side - x_taken) < 0.19 * (right - left) for x_taken, y_taken in placed
        ):
            at -= gap / 4
        placed.append((side, at))
        _write_name(axes, (x, at), name.removeprefix(f"{line.curve.method} ") if is_pattern else name, line.curve)


def _write_name(axes: Axes, at: tuple[float, float], name: str, curve: Curve) -> None:
    offset, align = ((-6, 0), "right") if curve.is_pattern else ((6, 0), "left")
    colour = ink(curve.method).light
    axes.annotate(
        name, at, xytext=offset, textcoords="offset points", ha=align, va="center", fontsize=8.5, color=colour
    )


def _dense_band(axes: Axes, dense: float, *, higher: bool) -> None:
    """A line at the dense score, and a band for all that still matches it."""
    worst = dense * (1 - MATCHING if higher else 1 + MATCHING)
    axes.axhspan(min(dense, worst), max(dense, worst), color=BAND.light, zorder=0, linewidth=0)
    axes.axhline(dense, color=TEXT.light, linewidth=0.9, zorder=2)


def _reference_lines(axes: Axes, references: Sequence[CellRecord], task: str, scale: float) -> None:
    """Other dense models as dotted lines; those that stand on each other share one name."""
    low, high = axes.get_ylim()
    fluent = [cell for cell in references if task in cell.scores and cell.scores[task].means_something]
    scored = sorted((cell.scores[task].main.value * scale, cell.model) for cell in fluent)
    named: list[tuple[float, list[str]]] = []
    for value, model in scored:
        if not low <= value <= high:
            continue
        axes.axhline(value, color=MUTED.light, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        if named and value - named[-1][0] < 0.05 * (high - low):
            named[-1][1].append(model)
        else:
            named.append((value, [model]))
    for value, models in named:
        where, names = axes.get_yaxis_transform(), ", ".join(models)
        axes.text(0.995, value, names, transform=where, fontsize=7.5, color=MUTED.light, ha="right", va="bottom")
