"""AlpacaFarm (Dubois et al. 2023) as proxy-tuning asks it: how often the answer is preferred to the reference's.

Ties count half. The length-controlled win rate stands beside the plain one, because judges like long answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from earnest.almanac import questions
from earnest.data import columns, file_of
from earnest.evaluation.conversations import converse
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.judging.forms import PREFERENCE
from earnest.evaluation.judging.judges import judge_of
from earnest.evaluation.judging.panel import BOTH_ORDERS, PUBLISHED_ORDERS, Duel, Judged, weigh
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.rows import ID_COLUMNS, check_ids, column_among, filled_text, known_of, known_rows
from earnest.evaluation.samples import Measured, Sample
from earnest.evaluation.tasks.instruction import NANO_STOPS, forms_of, longest
from earnest.records import Estimate
from earnest.specs import AlpacaFarm
from earnest.statistics.intervals import bootstrap_mean, mean_estimate
from earnest.statistics.length_control import length_controlled

MAX_TOKENS = 2048
REFERENCE, GROUP = ("reference", "output"), "dataset"
STOPS = ("\n\nComment:",)


def measure(engine: Engine, spec: AlpacaFarm, data: str, progress: Progress | None = None) -> Measured:
    """The win rate, plain and at equal length, and the share of ties."""
    judges = [judge_of(judge, engine) for judge in spec.judges]
    rows, stops = items(spec, data), NANO_STOPS if data == NANO else STOPS
    form = forms_of(spec, PREFERENCE, data)[""]
    written = [
        generations[0]
        for generations in converse(
            engine, spec, [[row.question] for row in rows], stops, longest(spec, data, MAX_TOKENS), progress
        )
    ]
    duels = [
        replace(row, form=form, answer=generation.text.strip()) for row, generation in zip(rows, written, strict=True)
    ]
    orders = PUBLISHED_ORDERS if spec.compat else BOTH_ORDERS
    measured = weigh(judges, duels, written, orders=orders, score=_win, headline=spec.headline)
    known = [sample for sample in measured.samples if sample.score is not None]
    metrics = {
        **measured.metrics,
        "win_rate": win_rate(known),
        "length_controlled_win_rate": length_controlled(
            [sample.score or 0.0 for sample in known], [len(s.prediction) - len(s.gold) for s in known]
        ),
    }
    return replace(measured, metrics=metrics, headline=win_rate)


def reads(spec: AlpacaFarm, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, needed(spec, data))]


def items(spec: AlpacaFarm, data: str) -> list[Duel]:
    """The instructions, each with the reference's answer and without one of the subject's."""
    return _nano(spec) if data == NANO else user_duels(spec, data)


def win_rate(samples: Sequence[Sample]) -> Estimate:
    """The mean preference, with the standard error of a mean, as published, and the limits of a mean within 0..1."""
    scores = [sample.score or 0.0 for sample in samples]
    return bootstrap_mean(scores).model_copy(update={"stderr": mean_estimate(scores).stderr})


def _win(judged: Judged) -> float:
    return judged.win


def _nano(spec: AlpacaFarm) -> list[Duel]:
    """Biographies of the almanac's people against its own."""
    made = questions.biographies(shipped_world(), spec.limit or QUESTIONS, spec.seed)
    return [Duel(q.id, PREFERENCE, q.prompt, "", q.answer.strip(), q.answer, q.domain, q.stratum) for q in made]


def needed(spec: AlpacaFarm, data: str) -> list[str]:
    """The columns of a user's data that are read: the instruction and the reference's answer."""
    return ["instruction", column_among(data, spec.split, REFERENCE)]


def user_duels(spec: AlpacaFarm, data: str) -> list[Duel]:
    """A user's instructions, each with the reference's answer. Raises UserError where a row holds no text."""
    instruction, reference = needed(spec, data)
    there = columns(data, spec.split)
    identity = [name for name in ID_COLUMNS if name in there]
    beside = [GROUP] if GROUP in there else []
    rows = known_rows(data, spec.split, [instruction, reference], [*beside, *identity])[: spec.limit]
    file = file_of(data, spec.split)
    check_ids(rows, identity, file)
    found = []
    for number, row in enumerate(rows):
        asked, given = (filled_text(row, name, f"data {file}: row {number}") for name in (instruction, reference))
        known = {**known_of(row), "domain": row.get("domain") or str(row.get(GROUP) or "")}
        found.append(Duel(f"{spec.split}-{number:05d}", PREFERENCE, asked, "", given, given, **known))
    return found
