"""Verdicts as people read them: a mark beside a change, what it rests on in words, and what would decide the rest."""

from __future__ import annotations

from statistics import median

from earnest.records import Comparison
from earnest.report.intervals import signed_interval
from earnest.report.survey import Survey, figure_text, spoken
from earnest.statistics.paired import MATCHING

SHOWN, FALLS, OPEN, NOISE, STOPPED = "✓", "✗", "?", "~", "!"
LEGEND = (
    f"{SHOWN} shown to be at most {MATCHING:.0%} worse than dense, {FALLS} shown to be more, {OPEN} not decided. "
    f"A wrong {SHOWN} anywhere, or a wrong {FALLS}: at most 5% (two one-sided tests, Holm)."
)
TOLD = 5  # tasks that are told of by name
STOPPED_LEGEND = f"{STOPPED} decided before all samples were asked, with the error rate of each by itself."
NOISE_LEGEND = f"{NOISE} no larger than seeds or batches alone make it."


def mark(comparison: Comparison) -> str:
    """What is shown, as one sign; empty where nothing was judged."""
    if comparison.verdict is None:
        return ""
    return SHOWN if comparison.no_worse else FALLS if comparison.falls else OPEN


def hint(comparison: Comparison) -> str:
    """Signs for what one must know of a change: decided early, within noise."""
    return (STOPPED if comparison.stopped else "") + (NOISE if comparison.within_noise else "")


def explained(comparison: Comparison, headline: str) -> str:
    """As in "not decided at n = 300, needs n ≈ 1,500; difference −4.1 [−7.0, −1.3], p = 0.021"."""
    if comparison.verdict is None:
        return ""
    if comparison.stopped:
        said = f"{comparison.verdict}, decided after {comparison.units:,} samples"
    else:
        said = f"{comparison.verdict} at {_counted(comparison)}"
    if comparison.needed:
        said = f"{said}, needs {_units(comparison)} ≈ {rounded_up(comparison.needed)}"
    return "; ".join(filter(None, (said, _difference(comparison, headline), _noise(comparison, headline))))


def _units(comparison: Comparison) -> str:
    return "n" if comparison.units == comparison.samples else "clusters"


def _counted(comparison: Comparison) -> str:
    """What a verdict rests on: "n = 300", "clusters = 57 (worth 41)" where they are of unequal weight."""
    return f"{_units(comparison)} = {comparison.units:,}{worth(comparison.units, comparison.effective)}"


def worth(units: int, effective: float | None) -> str:
    """As in " (worth 41)", of units whose weights make them worth fewer; empty where they are worth all."""
    return "" if effective is None or round(effective) >= units else f" (worth {effective:,.0f})"


def rests_on(survey: Survey) -> str:
    """How many units the verdicts of each task rest on, by the fewest of its cells."""
    found = []
    for task in survey.tasks:
        judged = [cell.comparisons[task] for cell in survey.cells if task in cell.comparisons]
        judged = [comparison for comparison in judged if comparison.verdict is not None and not comparison.stopped]
        if judged:
            found.append(f"{spoken(task)} {_counted(min(judged, key=lambda each: each.effective or each.units))}")
    return f"Verdicts rest on: {', '.join(found)}." if found else ""


def _difference(comparison: Comparison, headline: str) -> str:
    difference = comparison.difference
    if difference is None:
        return ""
    words = f"difference {signed_interval(difference, headline)}"
    if comparison.p is None:
        return words
    return f"{words}, p {'< 0.001' if comparison.p < 0.001 else f'= {comparison.p:.3f}'}"


def _noise(comparison: Comparison, headline: str) -> str:
    return "" if comparison.noise is None else f"seeds or batches alone: ±{figure_text(comparison.noise, headline)}"


def legend(survey: Survey) -> str:
    """What the marks that stand in the table mean."""
    found = [comparison for cell in survey.cells for comparison in cell.comparisons.values()]
    noise = [NOISE_LEGEND] if any(comparison.within_noise for comparison in found) else []
    stopped = [STOPPED_LEGEND] if any(comparison.stopped for comparison in found) else []
    return " ".join([LEGEND, *stopped, *noise])


def undecided(survey: Survey) -> list[tuple[str, int, int, str, int, int | None]]:
    """Per task with scores that are not decided: (task, how many, of, what its units are, units now, units that would
    decide half of them).

    None where no number of units would decide half of them.
    """
    found = []
    for task in survey.tasks:
        judged = [cell.comparisons[task] for cell in survey.cells if task in cell.comparisons]
        judged = [comparison for comparison in judged if comparison.verdict is not None]
        left = [comparison for comparison in judged if not (comparison.no_worse or comparison.falls)]
        if left:
            needs = sorted(comparison.needed or float("inf") for comparison in left)
            half = median(needs)
            enough = None if half == float("inf") else round(half)
            most = max(left, key=lambda comparison: comparison.units)
            found.append((task, len(left), len(judged), _units(most), most.units, enough))
    return found


def undecided_line(survey: Survey) -> str:
    """What is not decided, and the number of samples that would decide half of it."""
    left = sorted(undecided(survey), key=lambda each: -each[1])
    parts = [
        f"{spoken(task)} {count} of {of} at {units} = {now:,}"
        + (f" ({units} ≈ {rounded_up(need)} for half)" if need else "")
        for task, count, of, units, now, need in left[:TOLD]
    ]
    if others := left[TOLD:]:
        parts.append(f"{sum(count for _, count, *_ in others)} scores of {len(others)} other tasks")
    return f"Not decided: {'; '.join(parts)}." if parts else ""


def rounded_up(n: int) -> str:
    """A number of samples to two digits: 2,684 is 2,700."""
    step = 10 ** max(0, len(str(n)) - 2)
    return f"{-(-n // step) * step:,}"
