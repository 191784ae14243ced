"""What is known of a task's questions before any model answers: how rare the fact, how long the answer, how much of it
calibration has seen. These are the reasons that are given for a domain being lost.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from earnest.data import columns, mapped, read_rows
from earnest.evaluation.nano import NANO, shipped_world
from earnest.evaluation.rows import FREQUENCY_COLUMN, frequency_of
from earnest.evaluation.tasks import items_of, needed_columns
from earnest.specs import AnyTask

NAME_WORDS = 2

Pairs = NDArray[np.int64]


@dataclass(frozen=True)
class Traits:
    """Of one question: how often the fact is written about, its answer's tokens, and how much calibration has seen.

    `frequency` is what a user's column of that name holds; for the almanac, the share of all that is written about
    people that is about this person (0 for a stranger). `coverage` is the share of neighbouring token pairs of question
    and answer that stand in the calibration samples. None where it is not known.
    """

    frequency: float | None
    answer_tokens: int
    coverage: float | None


def traits_of(task: AnyTask, data: str, tokenizer: Any, calibration: Tensor | None) -> dict[str, Traits]:
    """The traits of a task's questions by sample id; empty for tasks that ask no short questions.

    Args:
        task: as it was asked.
        data: where its data lies (`nano` for the almanac).
        tokenizer: the model's own.
        calibration: the token ids [samples, length] that a method looked at; None without such.

    Raises:
        UserError: a frequency is no number, or is negative.
    """
    if not task.short_answers:
        return {}
    items = items_of(task, data)
    asked = {item.id: _asked(item.prompt, data) for item in items}
    answers = {item.id: item.gold for item in items}
    frequencies = _popularities(asked) if data == NANO else {item.id: item.frequency for item in items}
    seen = None if calibration is None else pairs_of(calibration.numpy())
    alone = _tokens(tokenizer, [f" {answers[name]}" for name in asked])
    whole = _tokens(tokenizer, [f"{question} {answers[name]}" for name, question in asked.items()])
    return {
        name: Traits(frequencies.get(name), len(answer), None if seen is None else _coverage(text, seen))
        for name, answer, text in zip(asked, alone, whole, strict=True)
    }


def _asked(prompt: str, data: str) -> str:
    """The question itself, without the demonstrations and texts before it."""
    return "\n".join(prompt.split("\n")[-2:]) if data == NANO else prompt.rsplit("\n\n", 1)[-1]


def _popularities(asked: Mapping[str, str]) -> dict[str, float | None]:
    """Of the people that the almanac's questions name; a name of two words is one person's."""
    people = shipped_world().people
    whole = sum(person.popularity for person in people)
    known = {person.name: person.popularity / whole for person in people}
    found: dict[str, float | None] = {}
    for name, question in asked.items():
        words = re.findall(r"\w+", question)
        named = (" ".join(words[at : at + NAME_WORDS]) for at in range(len(words) - 1))
        found[name] = next((known[each] for each in named if each in known), 0.0)
    return found


def read_frequencies(task: AnyTask, data: str) -> list[float | None]:
    """A user's column of frequencies, row by row of the split that is asked; empty where the data has none.

    Raises:
        UserError: a frequency is no number, or is negative.
    """
    data = mapped(data, task.columns)
    found = []
    for split, _ in needed_columns(task, data)[:1]:
        if FREQUENCY_COLUMN in columns(data, split):
            rows = read_rows(data, split, [FREQUENCY_COLUMN])
            found = [frequency_of(row[FREQUENCY_COLUMN], f"data {data}: row {i}") for i, row in enumerate(rows)]
    return found


def _tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def pairs_of(ids: NDArray[np.int64]) -> Pairs:
    """The distinct pairs of neighbouring tokens in rows of ids [rows, length], each pair as one number, sorted."""
    return np.unique(_paired(ids))


def _paired(ids: NDArray[np.int64]) -> Pairs:
    return (ids[..., :-1].astype(np.int64) << 32) + ids[..., 1:]


def _coverage(tokens: Sequence[int], seen: Pairs) -> float | None:
    """The share of neighbouring pairs that were seen; None for a single token, which has none."""
    pairs = _paired(np.asarray(tokens, dtype=np.int64))
    places = np.minimum(np.searchsorted(seen, pairs), len(seen) - 1)
    return float((seen[places] == pairs).mean()) if len(pairs) else None
