"""The figures: what each metric claims, scores against bytes saved and against what was asked, and domains.

Each function draws one figure from a survey; `draw_figures` writes them all. One colour per method everywhere, names
at the ends of lines, 95 % intervals as bands, and a shaded band where a score still matches dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from earnest.palette import ink
from earnest.records import CellRecord
from earnest.report.ink import BAND, MUTED, PAPER, STYLE, TEXT, save, title
from earnest.report.survey import CONTROLS, MATCHING, Claim, Curve, Point, Survey, spoken

PANEL = (5.2, 3.7)
CEILING = 3.0  # perplexities beyond this multiple of dense leave the frame, and are named at its edge
MAX_DOMAINS = 60


@dataclass(frozen=True)
class Drawn:
    """A figure as it stands on the page: its SVG, and the words below it."""

    name: str
    svg: str
    caption: str


def draw_figures(survey: Survey, folder: Path) -> list[Drawn]:
    """Write every figure that the cells allow as SVG (light and dark) and PNG.

    A sweep without compressed cells has none; a task without domains has no map of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    methods = list(dict.fromkeys(["dense", *(cell.method for cell in survey.cells)]))
    drawn = []
    for name, caption, draw in _all_figures(survey):
        with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
            drawn.append(Drawn(name, save(draw(), folder / name, methods), caption))
    return drawn


def _all_figures(survey: Survey) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    if not survey.curves:
        return
    judged = [curve for curve in survey.curves if not curve.is_pattern and survey.claims(curve)]
    if judged:
        yield "claims", _CLAIMS_CAPTION, lambda: claims_figure(survey, judged)
    for task in survey.tasks:
        yield f"saved-{task}", _saved_caption(survey, task), lambda task=task: saved_figure(survey, task)
    for task in survey.tasks:
        yield f"asked-{task}", "", lambda task=task: asked_figure(survey, task)
    for task in survey.tasks:
        if len(survey.domains(task)) > 1:
            yield f"domains-{task}", _DOMAINS_CAPTION, lambda task=task: domains_figure(survey, task)


_CLAIMS_CAPTION = (
    "How far each method can be pushed while a metric still matches dense (no more than 5% worse, relative). "
    "The diamond is what perplexity claims, dots are what the tasks say: the longer the line, the more perplexity hides."
)
_DOMAINS_CAPTION = "Score within each domain as a share of the dense model's: which knowledge goes first."


def _saved_caption(survey: Survey, task: str) -> str:
    estimate = survey.dense_score(task)
    return "" if estimate is None else f"{spoken(task).capitalize()}: n = {estimate.n}; bands are 95% intervals."


# --- what perplexity claims, what the tasks say ---------------------------------------------------------------------


def claims_figure(survey: Survey, curves: Sequence[Curve]) -> Figure:
    """One row per method: how far along it each metric says that nothing was lost."""
    figure = Figure(figsize=(7.4, 1.3 + 0.62 * len(curves)), layout="constrained")
    axes = figure.add_subplot()
    for row, curve in enumerate(curves):
        _claims_row(axes, curve, row, _claim_groups(survey, curve))
    axes.set_ylim(len(curves) - 0.4, -0.6)
    axes.set_yticks(range(len(curves)), [curve.name for curve in curves], fontsize=10)
    for label, curve in zip(axes.get_yticklabels(), curves, strict=True):
        label.set_color(ink(curve.method).light)
    axes.grid(visible=False)
    right = max((claim.saved for curve in curves for claim in survey.claims(curve)), default=0.0)
    axes.set_xlim(-0.28 * max(0.2, right), max(0.2, right) * 1.5)
    axes.set_xticks([tick for tick in axes.get_xticks() if -0.01 <= tick <= max(0.2, right) * 1.1])
    axes.xaxis.set_major_formatter(_percent)
    axes.set_xlabel("largest share of bytes saved at which the score still matches dense", loc="left")
    title(axes, "What perplexity claims, what knowledge says", "◇ perplexity   ● the tasks")
    return figure


@dataclass(frozen=True)
class _ClaimGroup:
    """The metrics that stop matching at the same point of a curve."""

    saved: float
    asked: str
    lower: tuple[str, ...]
    higher: tuple[str, ...]

    @property
    def text(self) -> str:
        names = ", ".join(map(spoken, (*self.lower, *self.higher)))
        return "\n".join(wrap(f"{names}: {self.asked}", 30))


def _claim_groups(survey: Survey, curve: Curve) -> list[_ClaimGroup]:
    by_point: dict[float, list[Claim]] = {}
    for claim in survey.claims(curve):
        by_point.setdefault(claim.saved, []).append(claim)
    return [
        _ClaimGroup(
            saved,
            claims[0].last.nominal.split(" g")[0] if claims[0].last else "at no ratio",
            tuple(claim.task for claim in claims if not survey.higher_is_better(claim.task)),
            tuple(claim.task for claim in claims if survey.higher_is_better(claim.task)),
        )
        for saved, claims in sorted(by_point.items())
    ]


def _claims_row(axes: Axes, curve: Curve, row: int, groups: Sequence[_ClaimGroup]) -> None:
    colour = ink(curve.method).light
    axes.plot([groups[0].saved, groups[-1].saved], [row, row], color=colour, linewidth=5, alpha=0.3, zorder=1)
    for index, group in enumerate(groups):
        at = (group.saved, row)
        if group.lower:
            axes.plot(*at, "D", color=colour, markerfacecolor=PAPER.light, markersize=11, markeredgewidth=1.6, zorder=3)
        if group.higher:
            axes.plot(*at, "o", color=colour, markersize=5 if group.lower else 8, zorder=4)
        _claim_label(axes, at, group.text, first=index == 0 and len(groups) > 1, last=index == len(groups) - 1)


def _claim_label(axes: Axes, at: tuple[float, int], text: str, *, first: bool, last: bool) -> None:
    """The first point's words stand at its left, the last one's at its right, those between above."""
    offset, align = ((-9, 0), "right") if first else ((11, 0), "left") if last else ((0, 8), "center")
    vertical = "center" if first or last else "bottom"
    axes.annotate(
        text, at, xytext=offset, textcoords="offset points", ha=align, va=vertical, fontsize=8, color=MUTED.light
    )


# --- score against bytes saved, and against what was asked ----------------------------------------------------------


def saved_figure(survey: Survey, task: str) -> Figure:
    """A task's score over the share of bytes saved: pruning and quantisation on one axis."""
    figure = Figure(figsize=PANEL, layout="constrained")
    axes = figure.add_subplot()
    _score_panel(axes, survey, task, survey.curves, lambda point: point.saved, origin=0.0, room=0.2)
    _reference_lines(axes, survey.references, task, 100.0 if survey.higher_is_better(task) else 1.0)
    axes.xaxis.set_major_formatter(_percent)
    axes.set_xlabel("share of bytes saved")
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
        axes.xaxis.set_major_formatter(_percent)
        axes.set_xlabel("sparsity asked")
        return
    harshness = sorted({point.harshness for curve in curves for point in curve.points})
    axes.set_xticks(harshness, [f"{16 - value:g}" for value in harshness])
    axes.set_xlabel("bits asked")


def _direction(survey: Survey, task: str) -> str:
    return ", higher is better" if survey.higher_is_better(task) else ", lower is better"


@dataclass(frozen=True)
class _Line:
    """A curve as drawn: where it runs, and how it is named."""

    x: tuple[float, ...]
    y: tuple[float, ...]
    curve: Curve

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
    scale = 100.0 if survey.higher_is_better(task) else 1.0
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
    return _Line(x, y, curve)


def _draw_line(axes: Axes, line: _Line, task: str, along: Callable[[Point], float], scale: float) -> None:
    colour = ink(line.curve.method).light
    if line.curve.is_pattern:
        axes.plot(
            line.x, line.y, "D", color=colour, markersize=5, markerfacecolor=PAPER.light, markeredgewidth=1.4, zorder=4
        )
    else:
        axes.plot(line.x, line.y, "o-", color=colour, linewidth=1.7, markersize=4, zorder=3)
    scored = [(along(point), estimate) for point in line.curve.points if (estimate := point.score(task))]
    ends = [(x, e.low * scale, e.high * scale) for x, e in scored if e.low is not None and e.high is not None]
    if len(ends) > 1:
        axes.fill_between(*zip(*ends, strict=True), color=colour, alpha=0.13, linewidth=0)
    elif ends:
        axes.plot([ends[0][0]] * 2, ends[0][1:], color=colour, linewidth=1, alpha=0.5)


def _frame(axes: Axes, survey: Survey, task: str, lines: Sequence[_Line], room: float) -> None:
    """Limits that let small changes be seen. A control may leave the frame; it is named at the edge, not hidden."""
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + room * (right - left))
    axes.yaxis.set_major_locator(MaxNLocator(6))
    dense = survey.dense_score(task)
    if survey.higher_is_better(task):
        axes.set_ylim(max(low, -2.0), min(high, 103.0))
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
    scored = sorted((cell.scores[task].main.value * scale, cell.model) for cell in references if task in cell.scores)
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
        where, style = (
            axes.get_yaxis_transform(),
            {"fontsize": 7.5, "color": MUTED.light, "ha": "right", "va": "bottom"},
        )
        axes.text(0.995, value, ", ".join(models), transform=where, **style)


# --- domains --------------------------------------------------------------------------------------------------------


def domains_figure(survey: Survey, task: str) -> Figure:
    """A map of what is left of each domain: one row per cell, one column per domain."""
    domains = survey.domains(task)[:MAX_DOMAINS]
    assert survey.dense is not None
    before = survey.dense.scores[task].groups["domain"]
    cells = [cell for cell in survey.compressed if "domain" in getattr(cell.scores.get(task), "groups", {})]
    figure = Figure(figsize=(2.1 + 0.62 * max(len(domains), 5), 1.5 + 0.23 * len(cells)), layout="constrained")
    axes = figure.add_subplot()
    for row, cell in enumerate(cells):
        for column, domain in enumerate(domains):
            after = cell.scores[task].groups["domain"].get(domain)
            if after is not None and before[domain].value:
                _domain_square(axes, row, column, after.value / before[domain].value)
    axes.set_xlim(0, len(domains))
    axes.set_ylim(len(cells), 0)
    axes.grid(visible=False)
    axes.xaxis.tick_top()
    axes.set_xticks(
        [c + 0.5 for c in range(len(domains))],
        domains,
        rotation=35 if len(domains) > 5 else 0,
        ha="left" if len(domains) > 5 else "center",
    )
    axes.set_yticks([r + 0.5 for r in range(len(cells))], [cell.label for cell in cells])
    axes.tick_params(length=0)
    for label, cell in zip(axes.get_yticklabels(), cells, strict=True):
        label.set_color(ink(cell.method).light)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(
        f"{spoken(task).capitalize()}: share of the dense score that is left",
        loc="left",
        fontsize=10.5,
        fontweight="bold",
    )
    return figure


def _domain_square(axes: Axes, row: int, column: int, kept: float) -> None:
    """One square: the more is lost, the deeper its colour; the share stands in it."""
    lost = min(max(1 - kept, 0.0), 1.0)
    axes.add_patch(
        mpl.patches.Rectangle(
            (column + 0.03, row + 0.05), 0.94, 0.9, facecolor=ink("gptq").light, alpha=0.04 + 0.86 * lost, linewidth=0
        )
    )
    axes.text(
        column + 0.5,
        row + 0.52,
        f"{kept:.0%}",
        ha="center",
        va="center",
        fontsize=7.5,
        color=TEXT.light if lost < 0.72 else PAPER.light,
    )


def _percent_tick(value: float, _: int) -> str:
    return f"{value:.0%}"


_percent = FuncFormatter(_percent_tick)
