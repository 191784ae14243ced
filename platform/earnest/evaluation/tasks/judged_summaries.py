"""Summaries of a story in the prompt (CNN/DailyMail, small, medium and large), judged by four criteria.

LLM-KICK's script leaves the highlights, which are the reference, in the story and joins its lines without a space; here
the story alone is shown, and `compat` brings both faults back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from earnest.data import columns, file_of
from earnest.evaluation.conversations import converse
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.judging.forms import SUMMARIES
from earnest.evaluation.judging.judges import judge_of
from earnest.evaluation.judging.panel import BOTH_ORDERS, PUBLISHED_ORDERS, Duel, weigh
from earnest.evaluation.nano import NANO
from earnest.evaluation.rows import (
    ID_COLUMNS,
    PASSAGE_COLUMNS,
    SUMMARY_COLUMNS,
    aliases_of,
    check_ids,
    check_rows,
    column_among,
    filled_text,
    known_of,
    known_rows,
)
from earnest.evaluation.samples import Measured
from earnest.evaluation.tasks.instruction import MAX_TOKENS, NANO_STOPS, forms_of, longest, mean_score
from earnest.evaluation.tasks.summarisation import nano_items
from earnest.specs import JudgedSummaries, Summarisation

SIZE, SMALL, REFERENCE = "size", "small", "reference"
ASK = (
    "Summarize the given {kind} in less than 150 words while preserving high coherence, consistency, fluency, and "
    "relevance.\n\n{text}"
)


def measure(engine: Engine, spec: JudgedSummaries, data: str, progress: Progress | None = None) -> Measured:
    """Mean scores, 1..10, of the summaries, by criterion and together, and the reference's beside them."""
    judges = [judge_of(judge, engine) for judge in spec.judges]
    rows, stops = items(spec, data), NANO_STOPS if data == NANO else ()
    forms = forms_of(spec, SUMMARIES, data)
    written = [
        generations[0]
        for generations in converse(
            engine, spec, [[row["prompt"]] for row in rows], stops, longest(spec, data, MAX_TOKENS), progress
        )
    ]
    duels = [
        Duel(
            row["id"], forms.get(row["size"], forms[""]), row["text"], generation.text.strip(), row["reference"],
            row["highlights"], row.get("domain", ""), row.get("stratum") or row["size"], row.get("frequency"),
        )
        for row, generation in zip(rows, written, strict=True)
    ]  # fmt: skip
    orders = PUBLISHED_ORDERS if spec.compat else BOTH_ORDERS
    return weigh(judges, duels, written, orders=orders, score=mean_score, headline=spec.headline)


def reads(spec: JudgedSummaries, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, needed(spec, data))]


def items(spec: JudgedSummaries, data: str) -> list[dict[str, Any]]:
    """The stories."""
    return _nano(spec) if data == NANO else user_rows(spec, data)


def _nano(spec: JudgedSummaries) -> list[dict[str, Any]]:
    """The almanac's passages, each with its one line."""
    items = nano_items(Summarisation(limit=spec.limit, seed=spec.seed))
    return [
        {
            "id": item.id, "prompt": item.prompt, "text": item.prompt, "size": "", "domain": item.domain,
            "reference": item.aliases[0].strip(), "highlights": item.aliases[0], "stratum": item.stratum,
        }
        for item in items
    ]  # fmt: skip


def needed(spec: JudgedSummaries, data: str) -> list[str]:
    """The columns of a user's data that are read: the story and its highlights."""
    return [column_among(data, spec.split, names) for names in (PASSAGE_COLUMNS, SUMMARY_COLUMNS)]


def user_rows(spec: JudgedSummaries, data: str) -> list[dict[str, Any]]:
    """A user's stories; a column `reference` holds the summaries to compare with, else the highlights are."""
    passage, highlights = needed(spec, data)
    there = columns(data, spec.split)
    beside = [name for name in (SIZE, REFERENCE) if name in there]
    identity = [name for name in ID_COLUMNS if name in there]
    rows = known_rows(data, spec.split, [passage, highlights], [*beside, *identity])[: spec.limit]
    file = file_of(data, spec.split)
    check_rows(rows, [highlights], file)
    check_ids(rows, identity, file)
    found = []
    for number, row in enumerate(rows):
        text = filled_text(row, passage, f"data {file}: row {number}").strip()
        said = aliases_of(row[highlights])
        size = str(row.get(SIZE) or "")
        found.append({
            "id": f"{spec.split}-{number:05d}", "prompt": _prompt(spec, text, said, size), "text": text, "size": size,
            "reference": str(row.get(REFERENCE) or "\n".join(said)), "highlights": "\n".join(said), **known_of(row),
        })  # fmt: skip
    return found


def _prompt(spec: JudgedSummaries, text: str, highlights: Sequence[str], size: str) -> str:
    if spec.compat:
        text = "".join(text.split("\n")) + "".join(f"@highlight{line}" for line in highlights)
    return ASK.format(kind="story" if size == SMALL else "news", text=text)
