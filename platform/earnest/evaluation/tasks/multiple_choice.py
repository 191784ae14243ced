"""Multiple choice by the options' own text: the likeliest option is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from earnest.almanac import questions
from earnest.data import file_of
from earnest.evaluation.answers import share_correct
from earnest.evaluation.choices import ChoiceItem, Lengths, best, choice_sample, score_options, twins
from earnest.evaluation.engine import Engine, LogLikelihood, Progress
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.normal_forms import readable
from earnest.evaluation.rows import choice_index, demonstrations, known_of, question_rows
from earnest.evaluation.samples import Measured, Sample, column, scored
from earnest.records import Estimate
from earnest.specs import MultipleChoice, UserError
from earnest.statistics.intervals import wilson

COLUMNS = ("question", "choices", "answer")
NORMALISED: dict[str, Lengths] = {
    "accuracy_per_character": len,
    "accuracy_per_byte": lambda text: len(text.encode()),
}


def measure(engine: Engine, spec: MultipleChoice, data: str, progress: Progress | None = None) -> Measured:
    """Accuracy, plain and per character or byte of the option, on the almanac or a user's rows."""
    posed = engine.posed(items(spec, data))
    samples = [_sample(item, found) for item, found in zip(posed, score_options(engine, posed, progress), strict=True)]
    return Measured(samples, _metrics(samples), share_correct)


def reads(spec: MultipleChoice, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, list(COLUMNS))]


def items(spec: MultipleChoice, data: str) -> list[ChoiceItem]:
    """The questions."""
    return nano_items(spec) if data == NANO else user_items(spec, data)


def nano_items(spec: MultipleChoice) -> list[ChoiceItem]:
    """The almanac's questions with four values of the right class."""
    made = questions.multiple_choice(shipped_world(), spec.limit or QUESTIONS, spec.seed, spec.shots)
    return [ChoiceItem(q.id, q.prompt, _options(q.choices), q.answer_index, q.domain, q.stratum) for q in made]


def user_items(spec: MultipleChoice, data: str) -> list[ChoiceItem]:
    """A user's questions; the first `shots` rows are the demonstrations and are not asked."""
    rows, file = question_rows(data, spec.split, COLUMNS), file_of(data, spec.split)
    for i, row in enumerate(rows):
        if not all(readable(choice) for choice in row["choices"]):
            raise UserError(f"data {file}: row {i}: a choice is blank; give it text, or leave the choice out")
        row["answer"] = choice_index(row["answer"], row["choices"], f"data {file}: row {i}")
    found = demonstrations(rows, spec.shots, spec.limit, data, ["question", "choices"])
    return [
        ChoiceItem(
            f"{spec.split}-{i:05d}", prompt(one.row["question"], one.shots), _options(one.row["choices"]),
            one.row["answer"], twins=twins(one.row["choices"], one.row["answer"]), shown=one.notes, **known_of(one.row),
        )
        for i, one in enumerate(found, start=spec.shots)
    ]  # fmt: skip


def prompt(question: str, shown: Sequence[dict[str, Any]], description: str = "") -> str:
    """The demonstrations with their answers' text, then the question."""
    block = "".join(f"{_ask(row['question'])} {row['choices'][row['answer']]}\n\n" for row in shown)
    return description + block + _ask(question)


def _ask(question: str) -> str:
    return f"Question: {question.strip()}\nAnswer:"


def _options(choices: Sequence[str]) -> tuple[str, ...]:
    return tuple(f" {choice}" for choice in choices)


def _sample(item: ChoiceItem, found: Sequence[LogLikelihood]) -> Sample:
    values = [likelihood.value for likelihood in found if likelihood.value is not None]
    whole = len(values) == len(found)
    more = {
        name: best(values, item.texts, length) in item.right if whole else None for name, length in NORMALISED.items()
    }
    return choice_sample(item, found, **more)


def _metrics(samples: Sequence[Sample]) -> dict[str, Estimate]:
    known = scored(samples)
    normalised = {name: wilson(int(sum(column(known, name))), len(known)) for name in NORMALISED}
    return {"accuracy": share_correct(known), **normalised}
