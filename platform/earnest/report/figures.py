"""The figures: what each metric claims, every task's scores as curves (`panels.py`), and the map of domains.

Each function draws one figure from a survey; `draw_figures` writes them all. One colour per method everywhere, names
at the ends of lines, 95 % intervals as bands, and a shaded band where a score still matches dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import wrap
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from earnest.palette import ink
from earnest.report.ink import MUTED, PAPER, STYLE, TEXT, save, title
from earnest.report.panels import PERCENT, asked_figure, saved_figure
from earnest.report.survey import Claim, Curve, Survey, spoken

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
        style: Any = {**STYLE, "svg.hashsalt": name}
        with mpl.rc_context(style):
            drawn.append(Drawn(name, save(draw(), folder / name, methods), caption))
    return drawn


def _all_figures(survey: Survey) -> Iterator[tuple[str, str, Callable[[], Figure]]]:
    if not survey.curves:
        return
    judged = [curve for curve in survey.curves if not curve.is_pattern and survey.claims(curve)]
    if judged:
        yield "claims", _CLAIMS_CAPTION, partial(claims_figure, survey, judged)
    for task in survey.tasks:
        yield f"saved-{task}", _saved_caption(survey, task), partial(saved_figure, survey, task)
    for task in survey.tasks:
        yield f"asked-{task}", "", partial(asked_figure, survey, task)
    for task in survey.tasks:
        if len(survey.domains(task)) > 1:
            yield f"domains-{task}", _DOMAINS_CAPTION, partial(domains_figure, survey, task)


_CLAIMS_CAPTION = (
    "How far each method can be pushed while a metric still matches dense (no more than 5% worse, relative). "
    "The diamond is what perplexity claims, dots what the tasks say: the longer the line, the more perplexity hides."
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
    axes.xaxis.set_major_formatter(PERCENT)
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
