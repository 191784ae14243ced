"""Fluent, but wrong: answers that read well and are false, dense's right ones beside them, from the stored samples.

An answer is fluent where nothing in its form gives it away: it ended by itself, says something and does not decline,
is neither half as long as dense's shortest answer to the same task nor twice as long as the longest, repeats itself by
no more than ten points (rep-2 to rep-4) above the one of dense's that repeats most, and is well formed: of whole
characters and, in the almanac, a value of that world; of a biography every sentence is. Dense's outermost percent on
either side does not count.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from earnest.almanac.language import sentences
from earnest.almanac.world import ATTRIBUTES, World
from earnest.plan import EVALUATE
from earnest.records import CellRecord, Scores
from earnest.report.survey import CONTROLS, Survey, percent_change, score_text
from earnest.samples import SAMPLES_FILE
from earnest.store import Store

HEADLINES = ("exact_match", "true")  # of tasks whose written answers are right or wrong
REPETITION = ("rep_2", "rep_3", "rep_4")
OUTERMOST = 0.01
LENGTHS, REPEATED = 2.0, 0.1  # how many times as long, and how much more repetitive than dense is still normal
PAIRS = 3
FINISHED = ("stop", "end")
_COLUMNS = (
    "id", "prediction", "gold", "correct", "domain", "asked", "confidence", "empty", "declined", "tokens", "finish",
    "statements", "well_formed", "true", "verdicts", *REPETITION,
)  # fmt: skip
Row = dict[str, Any]


@dataclass(frozen=True)
class Said:
    """A part of an answer and its sign: "t" true, "f" well formed and false, "x" not well formed."""

    text: str
    sign: str


@dataclass(frozen=True)
class Pair:
    """One question answered twice: rightly by the dense model, fluently and falsely by a compressed one."""

    id: str
    asked: str
    gold: str
    dense: tuple[Said, ...]
    compressed: tuple[Said, ...]
    dense_note: str
    compressed_note: str


@dataclass(frozen=True)
class Count:
    """How many of a cell's wrong answers to one task are fluent."""

    fluent: int
    wrong: int

    @property
    def text(self) -> str:
        """As in "47 of 52 (90%)"."""
        return f"{self.fluent} of {self.wrong}" + (f" ({self.fluent / self.wrong:.0%})" if self.wrong else "")


@dataclass(frozen=True)
class Told:
    """What one cell answers: per task its count, and the pairs that tell most; `beside` holds other tasks' scores."""

    label: str
    method: str
    counts: Mapping[str, Count]
    pairs: Mapping[str, tuple[Pair, ...]]
    change: str = ""
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FluentButWrong:
    """All cells' counts by task; the cell whose pairs are shown first, and the others that have some.

    Of the tasks in `beside` (perplexity, and shares of fluent and true statements) the scores stand beside the counts.
    """

    tasks: tuple[str, ...]
    beside: tuple[str, ...]
    cells: tuple[Told, ...]
    first: Told | None
    others: tuple[Told, ...]


@dataclass(frozen=True)
class Form:
    """What dense's answers to a task look like: their lengths in tokens, and the most that they repeat."""

    shortest: float
    longest: float
    repetition: Mapping[str, float]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Form:
        """The form of some answers."""
        lengths = [row["tokens"] for row in rows]
        low, high = np.quantile(lengths, [OUTERMOST, 1 - OUTERMOST])
        repeated = {name: [row[name] or 0.0 for row in rows] for name in REPETITION}
        most = {name: float(np.quantile(values, 1 - OUTERMOST)) for name, values in repeated.items()}
        return cls(float(low), float(high), most)

    def fits(self, row: Row) -> bool:
        """Whether an answer is about as long, and repeats itself about as little."""
        alike = all((row[name] or 0.0) <= most + REPEATED for name, most in self.repetition.items())
        return alike and self.shortest / LENGTHS < row["tokens"] < self.longest * LENGTHS


def fluent_but_wrong(survey: Survey, store: Store) -> FluentButWrong | None:
    """The answers that show best what a perplexity does not see; None where no task has written answers.

    Of each cell and task the pairs where dense is right come first that were most confidently wrong, and of biographies
    those that lost most true statements; equal ones by id. First the cell where a perplexity still matches and a task
    lost most, or else the one with most fluent wrong answers; controls have counts and no pairs.
    """
    dense = survey.dense
    if dense is None:
        return None
    answers = {task: _rows(store, dense.steps[task]) for task in survey.tasks if _is_written(dense.scores.get(task))}
    beside = tuple(task for task in survey.tasks if not survey.higher_is_better(task) or survey.tells_fluent(task))
    told = {cell.key: _told(store, cell, answers, beside) for cell in (dense, *survey.compressed)}
    if not any(each.counts for each in told.values()):
        return None
    shown = [told[cell.key] for cell in survey.compressed if cell.method not in CONTROLS and told[cell.key].pairs]
    blind = told[survey.blind_spot[0].key] if survey.blind_spot else None
    most = max(shown, key=lambda each: sum(count.fluent for count in each.counts.values()), default=None)
    first = blind if blind in shown else most
    others = tuple(each for each in shown if each != first)
    return FluentButWrong(tuple(answers), beside, tuple(told.values()), first, others)


def _is_written(scores: Scores | None) -> bool:
    return scores is not None and scores.headline in HEADLINES and "unfinished" in scores.metrics


def _rows(store: Store, digest: str) -> dict[str, Row]:
    """A step's samples by id; none where nothing is told of their form, and none of a model without finite logits."""
    file = pq.ParquetFile(io.BytesIO(store.read_file(EVALUATE, digest, SAMPLES_FILE)))
    columns = [name for name in _COLUMNS if name in file.schema_arrow.names]
    if not {"empty", "finish"} <= set(columns):
        return {}
    return {row["id"]: row for row in file.read(columns=columns).to_pylist() if row["finish"] != "not_finite"}


def _told(store: Store, cell: CellRecord, answers: Mapping[str, Mapping[str, Row]], beside: Sequence[str]) -> Told:
    counts, pairs = dict[str, Count](), dict[str, tuple[Pair, ...]]()
    for task, dense in answers.items():
        if task not in cell.scores or not dense:
            continue
        mine = _rows(store, cell.steps[task])
        if not mine:
            continue
        form, own = Form.of(list(dense.values())), cell.datasets.get(task, "").split("@")[0] == "nano"
        wrong = [row for row in mine.values() if row["id"] in dense and not is_right(row)]
        fluent = [row for row in wrong if is_fluent(row, form, own_world=own)]
        counts[task] = Count(len(fluent), len(wrong))
        lost = sorted((row for row in fluent if _loss(dense[row["id"]], row) > 0), key=lambda row: _rank(dense, row))
        if lost and cell.family != "dense":
            pairs[task] = tuple(_pair(dense[row["id"]], row) for row in lost[:PAIRS])
    label = (cell.model if cell.family == "dense" else cell.label) + (f", seed {cell.seed}" if cell.seed else "")
    changes = (f"{task.replace('_', ' ')} {percent_change(found.relative)}" for task, found in cell.comparisons.items())
    scores = {task: score_text(cell.scores[task]) for task in beside if task in cell.scores}
    return Told(label, cell.method, counts, pairs, ", ".join(changes), scores)


def is_right(row: Row) -> bool:
    """Whether an answer is right; a biography is, where each of its sentences is true."""
    return bool(row["correct"]) if "verdicts" not in row else row["true"] == row["statements"]


def is_fluent(row: Row, form: Form, *, own_world: bool) -> bool:
    """Whether nothing in an answer's form gives it away.

    Args:
        row: its sample.
        form: what dense's answers to the same task look like.
        own_world: whether it is about the almanac, whose values are known.
    """
    if row["finish"] not in FINISHED or row["empty"] or row["declined"] or not form.fits(row):
        return False
    if "verdicts" in row:
        return bool(row["statements"] == row["well_formed"] > 0)
    said = row["prediction"].strip()
    if own_world and row["domain"] in ATTRIBUTES:
        return said.rstrip(".") in _values()
    return any(character.isalnum() for character in said) and "\ufffd" not in said


@lru_cache(maxsize=1)
def _values() -> frozenset[str]:
    """All of the almanac's values: one of the wrong class is wrong, but not malformed."""
    return frozenset(value for values in World.shipped().values.values() for value in values)


def _loss(dense: Row, row: Row) -> int:
    """How many right statements were lost; an answer is one."""
    return int(dense["true"] - row["true"]) if "verdicts" in row else int(is_right(dense)) - int(is_right(row))


def _rank(dense: Mapping[str, Row], row: Row) -> tuple[int, float, str]:
    return -_loss(dense[row["id"]], row), -(row.get("confidence") or 0.0), row["id"]


def _pair(dense: Row, row: Row) -> Pair:
    gold = "" if "verdicts" in row else row["gold"]
    return Pair(row["id"], row.get("asked") or "", gold, _said(dense), _said(row), _note(dense), _note(row))


def _said(row: Row) -> tuple[Said, ...]:
    if "verdicts" not in row:
        return (Said(row["prediction"], "t" if is_right(row) else "f"),)
    return tuple(Said(text, sign) for text, sign in zip(sentences(row["prediction"]), row["verdicts"], strict=True))


def _note(row: Row) -> str:
    if "verdicts" in row:
        return f"{row['true']} of {row['statements']} sentences true"
    sure = row.get("confidence")
    return ("right" if is_right(row) else "wrong") + ("" if sure is None else f", {sure:.0%} sure")
