"""GSM8K (Cobbe et al. 2021): grade-school sums, asked as lm-eval or as proxy-tuning asks them.

- `lm_eval`: five solutions before the question; right is the number behind "#### ", compared as text (strict).
- `proxy_tuning`: the bare question; right is the value of the last number before the next question.

All four matches stand beside the headline in both styles: strict and flexible as in lm-eval, by the number's value, and
proxy-tuning's own, which takes 5 for -5 and 35 for 3.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from earnest.data import file_of
from earnest.decoding.generation import Generation
from earnest.evaluation.answers import complete, share_correct
from earnest.evaluation.chat import PLAIN, Manner
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.numbers import (
    BETWEEN_DIGITS,
    NEXT_QUESTION,
    before_next_question,
    flexible_number,
    lm_eval_equal,
    proxy_tuning_equal,
    proxy_tuning_number,
    same_value,
    strict_number,
    value_of,
)
from earnest.evaluation.rows import question_rows
from earnest.evaluation.samples import Measured, Sample, column, scored, unscored
from earnest.evaluation.shots import SHOTS_SPLIT, Demonstrated, check_shots_split, drawn_shots, other_shots
from earnest.specs import GSM8K, UserError
from earnest.statistics.intervals import wilson

COLUMNS = ("question", "answer")
STOPS: Mapping[str, tuple[str, ...]] = {
    "lm_eval": ("Question:", "</s>", "<|im_end|>"),
    "proxy_tuning": NEXT_QUESTION,  # what follows these is never looked at
}
MAX_TOKENS = {"lm_eval": 256, "proxy_tuning": 512}
MANNERS = {"lm_eval": PLAIN, "proxy_tuning": Manner(prefix="Answer:")}
HEADLINE = {"lm_eval": "strict_match", "proxy_tuning": "number_match"}
SHOWN: Mapping[str, Callable[[str], str]] = {"lm_eval": strict_number, "proxy_tuning": proxy_tuning_number}

Row = dict[str, Any]


def measure(engine: Engine, spec: GSM8K, data: str, progress: Progress | None = None) -> Measured:
    """Exact match, which is the style's own, and all matches, on GSM8K's rows."""
    posed = engine.posed(items(spec, data))
    max_tokens = spec.max_tokens or MAX_TOKENS[spec.style]
    texts = [item.prompt for item in posed]
    generations = complete(engine, texts, STOPS[spec.style], max_tokens, progress, MANNERS[spec.style])
    samples = [_sample(spec, item, generation) for item, generation in zip(posed, generations, strict=True)]
    known = scored(samples)
    metrics = {name: wilson(int(sum(column(known, name))), len(known)) for name in matches("", "0")}
    return Measured(samples, {"exact_match": share_correct(known), **metrics}, share_correct)


def reads(spec: GSM8K, data: str) -> list[tuple[str, list[str]]]:
    """The splits that are read, each with its columns."""
    return [(split, list(COLUMNS)) for split in needed_splits(spec, data)]


def needed_splits(spec: GSM8K, data: str) -> list[str]:
    """The splits that are read: what is asked, and where shots are drawn from.

    Raises:
        UserError: the data has no split for shots.
    """
    if spec.style != "lm_eval" or not spec.shots:
        return [spec.split]
    check_shots_split(data, SHOTS_SPLIT, spec.shots)
    return [spec.split, SHOTS_SPLIT]


@dataclass(frozen=True)
class SumItem:
    """A row with its id, what it is asked with, and what is counted of it."""

    id: str
    row: Row
    prompt: str
    notes: tuple[str, ...] = ()


def items(spec: GSM8K, data: str) -> list[SumItem]:
    """The questions with what stands before each: drawn solutions, or nothing."""
    rows = asked_rows(spec, data)
    names = [f"{spec.split}-{i:05d}" for i in range(len(rows))]
    if len(needed_splits(spec, data)) == 1:
        return [SumItem(name, row, question(spec, row)) for name, row in zip(names, rows, strict=True)]
    pool = question_rows(data, SHOTS_SPLIT, COLUMNS)
    drawn = drawn_shots(pool, spec.shots, len(rows))
    found = [other_shots(row, shots, pool, ["question"]) for row, shots in zip(rows, drawn, strict=True)]
    return [SumItem(name, one.row, _prompt(spec, one), one.notes) for name, one in zip(names, found, strict=True)]


def _prompt(spec: GSM8K, one: Demonstrated[Row]) -> str:
    return "".join(f"{question(spec, row)} {row['answer']}\n\n" for row in one.shots) + question(spec, one.row)


def asked_rows(spec: GSM8K, data: str) -> list[Row]:
    """Questions with answers in file order.

    Raises:
        UserError: an answer holds no number.
    """
    rows = question_rows(data, spec.split, COLUMNS)[: spec.limit]
    for number, row in enumerate(rows):
        if value_of(gold_number(row)) is None:
            raise UserError(
                f"data {file_of(data, spec.split)}: row {number}: the answer ends in {gold_number(row)[:40]!r}, "
                "not a number; end it with #### and the number"
            )
    return rows


def question(spec: GSM8K, row: Row) -> str:
    """The question in the style's own words."""
    asked = f"Question: {row['question']}\nAnswer:"
    return asked if spec.style == "lm_eval" else f"Answer the following question.\n\n{asked}"


def gold_number(row: Row) -> str:
    """The final answer: what stands behind "####", or all of it; without commas between digits."""
    return BETWEEN_DIGITS.sub(r"\1\2", str(row["answer"]).split("####")[-1].strip())


def matches(text: str, answer: str) -> dict[str, bool]:
    """Whether a generated text is right, by each of the four ways to tell."""
    gold = gold_number({"answer": answer})
    return {
        "strict_match": lm_eval_equal(strict_number(text), answer),
        "flexible_match": lm_eval_equal(flexible_number(text), answer),
        "number_match": same_value(before_next_question(text), gold),
        "proxy_tuning_match": proxy_tuning_equal(proxy_tuning_number(text), gold),
    }


def _sample(spec: GSM8K, item: SumItem, generation: Generation) -> Sample:
    row = item.row
    found = matches(generation.text, str(row["answer"]))
    right = found[HEADLINE[spec.style]]
    sample = Sample(
        item.id, item.prompt, SHOWN[spec.style](generation.text), gold_number(row), right, float(right),
        truncated=generation.cut > 0, domain=row.get("domain", ""), stratum=row.get("stratum", ""),
        more={**found, "text": generation.text, "tokens": len(generation.ids), "finish": generation.finish},
    )  # fmt: skip
    return unscored(sample) if generation.finish == "not_finite" else sample
