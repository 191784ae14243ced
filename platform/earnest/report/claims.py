"""The headline figure: what perplexity claims, what knowledge says.

For each method, how many bytes can be saved while a metric still matches dense: one outlined bar for what perplexity
claims, then filled bars for the tasks, those that end at the same ratios on one line. A bar is solid to where the match
is shown, and hatched from there to where the opposite is not shown either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from earnest.palette import ink
from earnest.report.ink import LINE, MUTED, PAPER, TEXT, title
from earnest.report.panels import PERCENT
from earnest.report.survey import Claim, Curve, Survey, spoken

BAR, PITCH, GAP = 0.62, 1.0, 0.9
ROW_INCHES = 0.2
LETTERS = 48  # more beside a bar would leave no room for it


@dataclass(frozen=True)
class Bar:
    """The metrics of one method that match up to the same ratios; `outlined` marks perplexity."""

    metrics: tuple[str, ...]
    claim: Claim
    outlined: bool

    @property
    def words(self) -> str:
        """What stands at the bar's end: "40%  perplexity", "20% (40%?)  closed book"."""
        return f"{self.claim.ratios}  {_listed([spoken(metric) for metric in self.metrics])}"


def _listed(names: Sequence[str]) -> str:
    """As many of the names as there is room for: "closed book, trivia qa and 5 more"; at least one."""
    fits = max(1, sum(len(", ".join(names[: n + 1])) <= LETTERS for n in range(len(names))))
    return ", ".join(names[:fits]) + (f" and {len(names) - fits} more" if fits < len(names) else "")


def claims_figure(survey: Survey, curves: Sequence[Curve]) -> Figure:
    """Draw all methods below each other, on one axis of bytes saved."""
    groups = [(curve, bars_of(survey, curve)) for curve in curves]
    rows = sum(len(bars) for _, bars in groups) * PITCH + len(groups) * GAP
    figure = Figure(figsize=(7.4, 1.25 + ROW_INCHES * rows), layout="constrained")
    axes = figure.add_subplot()
    at, ticks = 0.0, []
    for curve, bars in groups:
        ticks.append(at)
        for bar in bars:
            _draw(axes, bar, at, ink(curve.method).light)
            at += PITCH
        at += GAP
    _frame(axes, at - GAP, max((bar.claim.at_most for _, bars in groups for bar in bars), default=0.0))
    axes.set_yticks(ticks, [curve.name for curve in curves], fontsize=10)
    for label, curve in zip(axes.get_yticklabels(), curves, strict=True):
        label.set_color(ink(curve.method).light)
    title(
        axes,
        "What perplexity claims, what knowledge says",
        "outlined: perplexity · filled: the tasks · hatched: not decided",
    )
    return figure


def bars_of(survey: Survey, curve: Curve) -> list[Bar]:
    """Perplexity's bar, then the tasks' from the longest to the shortest."""
    claims = survey.claims(curve)
    outlined = [Bar((c.task,), c, outlined=True) for c in claims if not survey.higher_is_better(c.task)]
    by_ratio: dict[tuple[float, float, str], list[Claim]] = {}
    for claim in claims:
        if survey.higher_is_better(claim.task):
            by_ratio.setdefault((claim.saved, claim.at_most, claim.unmeasured or ""), []).append(claim)
    filled = [Bar(tuple(c.task for c in same), same[0], outlined=False) for _, same in sorted(by_ratio.items())]
    return [*outlined, *reversed(filled)]


def _draw(axes: Axes, bar: Bar, at: float, colour: str) -> None:
    face = PAPER.light if bar.outlined else colour
    shown, end = bar.claim.saved, bar.claim.at_most
    axes.barh(at, shown, BAR, left=0, color=face, edgecolor=colour, linewidth=1.3, zorder=2)
    if end > shown:
        axes.barh(
            at,
            end - shown,
            BAR,
            left=shown,
            color=PAPER.light,
            edgecolor=colour,
            hatch="/////",
            linewidth=0.8,
            zorder=1,
        )
    axes.annotate(
        bar.words, (end, at), xytext=(6, 0), textcoords="offset points", va="center", fontsize=8.5,
        color=TEXT.light if bar.outlined else MUTED.light,
    )  # fmt: skip


def _frame(axes: Axes, bottom: float, right: float) -> None:
    axes.set_ylim(bottom, -PITCH)
    span = max(0.2, right)
    axes.set_xlim(0, span * 1.9)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= span * 1.05])
    axes.xaxis.set_major_formatter(PERCENT)
    axes.grid(visible=False)
    axes.axvline(0, color=LINE.light, linewidth=1)
    axes.set_xlabel("share of the file's bytes saved to which the score matches dense", loc="left")


CAPTION = (
    "How far each method can be pushed while a metric still matches dense (no more than 5% worse, relative): solid as "
    "far as that is shown, hatched as far as the opposite is not shown; in brackets where the hatched part ends. "
    "Outlined bars are what perplexity claims, filled ones what the tasks say: where a filled bar ends before the "
    "outlined one is solid, something is lost that perplexity does not show."
)
