"""What a run's page says above its metrics: what was compressed, what it saved, and the verdict on every task."""

from __future__ import annotations

from collections.abc import Iterator

from earnest.records import CellRecord, Comparison, Scores


def cell_note(cell: CellRecord) -> str:
    """A cell in a few lines of Markdown: the verdict, then a table of its tasks."""
    size = f", {cell.saved:.1%} of the file saved" if cell.size else ""
    head = f"**{cell.model} {cell.label}**{size}. {_verdict(cell)}".rstrip()
    failed = [f"- {name} failed: {reason.splitlines()[0] if reason else ''}" for name, reason in cell.failures.items()]
    rows = [_row(task, scores, cell.comparisons.get(task)) for task, scores in cell.scores.items()]
    table = ["| task | score | n | against dense | verdict |", "|---|---|---|---|---|", *rows] if rows else []
    return "\n\n".join(part for part in (head, "\n".join(failed), "\n".join(table)) if part)


def _verdict(cell: CellRecord) -> str:
    """As in "Falls in closed_book; matches in open_book; not decided in perplexity."."""
    found: dict[str, list[str]] = {}
    for task, comparison in cell.comparisons.items():
        if comparison.verdict is not None:
            found.setdefault(comparison.verdict, []).append(task)
    order = ("falls", "not decided", "matches", "no worse", "rises")
    text = "; ".join(f"{verdict} in {', '.join(found[verdict])}" for verdict in order if verdict in found)
    return text[:1].upper() + text[1:] + "." if text else ""


def _row(task: str, scores: Scores, comparison: Comparison | None) -> str:
    return f"| {' | '.join(_cells(task, scores, comparison))} |"


def _cells(task: str, scores: Scores, comparison: Comparison | None) -> Iterator[str]:
    main = scores.main
    interval = f" ({main.low:.4g} to {main.high:.4g})" if main.low is not None and main.high is not None else ""
    yield f"{task} {scores.headline}"
    yield f"{main.value:.4g}{interval}" if scores.means_something else "not fluent"
    yield str(main.n)
    relative = None if comparison is None else comparison.relative
    yield "" if relative is None else f"{relative:+.1%}"
    yield (comparison.verdict or "") if comparison else ""
