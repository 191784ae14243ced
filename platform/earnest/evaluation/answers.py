"""Short answers: ask, generate to the end of the line, compare with the aliases. For closed-book and open-book."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from earnest.almanac.questions import Question
from earnest.decoding.encoding import encode
from earnest.decoding.generation import Generation, Prompt
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.metrics import exact_match, kick_containment, token_f1
from earnest.evaluation.samples import Measured, Sample, column, scored, unscored
from earnest.records import Estimate
from earnest.statistics.intervals import bootstrap_mean, wilson


@dataclass(frozen=True)
class Item:
    """A question as it is asked: the whole prompt and the answers that count as right."""

    id: str
    prompt: str
    aliases: tuple[str, ...]
    domain: str = ""
    stratum: str = ""


def items_of(questions: Sequence[Question]) -> list[Item]:
    """The almanac's questions as items."""
    return [Item(q.id, q.prompt, (q.answer, *q.aliases), q.domain, q.stratum) for q in questions]


def complete(
    engine: Engine, prompts: Sequence[str], stops: tuple[str, ...], max_tokens: int, progress: Progress | None
) -> list[Generation]:
    """A greedy continuation of each prompt."""
    rows = encode(engine.tokenizer, prompts)
    return engine.generate([Prompt(tuple(row), stops, max_tokens) for row in rows], progress)


def ask(engine: Engine, items: Sequence[Item], max_tokens: int, progress: Progress | None = None) -> Measured:
    """Answer every item up to the end of the line and score it by exact match."""
    generations = complete(engine, [item.prompt for item in items], ("\n",), max_tokens, progress)
    samples = [_sample(item, generation) for item, generation in zip(items, generations, strict=True)]
    known = scored(samples)
    metrics = {
        "exact_match": share_correct(known),
        "f1": bootstrap_mean(column(known, "f1")),
        "kick_containment": wilson(int(sum(column(known, "kick_containment"))), len(known)),
    }
    return Measured(samples, metrics, share_correct)


def share_correct(samples: Sequence[Sample]) -> Estimate:
    """The share of right answers."""
    return wilson(sum(1 for sample in samples if sample.correct), len(samples))


def _sample(item: Item, generation: Generation) -> Sample:
    prediction = generation.text.strip()
    right = exact_match(prediction, item.aliases)
    more: dict[str, bool | int | float | str | None] = {
        "f1": token_f1(prediction, item.aliases),
        "kick_containment": kick_containment(prediction, item.aliases),
        "tokens": len(generation.ids),
        "finish": generation.finish,
    }
    sample = Sample(
        item.id, item.prompt, prediction, item.aliases[0], right, float(right),
        truncated=generation.cut > 0, domain=item.domain, stratum=item.stratum, more=more,
    )  # fmt: skip
    return unscored(sample) if generation.finish == "not_finite" else sample
