"""Closed-book questions: what the weights know, without a passage to read it from."""

from __future__ import annotations

from typing import Any

from earnest.almanac import questions
from earnest.evaluation.answers import Item, ask, items_of
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.rows import ANSWER_COLUMNS, aliases_of, column_among, demonstrations, known_of, question_rows
from earnest.evaluation.samples import Measured
from earnest.evaluation.shots import Demonstrated
from earnest.specs import ClosedBook


def measure(engine: Engine, spec: ClosedBook, data: str, progress: Progress | None = None) -> Measured:
    """Exact match, F1 and containment on the almanac's questions or a user's rows (question, answers)."""
    return ask(engine, engine.posed(items(spec, data)), spec.max_tokens, progress)


def reads(spec: ClosedBook, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, needed(spec, data))]


def items(spec: ClosedBook, data: str) -> list[Item]:
    """The questions."""
    return nano_items(spec) if data == NANO else user_items(spec, data)


def nano_items(spec: ClosedBook) -> list[Item]:
    """The almanac's questions; without shots, those about people held out of tuning."""
    count, world = spec.limit or QUESTIONS, shipped_world()
    if spec.shots == 0:
        return items_of(questions.zero_shot(world, count, spec.seed))
    return items_of(questions.closed_book(world, count, spec.seed, spec.shots))


def needed(spec: ClosedBook, data: str) -> list[str]:
    """The columns of a user's data that are read: the question, and the answers as the last."""
    return ["question", column_among(data, spec.split, ANSWER_COLUMNS)]


def user_items(spec: ClosedBook, data: str) -> list[Item]:
    """A user's questions; the first `shots` rows are the demonstrations and are not asked."""
    columns = needed(spec, data)
    answers = columns[-1]
    rows = question_rows(data, spec.split, columns)
    found = demonstrations(rows, spec.shots, spec.limit, data, ["question"])

    def prompt(one: Demonstrated[dict[str, Any]]) -> str:
        return "".join(f"{_question(s)} {aliases_of(s[answers])[0]}\n\n" for s in one.shots) + _question(one.row)

    return [
        Item(
            f"{spec.split}-{i:05d}",
            prompt(one),
            aliases_of(one.row[answers]),
            notes=one.notes,
            **known_of(one.row),
        )
        for i, one in enumerate(found, start=spec.shots)
    ]


def _question(row: dict[str, Any]) -> str:
    return f"Q: {row['question'].strip()}\nA:"
