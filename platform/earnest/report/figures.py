"""The figures: what each metric claims (`claims.py`), scores as curves (`panels.py`), what pairs gain (`steering.py`),
and the map of domains.

Each function draws one figure from a survey; `draw_figures` writes them all. One colour per method everywhere, names
at the ends of lines, 95 % intervals as bands, and a shaded band where a score still matches dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from earnest.palette import ink
from earnest.report.claims import claims_figure
from earnest.report.gains import Gains
from earnest.report.ink import PAPER, STYLE, TEXT, save
from earnest.report.panels import asked_figure, saved_figure
from earnest.report.steering import alpha_figure, recovery_figure
from earnest.report.survey import Survey, is_fluent, spoken

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


Figures = Iterator[tuple[str, str, Callable[[], Figure]]]


def _all_figures(survey: Survey) -> Figures:
    yield from _gain_figures(Gains(survey))
    if not survey.curves:
        return
    judged = [curve for curve in survey.curves if not curve.is_pattern and survey.claims(curve)]
    if judged:
        yield "claims", _CLAIMS_CAPTION, partial(claims_figure, survey, judged)
    for task in survey.tasks:
        yield f"saved-{task}", _saved_caption(survey, task), partial(saved_figure, survey, task)
    for task in survey.tasks:
        yield f"asked-{task}", _fluency_caption(survey, task), partial(asked_figure, survey, task)
    for task in survey.tasks:
        if len(survey.domains(task)) > 1:
            yield f"domains-{task}", _DOMAINS_CAPTION, partial(domains_figure, survey, task)


def _gain_figures(gains: Gains) -> Figures:
    for task in gains.tasks:
        if gains.alpha_lines(task):
            yield f"alpha-{task}", _ALPHA_CAPTION, partial(alpha_figure, gains, task)
        for number, strength in enumerate(gains.strengths):
            if gains.recoveries(strength):
                figure = partial(recovery_figure, gains, task, strength)
                yield f"recovery-{task}-{number}", _RECOVERY_CAPTION, figure


_ALPHA_CAPTION = (
    "At α = 0 stands the base alone; bands are 95% intervals. Dotted: the directly tuned model and the expert alone."
)
_RECOVERY_CAPTION = (
    "Compressed bases over the bytes they save, without the pair (dashed) and with it. Below, the share of the gap to "
    "the directly tuned model that the pair closes from there, or, without such a model, the share of what compression "
    "cost that it wins back; it stands only where that gap is shown. Bands are 95% "
    "intervals, cut where a gap is so small that its share is beyond measure."
)
_CLAIMS_CAPTION = (
    "How far each method can be pushed while a metric still matches dense (no more than 5% worse, relative). "
    "Outlined bars are what perplexity claims, filled ones what the tasks say: where a filled bar ends before the "
    "outlined one, something is lost that perplexity does not show."
)
_DOMAINS_CAPTION = "Score within each domain as a share of the dense model's: which knowledge goes first."


def _saved_caption(survey: Survey, task: str) -> str:
    estimate = survey.dense_score(task)
    counts = "" if estimate is None else f"{spoken(task).capitalize()}: n = {estimate.n}; bands are 95% intervals."
    return f"{counts} {_fluency_caption(survey, task)}".strip()


def _fluency_caption(survey: Survey, task: str) -> str:
    """Which points are left out because too few statements are well formed; empty where none is."""
    labels = dict.fromkeys(cell.model if cell.family == "dense" else cell.label for cell in survey.not_fluent(task))
    left_out = "Left out as not fluent (fewer than half of the statements well formed)"
    return f"{left_out}: {', '.join(labels)}." if labels else ""


# --- domains --------------------------------------------------------------------------------------------------------


def domains_figure(survey: Survey, task: str) -> Figure:
    """A map of what is left of each domain: one row per cell, one column per domain."""
    domains = survey.domains(task)[:MAX_DOMAINS]
    assert survey.dense is not None
    before = survey.dense.scores[task].groups["domain"]
    scored = [cell for cell in survey.compressed if task in cell.scores and is_fluent(cell.scores[task])]
    cells = [cell for cell in scored if "domain" in cell.scores[task].groups]
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
