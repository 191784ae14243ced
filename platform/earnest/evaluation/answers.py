"""Short answers: ask, read the first line of what is generated, compare it with the aliases."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from earnest.almanac.questions import Question
from earnest.decoding.generation import Generation, Prompt
from earnest.evaluation.chat import PLAIN, Manner, read_as
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
    notes: tuple[str, ...] = ()
    frequency: float | None = None

    @property
    def gold(self) -> str:
        """The first of the right answers."""
        return self.aliases[0]


Match = Callable[[Item, str], bool | float]


def by_first_line(match: Callable[[str, Sequence[str]], bool | float]) -> Match:
    """A match of the first line with the aliases."""
    return lambda item, text: match(first_line(text), item.aliases)


LINE_END = ("\n",)
CONTAINMENT: Mapping[str, Match] = {"kick_containment": by_first_line(kick_containment)}


def items_of(questions: Sequence[Question]) -> list[Item]:
    """The almanac's questions as items."""
    return [Item(q.id, q.prompt, (q.answer, *q.aliases), q.domain, q.stratum) for q in questions]


def complete(
    engine: Engine,
    prompts: Sequence[str],
    stops: tuple[str, ...],
    max_tokens: int,
    progress: Progress | None,
    manner: Manner = PLAIN,
) -> list[Generation]:
    """A greedy continuation of each prompt, which chat models read in their own form."""
    rows = read_as(engine, prompts, manner)
    answer = not manner.prefix and any(one.chat is not None for one in engine.speakers[:1])
    return engine.generate([Prompt(ids, stops, max_tokens, forms, answer=answer) for ids, forms in rows], progress)


def ask(
    engine: Engine,
    items: Sequence[Item],
    max_tokens: int,
    progress: Progress | None = None,
    *,
    stops: tuple[str, ...] = LINE_END,
    matches: Mapping[str, Match] = CONTAINMENT,
) -> Measured:
    """Answer every item and score the first line by exact match, F1 and the `matches`; by default it ends there."""
    generations = complete(engine, [item.prompt for item in items], stops, max_tokens, progress)
    return judged(items, generations, matches)


def judged(items: Sequence[Item], generations: Sequence[Generation], matches: Mapping[str, Match]) -> Measured:
    """What the generated answers are worth."""
    samples = [_sample(item, generation, matches) for item, generation in zip(items, generations, strict=True)]
    known = scored(samples)
    metrics = {
        "exact_match": share_correct(known),
        "f1": bootstrap_mean(column(known, "f1")),
        **{name: _mean(known, name) for name in matches},
    }
    return Measured(samples, metrics, share_correct)


def _mean(known: Sequence[Sample], name: str) -> Estimate:
    """The mean of a match: a share where it is right or wrong."""
    values = column(known, name)
    if all(isinstance(sample.more[name], bool) for sample in known):
        return wilson(int(sum(values)), len(values))
    return bootstrap_mean(values)


def first_line(text: str) -> str:
    """An answer is the first line that is not empty."""
    return text.strip().split("\n")[0].rstrip()


def share_correct(samples: Sequence[Sample]) -> Estimate:
    """The share of right answers."""
    return wilson(sum(1 for sample in samples if sample.correct), len(samples))


def _sample(item: Item, generation: Generation, matches: Mapping[str, Match]) -> Sample:
    prediction = first_line(generation.text)
    right = exact_match(prediction, item.aliases)
    more: dict[str, bool | int | float | str | None] = {
        "f1": token_f1(prediction, item.aliases),
        **{name: match(item, generation.text) for name, match in matches.items()},
        "tokens": len(generation.ids),
        "finish": generation.finish,
    }
    sample = Sample(
        item.id, item.prompt, prediction, item.aliases[0], right, float(right),
        truncated=generation.cut > 0, domain=item.domain, stratum=item.stratum, more=more,
    )  # fmt: skip
    return unscored(sample) if generation.finish == "not_finite" else sample
