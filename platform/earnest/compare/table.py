"""A comparison as one table that a person can act on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from earnest.records import Verdict
from earnest.report.intervals import signed, signed_ends
from earnest.report.survey import figure_text, percent_change, spoken
from earnest.report.verdicts import rounded_up, worth
from earnest.statistics.limits import FEWEST
from earnest.statistics.paired import MATCHING
from earnest.statistics.versus import Versus, by_verdict

WIDE = 150  # columns from which a console shows every figure
_STYLES: dict[Verdict, str] = {
    "falls": "red",
    "rises": "green",
    "matches": "green",
    "no worse": "green",
    "not decided": "yellow",
}


def print_versus(
    rows: Sequence[Versus], a: str, b: str, console: Console, *, margin: float = MATCHING, skipped: Mapping[str, str]
) -> None:
    """Print the rows, what is left out, what the columns mean, and one line per verdict."""
    several = len({row.name for row in rows}) > 1
    console.print(Text(f"A  {a}{_computed_in(rows, 0)}\nB  {b}{_computed_in(rows, 1)}\n"))
    console.print(_table(rows, margin, several=several, wide=console.width >= WIDE))
    for row in rows:
        if row.left_out:
            console.print(
                Text(f"{_title(row, several=several)}: {row.left_out} samples left out: no score, or other prompts")
            )
    if any(len(set(row.computed_in)) > 1 and all(row.computed_in) for row in rows):
        console.print(
            Text("A and B computed in different dtypes: part of a difference may be rounding", style="yellow")
        )
    for task, reason in skipped.items():
        console.print(Text(f"{task}: {reason}", style="dim"))
    console.print(Text("\n" + _legend(rows, margin), style="dim"))
    if not several:
        for verdict, same in by_verdict(rows).items():
            console.print(Text(f"A {_said(verdict)}: {', '.join(spoken(row.task) for row in same)}", style="bold"))


def write_versus(rows: Sequence[Versus], file: Path) -> None:
    """Write the rows as JSON."""
    content = [{**asdict(row), "difference": row.difference.model_dump(mode="json")} for row in rows]
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _table(rows: Sequence[Versus], margin: float, *, several: bool, wide: bool) -> Table:
    """The rows as a table; a narrow console gets the figures that the verdict rests on."""
    table = Table(box=None, pad_edge=False, padding=(0, 2 if wide else 1, 0, 0), header_style="bold")
    for name in (*(["cell"] if several else []), "task"):
        table.add_column(name, no_wrap=True)
    shown = [name for name in _FIGURES if wide or name in _NARROW]
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("A against B")
    previous = rows[0].name if rows else ""
    for row in rows:
        if row.name != previous:
            table.add_row()
        previous = row.name
        names = [Text(row.name)] if several else []
        table.add_row(*names, Text(spoken(row.task)), *(_FIGURES[name](row) for name in shown), _verdict(row, margin))
    return table


def _computed_in(rows: Sequence[Versus], side: int) -> str:
    """As in ", computed in float32"; empty where the samples do not say."""
    found = dict.fromkeys(row.computed_in[side] for row in rows if row.computed_in[side])
    return f", computed in {' or '.join(found)}" if found else ""


def _count(row: Versus) -> Text:
    counted = f"{row.samples:,}" if row.units == row.samples else f"{row.samples:,} in {row.units:,}"
    return Text(counted + worth(row.units, row.effective))


def _difference(row: Versus) -> Text:
    return Text(signed(row.difference.value, row.headline) + (" ~" if row.within_noise else ""))


def _interval(row: Versus) -> Text:
    return Text(signed_ends(row.difference, row.headline))


def _chance(row: Versus) -> Text:
    p = "<0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
    return Text(p, style="bold" if row.changed else "")


_FIGURES: dict[str, Callable[[Versus], Text]] = {
    "n": _count,
    "A": lambda row: Text(figure_text(row.a, row.headline)),
    "B": lambda row: Text(figure_text(row.b, row.headline)),
    "A − B": _difference,
    "95%": _interval,
    "relative": lambda row: Text(percent_change(row.relative)),
    "p": _chance,
    "better": lambda row: Text(f"{row.better:,}"),
    "worse": lambda row: Text(f"{row.worse:,}"),
}
_NARROW = ("n", "A", "B", "A − B", "p")


def _verdict(row: Versus, margin: float) -> Text:
    if row.verdict != "not decided":
        return Text(row.verdict, style=_STYLES[row.verdict])
    units = "n" if row.units == row.samples else "clusters"
    few = ", too few to decide anything" if row.effective < FEWEST else ""
    need = f"needs {units} ≈ {rounded_up(row.needed)}" if row.needed else f"no {units} would decide it"
    said = f"not decided at {units} = {row.units:,}{worth(row.units, row.effective)}{few}, {need}"
    if row.changed:
        better = (row.difference.value > 0) == row.higher_is_better
        said = f"{'better' if better else 'worse'}, by {margin:.0%}? {said}"
    return Text(said, style=_STYLES[row.verdict])


def _said(verdict: Verdict) -> str:
    words = {"matches": "matches on", "no worse": "is no worse on", "not decided": "is not decided on"}
    return words.get(verdict, f"{verdict} on")


def _legend(rows: Sequence[Versus], margin: float) -> str:
    told = (
        f"matches: within {margin:.0%} of B, shown. falls, rises: worse, better by more, shown. no worse: matches or "
        "rises, shown. A wrong claim of a kind anywhere in the table: at most 5% (Holm over its rows). p: no change at "
        "all, Holm. 95%: interval of A − B; none where too few units are known. better, worse: on so many samples."
    )
    return told + (" ~: no larger than seeds or batches alone make it." if any(row.noise for row in rows) else "")


def _title(row: Versus, *, several: bool) -> str:
    return f"{row.name}: {spoken(row.task)}" if several else spoken(row.task)
