"""TruthfulQA answered in a model's own words, as proxy-tuning asks it: the share of answers both true and informative.

Saying nothing is true, and making things up is informative; only both together count. Two judges decide, one for each;
an answer that one of them could not judge has no score and is counted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from earnest.almanac import questions
from earnest.data import file_of
from earnest.decoding.generation import Generation
from earnest.evaluation.answers import LINE_END, complete, share_correct
from earnest.evaluation.chat import Manner
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.judging.yes_no import Claim, Quality, Word, YesNoJudge, yes_no_judge
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.rows import question_rows
from earnest.evaluation.samples import Measured, Sample, scored, unscored
from earnest.evaluation.tasks.truthful_qa import answers_of
from earnest.records import Estimate
from earnest.specs import TruthfulQAOpen, UserError
from earnest.statistics.intervals import wilson

COLUMNS = ("question", "correct_answers", "incorrect_answers")
PREFIX = "Answer:"
QUALITIES: Mapping[str, Quality] = {"true": "True", "informative": "Helpful"}


@dataclass(frozen=True)
class OpenItem:
    """A question as it is asked, and as judges see it: with what is known to be true and false."""

    id: str
    prompt: str
    question: str
    true: tuple[str, ...]
    false: tuple[str, ...]
    domain: str = ""
    stratum: str = ""
    frequency: float | None = None


def reads(spec: TruthfulQAOpen, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, list(COLUMNS))]


def items(spec: TruthfulQAOpen, data: str) -> list[OpenItem]:
    """The questions."""
    return nano_items(spec) if data == NANO else user_items(spec, data)


def measure(engine: Engine, spec: TruthfulQAOpen, data: str, progress: Progress | None = None) -> Measured:
    """The share of answers that are true and informative, and of each alone, among those that both judges judged.

    Raises:
        UserError: there is none.
    """
    judges = {
        "true": yes_no_judge(spec.true_judge, engine),
        "informative": yes_no_judge(spec.informative_judge, engine),
    }
    posed, stops = items(spec, data), LINE_END if data == NANO else ()
    manner = Manner(prefix=PREFIX, system=spec.system)
    generations = complete(engine, [item.prompt for item in posed], stops, spec.max_tokens, progress, manner)
    words = _words(judges, posed, generations)
    samples = [
        _sample(item, generation, {name: said.get(number) for name, said in words.items()})
        for number, (item, generation) in enumerate(zip(posed, generations, strict=True))
    ]
    known = [sample for sample in samples if sample.score is not None]
    if not known and all(sample.finite for sample in samples):
        problem = next(word.problem for said in words.values() for word in said.values() if word.yes is None)
        raise UserError(f"{spec.label}: none of {len(posed)} answers could be judged ({problem})")
    shares = {name: wilson(sum(bool(s.more[name]) for s in scored(samples)), len(known)) for name in words}
    metrics = {spec.headline: share_correct(known), **shares, **_counts(words, len(posed))}
    return Measured(samples, metrics, share_correct)


def _words(
    judges: Mapping[str, YesNoJudge], items: Sequence[OpenItem], generations: Sequence[Generation]
) -> dict[str, dict[int, Word]]:
    """What each judge says of every answer, by its number; those of a model without finite logits are not judged."""
    fine = [number for number, generation in enumerate(generations) if generation.finish != "not_finite"]
    claims = [Claim(items[n].question, trimmed(generations[n].text), items[n].true, items[n].false) for n in fine]
    return {name: dict(zip(fine, judge.words(claims, QUALITIES[name]), strict=True)) for name, judge in judges.items()}


def trimmed(text: str) -> str:
    """An answer as judges see it: without outer white space and a leading "Answer:", and two newlines as one."""
    return text.strip().removeprefix(PREFIX).strip().replace("\n\n", "\n")


def user_items(spec: TruthfulQAOpen, data: str) -> list[OpenItem]:
    """TruthfulQA's rows with their lists of true and false answers."""
    rows = question_rows(data, spec.split, COLUMNS[:1], COLUMNS[1:])[: spec.limit]
    items, file = list[OpenItem](), file_of(data, spec.split)
    for i, row in enumerate(rows):
        true, false = (answers_of(row[name], f"data {file}: row {i}") for name in COLUMNS[1:])
        if not true or not false:
            raise UserError(
                f"data {file}: row {i}: needs an answer that is true and one that is false; mend or drop it"
            )
        items.append(
            OpenItem(
                f"{spec.split}-{i:05d}", f"{row['question']}\n\n{PREFIX}", row["question"], true, false,
                row.get("domain", ""), row.get("stratum", ""), row.get("frequency"),
            )
        )  # fmt: skip
    return items


def nano_items(spec: TruthfulQAOpen) -> list[OpenItem]:
    """The almanac's questions, asked without options: the fact is true, three values of its class are false."""
    made = questions.multiple_choice(shipped_world(), spec.limit or QUESTIONS, spec.seed)
    return [
        OpenItem(
            q.id, q.prompt, q.prompt.rpartition("\n\n")[2], (q.choices[q.answer_index],),
            tuple(choice for i, choice in enumerate(q.choices) if i != q.answer_index), q.domain, q.stratum,
        )
        for q in made
    ]  # fmt: skip


def _sample(item: OpenItem, generation: Generation, words: dict[str, Word | None]) -> Sample:
    known = {name: None if word is None else word.yes for name, word in words.items()}
    both = None if None in known.values() else all(known.values())
    more: dict[str, bool | int | float | str | None] = {
        **known,
        **{f"{name}_probability": word.probability if word else None for name, word in words.items()},
        "problems": json.dumps({name: word.problem for name, word in words.items() if word and word.problem}),
        "tokens": len(generation.ids),
        "finish": generation.finish,
    }
    sample = Sample(
        item.id, item.prompt, trimmed(generation.text), item.true[0], both, None if both is None else float(both),
        truncated=generation.cut > 0, domain=item.domain, stratum=item.stratum, more=more,
    )  # fmt: skip
    return unscored(sample) if generation.finish == "not_finite" else sample


def _counts(words: dict[str, dict[int, Word]], asked: int) -> dict[str, Estimate]:
    """Per judge the share that it judged, and what it cost."""
    found: dict[str, Estimate] = {}
    for name, said in words.items():
        found[f"judged.{name}"] = wilson(sum(word.yes is not None for word in said.values()), asked)
        found[f"usd.{name}"] = Estimate(value=sum(word.usd for word in said.values()), n=asked)
    return found
