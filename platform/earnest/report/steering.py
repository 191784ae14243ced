"""Figures of what pairs gain: score against alpha, and compressed bases with and without the pair.

Lines carry the colour of their base's method; the directly tuned model and the expert alone are dotted lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from earnest.palette import ink
from earnest.records import Estimate
from earnest.report.gains import AlphaLine, Gains, Recovery
from earnest.report.ink import MUTED, PAPER, title
from earnest.report.panels import PANEL, PERCENT
from earnest.report.survey import Point, spoken

NAME_GAP = 0.065  # of the axis: names of lines keep this distance
WITHOUT = (0, (2, 1.6))
WILDEST = 1.05  # shares of a gap beyond this either way, as small gaps give, leave the frame


@dataclass(frozen=True)
class _End:
    """Where a line ends, and what is written there."""

    x: float
    y: float
    name: str
    colour: str


def alpha_figure(gains: Gains, task: str) -> Figure:
    """A task's score over alpha, with its 95% interval; adaptive alpha stands as a diamond at the right."""
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.add_subplot()
    scale = gains.survey.scale(task)
    lines = gains.alpha_lines(task)
    beside = max(alpha for line in lines for alpha, _ in line.points) + 0.35
    for line in lines:
        _draw_alphas(axes, line, scale, beside)
    ticks = sorted({alpha for line in lines for alpha, _ in line.points})
    words = [f"{alpha:g}" for alpha in ticks]
    if any(line.adaptive for line in lines):
        ticks, words = [*ticks, beside], [*words, "adaptive"]
    axes.set_xticks(ticks, words)
    axes.set_xlabel("α: how strongly the pair steers")
    axes.yaxis.set_major_locator(MaxNLocator(6))
    _dotted(axes, gains, task, scale, {line.pair for line in lines}, at="right")
    if len(lines) > 1:
        _name_ends(axes, [_end_of(line, scale) for line in lines])
    title(axes, spoken(task).capitalize(), _below(gains, task))
    return figure


def _end_of(line: AlphaLine, scale: float) -> _End:
    alpha, estimate = line.points[-1]
    return _End(alpha, estimate.value * scale, line.name, ink(line.base.method).light)


def _draw_alphas(axes: Axes, line: AlphaLine, scale: float, beside: float) -> None:
    colour = ink(line.base.method).light
    alphas = [alpha for alpha, _ in line.points]
    axes.plot(
        alphas, [e.value * scale for _, e in line.points], "o-", color=colour, linewidth=1.7, markersize=4, zorder=3
    )
    _band(axes, line.points, scale, colour)
    if line.adaptive is not None:
        _whisker(axes, beside, line.adaptive, scale, colour)


def _band(axes: Axes, points: Iterable[tuple[float, Estimate]], scale: float, colour: str) -> None:
    ends = [(x, e.low * scale, e.high * scale) for x, e in points if e.low is not None and e.high is not None]
    if len(ends) > 1:
        x, lows, highs = zip(*ends, strict=True)
        axes.fill_between(x, lows, highs, color=colour, alpha=0.13, linewidth=0)


def _whisker(axes: Axes, x: float, estimate: Estimate, scale: float, colour: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([x, x], [estimate.low * scale, estimate.high * scale], color=colour, linewidth=1, alpha=0.6)
    axes.plot([x], [estimate.value * scale], "D", color=colour, markersize=5, markerfacecolor=PAPER.light, zorder=4)


def recovery_figure(gains: Gains, task: str, strength: str) -> Figure:
    """Compressed bases over bytes saved: above the scores without (dashed) and with the pair, below the gap closed.

    A pair without a target has what is won back there.
    """
    figure = Figure(figsize=(PANEL[0], PANEL[1] * 1.65), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    scale = gains.survey.scale(task)
    ends = [_draw_recovery(above, gains, recovery, task, strength, scale) for recovery in gains.recoveries(strength)]
    shares = [_draw_share(below, gains, recovery, task, strength) for recovery in gains.recoveries(strength)]
    left, right = above.get_xlim()
    above.set_xlim(left, right + 0.24 * (right - left))
    above.set_xticks([tick for tick in above.get_xticks() if 0 <= tick <= right])
    low, high = below.get_ylim()
    below.set_ylim(max(low, -WILDEST), min(high, WILDEST))
    for axes in (above, below):
        axes.yaxis.set_major_locator(MaxNLocator(5))
    pairs = {gains.steering(cell).pair for cell in gains.cells if gains.steering(cell).label == strength}
    _dotted(above, gains, task, scale, pairs, at="left")
    _name_ends(above, [end for end in ends if end])
    _name_ends(below, [end for end in shares if end])
    if not any(shares):
        below.set_yticks([])
        below.text(0.5, 0.5, "no gap is shown", transform=below.transAxes, ha="center", va="center", color=MUTED.light)
    below.xaxis.set_major_formatter(PERCENT)
    below.yaxis.set_major_formatter(PERCENT)
    below.set_xlabel("share of the file's bytes saved")
    targeted = any(gains.steering(c).target for c in gains.cells if gains.steering(c).label == strength)
    below.set_ylabel("gap closed" if targeted else "won back")
    title(above, f"{spoken(task).capitalize()}, {strength}", f"{_below(gains, task)}; dashed: without the pair")
    return figure


def _draw_recovery(axes: Axes, gains: Gains, recovery: Recovery, task: str, strength: str, scale: float) -> _End | None:
    colour = ink(recovery.without.method).light
    under = gains.dense_under(strength)
    starts = (gains.survey.dense_score(task), under.scores[task].main if under and task in under.scores else None)
    end = None
    for curve, start, style in zip((recovery.without, recovery.steered), starts, (WITHOUT, "-"), strict=True):
        points = _points(curve.points, task, None if curve.is_pattern else start)
        if not points:
            continue
        x, y = [at for at, _ in points], [e.value * scale for _, e in points]
        marker, face = ("D", PAPER.light) if style == WITHOUT else ("o", colour)
        axes.plot(
            x,
            y,
            marker=marker,
            linestyle=style,
            color=colour,
            linewidth=1.5,
            markersize=4,
            markerfacecolor=face,
            zorder=3,
        )
        if style == "-":
            _band(axes, points, scale, colour)
            end = _End(x[-1], y[-1], recovery.without.name, colour)
    return end


def _draw_share(axes: Axes, gains: Gains, recovery: Recovery, task: str, strength: str) -> _End | None:
    colour = ink(recovery.without.method).light
    under = gains.dense_under(strength)
    gain = gains.gain_of(under, task) if under else None
    start = gain.gap_closed if gain else None
    found = [(point.saved, estimate) for point in recovery.steered.points if (estimate := gains.share(point, task))]
    points = [*([(0.0, start)] if start and not recovery.steered.is_pattern else []), *found]
    if not found:
        return None
    axes.plot(
        [x for x, _ in points], [e.value for _, e in points], "o-", color=colour, linewidth=1.5, markersize=4, zorder=3
    )
    _band(axes, points, 1.0, colour)
    return _End(points[-1][0], points[-1][1].value, recovery.without.name, colour)


def _points(points: Sequence[Point], task: str, start: Estimate | None) -> list[tuple[float, Estimate]]:
    found = [(point.saved, estimate) for point in points if (estimate := point.score(task))]
    return [(0.0, start), *found] if start is not None and found else found


def _dotted(
    axes: Axes, gains: Gains, task: str, scale: float, pairs: Iterable[str], *, at: Literal["left", "right"]
) -> None:
    """The directly tuned model and the experts alone, where they were evaluated, named at the side that is free."""
    steering = [gains.steering(cell) for cell in gains.cells if gains.steering(cell).pair in set(pairs)]
    names = dict.fromkeys(name for one in steering for name in (one.target, one.expert) if name is not None)
    for name in names:
        estimate = gains.score_of(name, task)
        if estimate is None:
            continue
        axes.axhline(estimate.value * scale, color=MUTED.light, linewidth=0.9, linestyle=(0, (1, 2)), zorder=1)
        axes.annotate(
            name, (0.005 if at == "left" else 0.995, estimate.value * scale), xycoords=axes.get_yaxis_transform(),
            xytext=(0, 2), textcoords="offset points", fontsize=7.5, color=MUTED.light, ha=at, va="bottom",
        )  # fmt: skip


def _name_ends(axes: Axes, ends: Sequence[_End]) -> None:
    """Write each line's name at its end, moved down where a neighbour stands already."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    gap, taken = NAME_GAP * (high - low), list[tuple[float, float]]()
    for end in sorted(ends, key=lambda each: -each.y):
        y = end.y
        while any(abs(y - other) < gap and abs(end.x - x) < 0.25 * (right - left) for x, other in taken):
            y -= gap / 4
        taken.append((end.x, y))
        axes.annotate(
            end.name, (end.x, y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5,
            color=end.colour,
        )  # fmt: skip


def _below(gains: Gains, task: str) -> str:
    direction = "higher" if gains.survey.higher_is_better(task) else "lower"
    return f"{gains.survey.headline(task).replace('_', ' ')}, {direction} is better"
