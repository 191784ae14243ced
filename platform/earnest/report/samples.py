"""Fluent but wrong: what the dense model said beside what a compressed one says, from the stored samples."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from earnest.plan import EVALUATE
from earnest.records import CellRecord
from earnest.report.survey import CONTROLS, Survey, percent_change
from earnest.store import Store

LONG_FORM = "biography"
SHOWN = 3
_Row = dict[str, Any]
_COLUMNS = ["id", "prediction", "statements", "well_formed", "true"]


@dataclass(frozen=True)
class Pair:
    """One sample told twice: by the dense model, and by a compressed one that stays fluent and gets it wrong."""

    id: str
    dense: str
    compressed: str
    dense_true: str
    compressed_true: str


@dataclass(frozen=True)
class FluentButWrong:
    """Samples of one compressed cell whose statements are all well formed and not all true."""

    label: str
    change: str
    count: int
    of: int
    pairs: tuple[Pair, ...]


def fluent_but_wrong(survey: Survey, store: Store) -> FluentButWrong | None:
    """The samples that show best what a perplexity does not see; None where the sweep has no long-form task.

    Taken from the cell whose long-form score fell most while a perplexity still matches (any cell, where the sweep has
    none). The samples are those that lost most true statements against dense among the wholly well-formed ones, by id.
    """
    task = next((name for name in survey.tasks if _is_long_form(survey, name)), None)
    cell = _telling_cell(survey, task) if task else None
    if task is None or cell is None or survey.dense is None:
        return None
    dense, compressed = ({row["id"]: row for row in _rows(store, each.steps[task])} for each in (survey.dense, cell))
    wrong = [
        row
        for row in compressed.values()
        if row["id"] in dense and row["well_formed"] == row["statements"] > row["true"]
    ]
    lost = {row["id"]: dense[row["id"]]["true"] - row["true"] for row in wrong}
    telling = sorted((row for row in wrong if lost[row["id"]] > 0), key=lambda row: (-lost[row["id"]], row["id"]))
    pairs = tuple(_pair(dense[row["id"]], row) for row in telling[:SHOWN])
    change = percent_change(cell.comparisons[task].relative)
    return FluentButWrong(cell.label, change, len(wrong), len(compressed), pairs) if pairs else None


def _is_long_form(survey: Survey, task: str) -> bool:
    return any(task in cell.scores and cell.scores[task].task == LONG_FORM for cell in survey.cells)


def _telling_cell(survey: Survey, task: str) -> CellRecord | None:
    lower = [name for name in survey.tasks if not survey.higher_is_better(name)]
    cells = [cell for cell in survey.compressed if cell.method not in CONTROLS and survey.loss(cell, task) is not None]
    matching = [c for c in cells if all(c.comparisons[name].within_margin for name in lower if name in c.comparisons)]
    return max(matching or cells, key=lambda cell: survey.loss(cell, task) or 0.0, default=None)


def _rows(store: Store, digest: str) -> list[_Row]:
    content = store.read_file(EVALUATE, digest, "samples.parquet")
    rows: list[_Row] = pq.read_table(io.BytesIO(content), columns=_COLUMNS).to_pylist()
    return rows


def _pair(dense: _Row, compressed: _Row) -> Pair:
    counts = [f"{row['true']} of {row['statements']} statements true" for row in (dense, compressed)]
    return Pair(str(dense["id"]), str(dense["prediction"]), str(compressed["prediction"]), counts[0], counts[1])
