"""MMLU: k shots from dev, four lettered options, the letter with the highest log-likelihood (Hendrycks et al. 2021).

Prompts are lm-eval's, character for character. LLM-KICK's own differ: two spaces before the subject, one generated
character instead of likelihoods, whole shots dropped where a prompt is too long.
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from earnest.data import columns, file_of, read_rows, splits
from earnest.evaluation.answers import share_correct
from earnest.evaluation.choices import ChoiceItem, choice_sample, score_options, twins
from earnest.evaluation.disciplines import discipline_of
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.rows import ID_COLUMNS, check_ids, check_rows, choice_index, known_of, known_rows, spread
from earnest.evaluation.samples import Measured, scored
from earnest.evaluation.shots import Demonstrated, check_shots_split, other_shots
from earnest.specs import MMLU, UserError

COLUMNS = ("subject", "question", "choices", "answer")
LETTERS = string.ascii_uppercase
SHOTS_SPLIT = "dev"
FALLBACK_SPLIT = "validation"

Row = dict[str, Any]


def measure(engine: Engine, spec: MMLU, data: str, progress: Progress | None = None) -> Measured:
    """Accuracy over all questions, each weighing the same, by subject (domain) and discipline (stratum).

    The column `split` says what was asked.
    """
    split = needed_splits(spec, data)[0]
    posed = engine.posed(items(spec, data))
    found = score_options(engine, posed, progress)
    samples = [choice_sample(item, values, split=split) for item, values in zip(posed, found, strict=True)]
    return Measured(samples, {"accuracy": share_correct(scored(samples))}, share_correct)


def reads(spec: MMLU, data: str) -> list[tuple[str, list[str]]]:
    """The splits that are read, each with its columns."""
    return [(split, list(COLUMNS)) for split in needed_splits(spec, data)]


def items(spec: MMLU, data: str) -> list[ChoiceItem]:
    """The questions of the split that is asked."""
    return mmlu_items(spec, data, asked_split(spec, data))


def asked_split(spec: MMLU, data: str) -> str:
    """The asked split; where it is the default and the folder lacks it, validation.

    Raises:
        UserError: the folder has no such split.
    """
    there = splits(data)
    if not there or spec.split in there:
        return spec.split
    if spec.split == MMLU.model_fields["split"].default and FALLBACK_SPLIT in there:
        return FALLBACK_SPLIT
    raise UserError(f"mmlu: {data} has no split {spec.split!r}; set split to one it has: {', '.join(there)}")


def mmlu_items(spec: MMLU, data: str, split: str) -> list[ChoiceItem]:
    """The questions of the wanted subjects in file order; a limit takes them evenly from all over."""
    identity = [name for name in ID_COLUMNS if name in columns(data, split)]
    rows = known_rows(data, split, COLUMNS, identity)
    check_ids(rows, identity, file_of(data, split))
    rows = _numbered(rows, file_of(data, split))
    shots = _shots(data) if spec.shots else {}
    chosen = [row for row in rows if not spec.subjects or row["subject"] in spec.subjects]
    _check_subjects(spec, rows, data)
    asked = spread(chosen, spec.limit)
    _check_shots(spec, asked, shots, data)
    pools = {subject: pool[: spec.shots] for subject, pool in shots.items()}
    return [
        _item(other_shots(row, pools.get(row["subject"], []), shots.get(row["subject"], []), ["question", "choices"]))
        for row in asked
    ]


def _check_shots(spec: MMLU, asked: Sequence[Row], shots: Mapping[str, Sequence[Row]], data: str) -> None:
    """See that every subject that is asked has enough demonstrations."""
    for subject in sorted({row["subject"] for row in asked}) if spec.shots else ():
        there = len(shots.get(subject, ()))
        if there < spec.shots:
            raise UserError(
                f"mmlu: the split {SHOTS_SPLIT!r} of {data} has {there} rows of subject {subject!r} for {spec.shots} "
                f"shots; bring more, or set shots = {there}"
            )


def _numbered(rows: Sequence[Row], file: str) -> list[Row]:
    """Rows with their answer's index and an id: the subject and the row's number within it."""
    seen: dict[str, int] = defaultdict(int)
    numbered = []
    check_rows(rows, COLUMNS, file)
    for i, row in enumerate(rows):
        subject = row["subject"]
        if len(row["choices"]) > len(LETTERS):
            raise UserError(
                f"data {file}: row {i}: {len(row['choices'])} choices; there are letters for {len(LETTERS)}"
            )
        answer = choice_index(row["answer"], row["choices"], f"data {file}: row {i}")
        numbered.append({**row, "answer": answer, "id": f"{subject}-{seen[subject]:04d}"})
        seen[subject] += 1
    return numbered


def _check_subjects(spec: MMLU, rows: Sequence[Row], data: str) -> None:
    there = sorted({row["subject"] for row in rows})
    unknown = [subject for subject in spec.subjects if subject not in there]
    if unknown:
        raise UserError(f"mmlu: no subject {unknown[0]!r} in {data}; it has {', '.join(there)}")


def needed_splits(spec: MMLU, data: str) -> list[str]:
    """The splits that are read: what is asked, and where the shots come from.

    Raises:
        UserError: the folder lacks one of them.
    """
    if not spec.shots:
        return [asked_split(spec, data)]
    check_shots_split(data, SHOTS_SPLIT, spec.shots)
    return [asked_split(spec, data), SHOTS_SPLIT]


def _shots(data: str) -> Mapping[str, list[Row]]:
    by_subject: dict[str, list[Row]] = defaultdict(list)
    for row in _numbered(read_rows(data, SHOTS_SPLIT, COLUMNS), data):
        by_subject[row["subject"]].append(row)
    return by_subject


def _item(one: Demonstrated[Row]) -> ChoiceItem:
    row = one.row
    options = tuple(f" {letter}" for letter in LETTERS[: len(row["choices"])])
    subject = row["subject"]
    same = twins(row["choices"], row["answer"])
    asked = prompt(row, one.shots)
    own = {"domain": subject, "stratum": discipline_of(subject)}
    known = {name: value for name, value in known_of(row).items() if value not in ("", None)}
    return ChoiceItem(row["id"], asked, options, row["answer"], twins=same, shown=one.notes, **{**own, **known})


def prompt(row: Row, shots: Sequence[Row]) -> str:
    """The subject, the shots with their letters, the question."""
    subject = row["subject"].replace("_", " ")
    head = f"The following are multiple choice questions (with answers) about {subject}.\n\n"
    return head + "".join(f"{question(shot)} {LETTERS[shot['answer']]}\n\n" for shot in shots) + question(row)


def question(row: Row) -> str:
    """A question, its lettered options, and "Answer:"."""
    options = "".join(f"{letter}. {choice}\n" for letter, choice in zip(LETTERS, row["choices"], strict=False))
    return f"{row['question'].strip()}\n{options}Answer:"
