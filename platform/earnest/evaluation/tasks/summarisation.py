"""Summaries of a passage that stands in the prompt: exact match and ROUGE against the reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from earnest.almanac import questions
from earnest.decoding.generation import Generation
from earnest.evaluation.answers import Item, complete, share_correct
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.metrics import exact_match
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.normal_forms import latin, words_of
from earnest.evaluation.rows import PASSAGE_COLUMNS, SUMMARY_COLUMNS, aliases_of, column_among, known_of, question_rows
from earnest.evaluation.samples import Measured, Sample, column, scored, unscored
from earnest.records import Estimate
from earnest.specs import Summarisation, UserError
from earnest.statistics.intervals import bootstrap_mean

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
HALF = 0.5
NANO_STOPS, USER_STOPS = ("\n",), ("\n\n",)


def measure(engine: Engine, spec: Summarisation, data: str, progress: Progress | None = None) -> Measured:
    """ROUGE-1, -2 and -L (F, no stemming) and exact match on the almanac or a user's rows (article, highlights)."""
    posed, stops, scorer = engine.posed(items(spec, data)), NANO_STOPS if data == NANO else USER_STOPS, rouge_scorer()
    generations = complete(engine, [item.prompt for item in posed], stops, spec.max_tokens, progress)
    samples = [_sample(item, generation, scorer) for item, generation in zip(posed, generations, strict=True)]
    known = scored(samples)
    means = {name: bootstrap_mean(column(known, name)) for name in ROUGE}
    return Measured(samples, {**means, "exact_match": share_correct(known)}, mean_score)


def reads(spec: Summarisation, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, needed(spec, data))]


def items(spec: Summarisation, data: str) -> list[Item]:
    """The passages."""
    return nano_items(spec) if data == NANO else user_items(spec, data)


def nano_items(spec: Summarisation) -> list[Item]:
    """One-line summaries of passages about people that no model has met."""
    made = questions.summaries(shipped_world(), spec.limit or QUESTIONS, spec.seed)
    return [Item(q.id, q.prompt, (q.answer,), q.domain, q.stratum) for q in made]


def needed(spec: Summarisation, data: str) -> list[str]:
    """The columns of a user's data that are read: passage and summary, in this order."""
    return [column_among(data, spec.split, names) for names in (PASSAGE_COLUMNS, SUMMARY_COLUMNS)]


def user_items(spec: Summarisation, data: str) -> list[Item]:
    """A user's passages with their reference summaries; lines of highlights are joined by newlines."""
    passage, summary = needed(spec, data)
    rows = question_rows(data, spec.split, [passage, summary])[: spec.limit]
    return [
        Item(
            f"{spec.split}-{i:05d}", f"Passage: {row[passage].strip()}\nSummary:",
            ("\n".join(aliases_of(row[summary])),), **known_of(row),
        )
        for i, row in enumerate(rows)
    ]  # fmt: skip


def rouge_scorer() -> Any:
    """The scorer of the package rouge-score. Raises UserError where it is not installed."""
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise UserError("summarisation: ROUGE needs the package rouge-score; pip install rouge-score") from error
    return RougeScorer(list(ROUGE.values()), use_stemmer=False)


def rouge(scorer: Any, gold: str, prediction: str) -> dict[str, float]:
    """ROUGE (F) of a summary. rouge-score sees ASCII alone; for scripts other than Latin they are `words_of`."""
    if latin(gold) < HALF:
        gold, prediction = (_numbered(words_of(text)) for text in (gold, prediction))
    found = scorer.score(gold, prediction)
    return {name: float(found[key].fmeasure) for name, key in ROUGE.items()}


def _numbered(words: Sequence[str]) -> str:
    """Words that rouge-score can tell apart in place of others: their characters by number."""
    return " ".join("".join(f"{ord(character):x}z" for character in word) for word in words)


def mean_score(samples: Sequence[Sample]) -> Estimate:
    """The mean of the samples' scores."""
    return bootstrap_mean([sample.score or 0.0 for sample in samples])


def _sample(item: Item, generation: Generation, scorer: Any) -> Sample:
    prediction, gold = generation.text.strip(), item.aliases[0]
    more = rouge(scorer, gold, prediction)
    sample = Sample(
        item.id, item.prompt, prediction, gold, exact_match(prediction, item.aliases), more["rouge_l"],
        truncated=generation.cut > 0, domain=item.domain, stratum=item.stratum,
        more={**more, "tokens": len(generation.ids), "finish": generation.finish},
    )  # fmt: skip
    return unscored(sample) if generation.finish == "not_finite" else sample
