"""The figures: what each metric claims (`claims.py`), scores as curves (`panels.py`), what pairs gain (`steering.py`),
where it was lost (`domains.py`).

Each function draws one figure from a survey; `draw_figures` writes them all. One colour per method everywhere, names
at the ends of lines, 95 % intervals as bands, and a shaded band where a score still matches dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from earnest.losses import Loss
from earnest.report.claims import CAPTION, claims_figure
from earnest.report.domains import Domains, blocks_figure, domains_figure
from earnest.report.gains import Gains
from earnest.report.ink import STYLE, save
from earnest.report.panels import asked_figure, saved_figure
from earnest.report.steering import alpha_figure, recovery_figure
from earnest.report.survey import Survey, spoken


@dataclass(frozen=True)
class Drawn:
    """A figure as it stands on the page: its SVG, and the words below it."""

    name: str
    svg: str
    caption: str


def draw_figures(survey: Survey, folder: Path, losses: Sequence[Loss] = ()) -> list[Drawn]:
    """Write every figure that the cells allow as SVG (light and dark) and PNG.

    A sweep without compressed cells has none; a task without domains has no map of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    methods = list(dict.fromkeys(["dense", "gptq", *(cell.method for cell in survey.cells)]))
    drawn = []
    for name, caption, draw in _all_figures(survey, Domains(survey, losses)):
        style: Any = {**STYLE, "svg.hashsalt": name}
        with mpl.rc_context(style):
            drawn.append(Drawn(name, save(draw(), folder / name, methods), caption))
    return drawn


Figures = Iterator[tuple[str, str, Callable[[], Figure]]]


def _all_figures(survey: Survey, domains: Domains) -> Figures:
    yield from _gain_figures(Gains(survey))
    if not survey.curves:
        return
    judged = [curve for curve in survey.curves if not curve.is_pattern and survey.claims(curve)]
    if judged:
        yield "claims", CAPTION, partial(claims_figure, survey, judged)
    for task in survey.tasks:
        yield f"saved-{task}", _saved_caption(survey, task), partial(saved_figure, survey, task)
    for task in survey.tasks:
        yield f"asked-{task}", _fluency_caption(survey, task), partial(asked_figure, survey, task)
    for task in domains.tasks:
        yield f"domains-{task}", _DOMAINS_CAPTION, partial(domains_figure, domains, task)
    for number, (cell, loss) in enumerate(domains.localised()):
        yield f"blocks-{loss.task}-{number}", _BLOCKS_CAPTION, partial(blocks_figure, cell, loss)


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
_DOMAINS_CAPTION = (
    "Relative change within each domain and stratum; framed where it is shown (5% of false discoveries over the whole "
    "map), grey where it may be chance."
)
_BLOCKS_CAPTION = (
    "Bars are 95% intervals over samples, below them the same within each domain, framed where the 95% interval lies "
    "above 0. Shares need not add up to 100%: what one block lost, another may hide."
)


def _saved_caption(survey: Survey, task: str) -> str:
    estimate = survey.dense_score(task)
    counts = "" if estimate is None else f"{spoken(task).capitalize()}: n = {estimate.n}; bands are 95% intervals."
    return f"{counts} {_fluency_caption(survey, task)}".strip()


def _fluency_caption(survey: Survey, task: str) -> str:
    """Which points are left out because too few statements are well formed; empty where none is."""
    labels = dict.fromkeys(cell.model if cell.family == "dense" else cell.label for cell in survey.not_fluent(task))
    left_out = "Left out as not fluent (fewer than half of the statements well formed)"
    return f"{left_out}: {', '.join(labels)}." if labels else ""
