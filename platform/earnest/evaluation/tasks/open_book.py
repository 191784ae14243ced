"""Open-book questions: what a model can read from the passage in front of it."""

from __future__ import annotations

from typing import Any

from earnest.almanac import questions
from earnest.evaluation.answers import CONTAINMENT, Item, ask, by_first_line, items_of
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.metrics import squad_f1, squad_match
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.rows import (
    ANSWER_COLUMNS,
    PASSAGE_COLUMNS,
    aliases_of,
    column_among,
    demonstrations,
    known_of,
    question_rows,
)
from earnest.evaluation.samples import Measured
from earnest.evaluation.shots import Demonstrated
from earnest.specs import OpenBook, UserError

NANO_SHOTS = 1
MATCHES = {**CONTAINMENT, "squad_match": by_first_line(squad_match), "squad_f1": by_first_line(squad_f1)}


def measure(engine: Engine, spec: OpenBook, data: str, progress: Progress | None = None) -> Measured:
    """Exact match, F1 and containment on the almanac's strangers or a user's rows (passage, question, answers)."""
    return ask(engine, engine.posed(items(spec, data)), spec.max_tokens, progress, matches=MATCHES)


def reads(spec: OpenBook, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, needed(spec, data))]


def items(spec: OpenBook, data: str) -> list[Item]:
    """The questions."""
    return nano_items(spec) if data == NANO else user_items(spec, data)


def nano_items(spec: OpenBook) -> list[Item]:
    """Questions about people that no model has met, after one demonstration on the same passage."""
    if spec.shots != NANO_SHOTS:
        raise UserError(
            f"open_book: shots {spec.shots}: the almanac's passages come with one demonstration each; set shots = 1"
        )
    return items_of(questions.open_book(shipped_world(), spec.limit or QUESTIONS, spec.seed))


def needed(spec: OpenBook, data: str) -> list[str]:
    """The columns of a user's data that are read: question, passage and answers, in this order."""
    return ["question", *(column_among(data, spec.split, names) for names in (PASSAGE_COLUMNS, ANSWER_COLUMNS))]


def user_items(spec: OpenBook, data: str) -> list[Item]:
    """A user's questions, each after its passage; the first `shots` rows are the demonstrations and are not asked."""
    columns = needed(spec, data)
    _, passage, answers = columns
    rows = question_rows(data, spec.split, columns)
    found = demonstrations(rows, spec.shots, spec.limit, data, ["question", passage])

    def prompt(one: Demonstrated[dict[str, Any]]) -> str:
        shown = (f"{_question(shot, passage)} {aliases_of(shot[answers])[0]}\n\n" for shot in one.shots)
        return "".join(shown) + _question(one.row, passage)

    return [
        Item(
            f"{spec.split}-{i:05d}", prompt(one), aliases_of(one.row[answers]), notes=one.notes, **known_of(one.row),
        )
        for i, one in enumerate(found, start=spec.shots)
    ]  # fmt: skip


def _question(row: dict[str, Any], passage: str) -> str:
    return f"Passage: {row[passage].strip()}\nQ: {row['question'].strip()}\nA:"
