"""The terminal table: one row per cell, grouped by method, and what perplexity claims beside what the tasks say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from earnest.palette import ink
from earnest.records import CellRecord, Estimate
from earnest.report.gains import Gains
from earnest.report.intervals import half_text
from earnest.report.survey import (
    FAILED,
    MINUS,
    Curve,
    Survey,
    computed_in,
    figure_text,
    missing,
    percent_change,
    score_text,
    spoken,
)
from earnest.report.verdicts import (
    FALLS,
    OPEN,
    SHOWN,
    hint,
    legend,
    mark,
    rests_on,
    undecided_line,
)

SAVED = "saved: of the whole file against the dense one in its dtype; of touched: of the compressed weights, in bf16."
_STYLES = {SHOWN: "green", FALLS: "red", OPEN: "yellow"}
_NOT_FLUENT = " Not fluent: fewer than half of the statements are well formed."
_WIDE_COLUMN, _FIRST_COLUMNS = 24, 54


def print_table(cells: Sequence[CellRecord], console: Console) -> None:
    """Print every cell and what each metric claims. A narrow console gets no intervals and no achieved sizes."""
    survey = Survey(tuple(cells))
    wide = console.width >= _FIRST_COLUMNS + _WIDE_COLUMN * len(survey.tasks)
    console.print(_wide_table(survey) if wide else _narrow_table(survey))
    interval = " ± is half of the 95% interval." if wide else ""
    fluency = _NOT_FLUENT if any(map(survey.not_fluent, survey.tasks)) else ""
    touched = f" {SAVED}" if wide and survey.compressed else ""
    told = f"Percentages stand for change against dense. {legend(survey)}{touched}"
    console.print(Text(" ".join(filter(None, (told + interval + fluency, computed_in(survey)))), style="dim"))
    if rest := rests_on(survey):
        console.print(Text(rest, style="dim"))
    if left := undecided_line(survey):
        console.print(Text(left, style="dim"))
    if survey.unfinished:
        console.print(Text(survey.unfinished))
    for line in claim_lines(survey):
        console.print(line)
    gains = Gains(survey)
    if gains.cells:
        _print_gains(gains, console)
    if survey.compressed or gains.finding:
        console.print(Text(gains.finding or survey.finding, style="bold"))


def _wide_table(survey: Survey) -> Table:
    several = len(survey.dtypes) > 1
    table = _columns(survey, ("asked", *(["dtype"] if several else []), "saved", "of touched", "zeros", "bits"), gap=2)
    for cell in _spaced(survey, table):
        dtype = [Text(cell.dtype)] if several else []
        table.add_row(
            *_names(cell),
            *dtype,
            *_sizes(cell),
            *(_score(survey, cell, task, with_interval=True) for task in survey.tasks),
        )
    return table


def _narrow_table(survey: Survey) -> Table:
    table = _columns(survey, ("asked", "saved"), gap=1)
    for cell in _spaced(survey, table):
        scores = (_score(survey, cell, task, with_interval=False) for task in survey.tasks)
        table.add_row(*_names(cell), _sizes(cell)[0], *scores)
    return table


def _columns(survey: Survey, ratios: Sequence[str], *, gap: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    table.add_column("method", no_wrap=True)
    for name in ratios:
        table.add_column(name, justify="right", no_wrap=True)
    for task in survey.tasks:
        table.add_column(survey.heading(task), justify="right", min_width=11)
    return table


def _spaced(survey: Survey, table: Table) -> Iterator[CellRecord]:
    """The cells that nothing steers, with an empty row in the table wherever the method changes."""
    previous = None
    for cell in survey.plain:
        if previous not in (None, cell.method):
            table.add_row()
        yield cell
        previous = cell.method


def _names(cell: CellRecord) -> list[Text]:
    name = cell.model if cell.family == "dense" else cell.method
    return [Text(name, style=ink(cell.method).dark), Text(cell.nominal + (f" seed {cell.seed}" if cell.seed else ""))]


def _sizes(cell: CellRecord) -> list[Text]:
    size = cell.size
    if size is None:
        return [Text("")] * 4
    shares = (size.saved, size.saved_of_touched, size.sparsity)
    return [*(Text(f"{share:.1%}") for share in shares), Text(f"{size.bits_per_weight:.2f}")]


def _score(survey: Survey, cell: CellRecord, task: str, *, with_interval: bool) -> Text:
    if task not in cell.scores:
        word = missing(cell, task)[0]
        return Text(word, style="red" if word == FAILED else "dim")
    if not cell.scores[task].means_something:
        return Text("not fluent", style="red")
    estimate = cell.scores[task].main
    text = Text(score_text(cell.scores[task]))
    if with_interval and (half := half_text(estimate, survey.headline(task))):
        text.append(f" ±{half}", style="dim")
    comparison = cell.comparisons.get(task)
    if comparison is None or comparison.relative is None:
        return text
    sign, change = mark(comparison), hint(comparison) + percent_change(comparison.relative)
    return text.append(f" {change:>5}{sign}", style=_STYLES.get(sign, ""))


def claim_lines(survey: Survey) -> list[Text]:
    """Per curve, one line: how far each metric says that nothing was lost."""
    lines = [_claim_line(survey, curve) for curve in survey.curves if not curve.is_pattern]
    head = Text("\nThe largest ratio to which each metric is shown to match dense (not decided?):", style="bold")
    return [head, *lines] if lines else []


def _claim_line(survey: Survey, curve: Curve) -> Text:
    groups: dict[str, list[str]] = {}
    for claim in survey.claims(curve):
        groups.setdefault(claim.ratios, []).append(spoken(claim.task))
    said = "; ".join(f"{', '.join(tasks)} {ratios}" for ratios, tasks in groups.items())
    return Text.from_markup(f"  [{ink(curve.method).dark}]{escape(curve.name):<14}[/] {escape(said)}")


# --- what pairs gain ------------------------------------------------------------------------------------------------

_GAINS = (
    "With the pair, and in brackets how much of the way from its base to the directly tuned model it goes; "
    "– where that model is not shown to be better."
)


def _print_gains(gains: Gains, console: Console) -> None:
    """One row per steered cell: its score in every task, and the gap closed from its base."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("base", "pair"):
        table.add_column(name, no_wrap=True)
    for task in gains.tasks:
        table.add_column(spoken(task), justify="right")
    for cell in gains.cells:
        name = (cell.model if cell.family == "dense" else cell.base_label) + (f" seed {cell.seed}" if cell.seed else "")
        scores = (_gained(gains, cell, task) for task in gains.tasks)
        table.add_row(Text(name, style=ink(cell.method).dark), Text(gains.steering(cell).label), *scores)
    console.print()
    console.print(table)
    console.print(Text(_GAINS, style="dim"))


def _gained(gains: Gains, cell: CellRecord, task: str) -> Text:
    if task not in cell.scores:
        word = missing(cell, task)[0]
        return Text(word, style="red" if word == FAILED else "dim")
    if not cell.scores[task].means_something:
        return Text("not fluent", style="red")
    text = Text(figure_text(cell.scores[task].main.value, gains.survey.headline(task)))
    gain = gains.gain_of(cell, task)
    return text.append(f" ({_share(gain.gap_closed if gain else None):>4})", style="dim")


def _share(estimate: Estimate | None) -> str:
    return "–" if estimate is None else f"{estimate.value:.0%}".replace("-", MINUS)
