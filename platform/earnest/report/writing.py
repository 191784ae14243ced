"""How answers are written and how sure they are, and on which tokens a model moved: tables from the stored metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from earnest.records import CellRecord, Estimate, Part
from earnest.report.intervals import half_width
from earnest.report.survey import Survey

# Metric, heading, and how it is written: a share in percent, or a number.
WRITING = (
    ("tokens", "tokens", ".1f"),
    ("rep_2", "rep-2", "%"),
    ("rep_4", "rep-4", "%"),
    ("distinct_2", "distinct-2", "%"),
    ("empty", "empty", "%"),
    ("declined", "declined", "%"),
    ("unfinished", "unfinished", "%"),
    ("output_perplexity", "perplexity for dense", ".3f"),
    ("confidence", "confidence", "%"),
    ("ece_10", "ECE", "%"),
    ("ece_10_if_calibrated", "ECE if calibrated", "%"),
    ("brier", "Brier", ".3f"),
)
ORDER = (
    "value", "value again", "name", "grammar",
    "word begins", "word goes on", "digits", "punctuation", "white space", "other",
)  # fmt: skip
GROUPINGS = {"told": "What the token tells", "form": "Form of the token", "position": "Tokens read before it"}
DIVERGENCE, NATS = "kl_to_dense", "nats_per_token"


def writing_tables(survey: Survey) -> list[dict[str, Any]]:
    """One table per task that has such metrics: a row per cell that nothing steers, a column per metric there is."""
    return [table for task in survey.tasks if (table := _writing_table(survey, task)) is not None]


def _writing_table(survey: Survey, task: str) -> dict[str, Any] | None:
    cells = [cell for cell in survey.plain if task in cell.scores]
    shown = [each for each in WRITING if any(each[0] in cell.scores[task].metrics for cell in cells)]
    if not shown or shown == [WRITING[0]]:
        return None
    rows = [
        {
            **_named(cell),
            "figures": [_figure(cell.scores[task].metrics.get(name), form) for name, _, form in shown],
        }
        for cell in cells
    ]
    return {"task": task, "headings": [heading for _, heading, _ in shown], "rows": rows}


def moved_tables(survey: Survey) -> list[dict[str, Any]]:
    """One table per grouping of tokens: KL to dense and nats per token by kind of token, a row per cell."""
    tasks = [task for task in survey.tasks if any(DIVERGENCE in _breakdowns(cell, task) for cell in survey.plain)]
    return [
        table for task in tasks for grouping in GROUPINGS if (table := _moved_table(survey, task, grouping)) is not None
    ]


def _moved_table(survey: Survey, task: str, grouping: str) -> dict[str, Any] | None:
    cells = [cell for cell in survey.plain if grouping in _breakdowns(cell, task).get(NATS, {})]
    nats = [_breakdowns(cell, task)[NATS][grouping] for cell in cells]
    if not nats:
        return None
    kinds, whole = sorted(nats[0], key=place_of_kind), sum(part.tokens for part in nats[0].values())
    rows = [
        {
            **_named(cell),
            "figures": [
                _moved(_breakdowns(cell, task).get(DIVERGENCE, {}).get(grouping, {}).get(kind), mine.get(kind))
                for kind in kinds
            ],
        }
        for cell, mine in zip(cells, nats, strict=True)
    ]
    shares = [f"{kind} ({nats[0][kind].tokens / whole:.0%})" for kind in kinds]
    return {"task": task, "grouping": grouping, "title": GROUPINGS[grouping], "headings": shares, "rows": rows}


def _breakdowns(cell: CellRecord, task: str) -> Mapping[str, Mapping[str, Mapping[str, Part]]]:
    return cell.scores[task].breakdowns if task in cell.scores else {}


def place_of_kind(kind: str) -> tuple[int, int, str]:
    """Where a kind stands among its like: positions by their number, the others as in ORDER."""
    first = kind.split(" ", maxsplit=1)[0]
    return int(first) if first.isdecimal() else 0, ORDER.index(kind) if kind in ORDER else len(ORDER), kind


def _named(cell: CellRecord) -> dict[str, str]:
    seed = f", seed {cell.seed}" if cell.seed else ""
    return {"method": cell.method, "name": (cell.model if cell.family == "dense" else cell.label) + seed}


def _figure(estimate: Estimate | None, form: str) -> dict[str, str]:
    if estimate is None:
        return {"text": "–", "half": ""}
    half = half_width(estimate)
    return {"text": _text(estimate.value, form), "half": "" if half is None else _visible(half, form)}


def _moved(divergence: Part | None, nats: Part | None) -> dict[str, str]:
    """KL, where there is one, and beside it the nats."""
    return {
        "text": "–" if divergence is None else f"{divergence.mean.value:.4f}",
        "half": "–" if nats is None else f"{nats.mean.value:.3f}",
    }


def _visible(half: float, form: str) -> str:
    """Not 0, however small."""
    text = _text(half, form)
    return text if float(text) else f"<{text[:-1]}1"


def _text(value: float, form: str) -> str:
    return f"{100 * value:.1f}" if form == "%" else format(value, form)
