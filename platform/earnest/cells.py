"""From finished steps to rows: every cell of a plan with its size, its scores, its comparison with dense, its gains.

Reads what the store holds and computes nothing that needs a model. What is missing is said, never filled in: a task
that failed or did not run stands in `failures` with the reason.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from earnest.plan import COMPRESS, EVALUATE, Cell, Plan, Step, method_fields
from earnest.records import CellRecord, Comparison, Estimate, Gain, Manifest, Scores, Steered
from earnest.statistics import gaps, paired
from earnest.statistics.paired import Sums
from earnest.store import Store

NOT_FINISHED = "not finished"
_COLUMNS = ("id", "prompt_hash", "prediction", "correct")
# Headlines that are a ratio of sums over samples, and not the mean of their scores.
RATIOS = {"true": ("true", "well_formed"), "token_perplexity": ("nats", "tokens")}
EXPONENTIAL = frozenset({"token_perplexity"})


@dataclass(frozen=True)
class Answer:
    """What a subject said to one sample, and whether it was right where right and wrong exist.

    `above` and `below` are what the sample adds above and below the line of the headline; it adds nothing where `above`
    is None.
    """

    prompt_hash: str
    prediction: str
    correct: bool | None
    above: float | None = None
    below: float = 1.0


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation: its scores, and its answers by sample id."""

    scores: Scores
    answers: Mapping[str, Answer]

    @property
    def prompts(self) -> dict[str, str]:
        """Sample id -> the hash of what was asked."""
        return {key: answer.prompt_hash for key, answer in self.answers.items()}


def collect(plan: Plan, store: Store, failures: Mapping[str, str]) -> list[CellRecord]:
    """Every cell of a plan, in the plan's order, with all that its finished steps say.

    Args:
        plan: the sweep's steps and cells; its first cell is the dense model that all others are compared with.
        store: where the steps' outputs are.
        failures: digest of a step that failed or could not start -> the reason.

    Raises:
        CorruptOutputError: a stored score, sample file or manifest does not have the bytes that were published.
    """
    evaluated = _read_evaluations(plan, store)
    finished = store.digests(COMPRESS) | set(evaluated)
    return [_record(cell, plan, store, evaluated, finished, failures) for cell in plan.cells]


def _read_evaluations(plan: Plan, store: Store) -> dict[str, Evaluated]:
    wanted = {digest for cell in plan.cells for digest in cell.evaluate.values()}
    return {digest: _read_evaluation(store, digest) for digest in sorted(wanted & store.digests(EVALUATE))}


def _read_evaluation(store: Store, digest: str) -> Evaluated:
    scores = Scores.model_validate_json(store.read_file(EVALUATE, digest, "scores.json"))
    sums = RATIOS.get(scores.headline, ("score",))
    content = io.BytesIO(store.read_file(EVALUATE, digest, "samples.parquet"))
    table = pq.read_table(content, columns=[*_COLUMNS, *sums])
    ids, *columns = (table[column].to_pylist() for column in (*_COLUMNS, *sums))
    answers = (Answer(*row) for row in zip(*columns, strict=True))
    return Evaluated(scores, dict(zip(ids, answers, strict=True)))


def _record(
    cell: Cell,
    plan: Plan,
    store: Store,
    evaluated: Mapping[str, Evaluated],
    finished: set[str],
    failures: Mapping[str, str],
) -> CellRecord:
    dense = plan.cells[0]
    mine = _finished(cell, evaluated)
    theirs = _finished(dense, evaluated)
    steps = {**({"compress": cell.compress} if cell.compress else {}), **cell.evaluate}
    compress = plan.steps[cell.compress] if cell.compress else None
    manifest = _manifest(store, cell.compress) if cell.compress in finished else None
    pattern = getattr(cell.method, "pattern", None)
    return CellRecord(
        key=cell.key,
        sweep=plan.sweep,
        model=cell.model,
        model_digest=cell.model_digest,
        method=str(cell.method.model_dump()["method"]),
        family=cell.method.family,
        nominal=cell.method.nominal,
        nominal_sparsity=None if pattern is None else float(pattern.sparsity),
        nominal_bits=getattr(cell.method, "bits", None),
        method_spec={**method_fields(cell.method), "calibration": compress.spec["calibration"] if compress else None},
        seed=cell.seed,
        steering=_steered(cell, plan),
        size=manifest.size if manifest else None,
        scores={task: found.scores for task, found in mine.items()},
        comparisons=_comparisons(mine, theirs) if cell.key != dense.key else {},
        gains=_gains(cell, plan, evaluated) if cell.steering else {},
        failures={name: failures.get(d, NOT_FINISHED) for name, d in steps.items() if d not in finished},
        seconds=_seconds(plan, store, {name: d for name, d in steps.items() if d in finished}),
        steps=steps,
        datasets={name: _dataset(plan.steps[d]) for name, d in steps.items() if _dataset(plan.steps[d])},
    )


def _finished(cell: Cell, evaluated: Mapping[str, Evaluated]) -> dict[str, Evaluated]:
    """A cell's finished evaluations by task."""
    return {task: evaluated[digest] for task, digest in cell.evaluate.items() if digest in evaluated}


def _manifest(store: Store, digest: str) -> Manifest:
    return Manifest.model_validate_json(store.read_file(COMPRESS, digest, "manifest.json"))


def _seconds(plan: Plan, store: Store, steps: Mapping[str, str]) -> dict[str, float]:
    runs = {name: store.read_run(plan.steps[digest].kind, digest) for name, digest in steps.items()}
    return {name: float(run["seconds"]) for name, run in runs.items() if "seconds" in run}


def _dataset(step: Step) -> str:
    """The data a step looked at, as name@digest; empty for a compression that looks at none."""
    where = "calibration" if step.kind == COMPRESS else "data"
    if where not in step.location:
        return ""
    fields: Mapping[str, Any] = step.spec["calibration"] if step.kind == COMPRESS else step.spec
    return f"{PurePosixPath(step.location[where]).name}@{fields['data_digest']}"


# --- against dense --------------------------------------------------------------------------------------------------


def _comparisons(mine: Mapping[str, Evaluated], theirs: Mapping[str, Evaluated]) -> dict[str, Comparison]:
    return {task: compare(theirs[task], mine[task]) for task in mine if task in theirs}


def compare(dense: Evaluated, subject: Evaluated) -> Comparison:
    """One task of a subject against the dense model, on the samples that both answered.

    The relative change is of the headline, and only given where both were asked the very same prompts: a change of
    samples is not a change of the model.
    """
    relative = relative_change(dense, subject) if dense.prompts == subject.prompts else None
    pairs = _pairs(dense, subject)
    return Comparison(
        relative=relative,
        matches=None if relative is None else paired.matches(relative, subject.scores.higher_is_better),
        retention=paired.retention([bool(a.correct) for a, _ in pairs], [bool(b.correct) for _, b in pairs]),
        flips=_flips(pairs),
        kl=subject.scores.metrics.get("kl_to_dense"),
    )


def relative_change(dense: Evaluated, subject: Evaluated) -> float | None:
    """(subject − dense) ÷ dense of the headline; None where dense scored zero.

    Rounded to twelve digits, so that a score of exactly 95 % of dense still matches.
    """
    before, after = dense.scores.main.value, subject.scores.main.value
    return round((after - before) / before, 12) if before else None


def _pairs(dense: Evaluated, subject: Evaluated) -> list[tuple[Answer, Answer]]:
    """The answers to what both were asked and either got right or wrong, aligned by sample id."""
    shared = [key for key, answer in dense.answers.items() if answer.correct is not None and key in subject.answers]
    return [(dense.answers[key], subject.answers[key]) for key in shared]


def _flips(pairs: Sequence[tuple[Answer, Answer]]) -> Estimate | None:
    if not pairs:
        return None
    before, after = zip(*pairs, strict=True)
    correct = [[answer.correct for answer in answers] for answers in (before, after)]
    texts = [[answer.prediction for answer in answers] for answers in (before, after)]
    return paired.flips(*correct, *texts)


# --- what a pair gains ----------------------------------------------------------------------------------------------


def _steered(cell: Cell, plan: Plan) -> Steered | None:
    if cell.steering is None or cell.base is None:
        return None
    expert, anti = cell.steering.expert, cell.steering.antiexpert
    return Steered(
        pair=cell.steering.name,
        expert=expert.name,
        expert_digest=expert.content,
        antiexpert=anti.name if anti else None,
        antiexpert_digest=anti.content if anti else None,
        alpha=cell.steering.alpha,
        base=cell.base,
        target=next((other.model for other in plan.cells if other.key == cell.target), None),
    )


def _gains(cell: Cell, plan: Plan, evaluated: Mapping[str, Evaluated]) -> dict[str, Gain]:
    """Every task of a steered cell against the same cell without the pair, where both are finished."""
    cells = {other.key: _finished(other, evaluated) for other in plan.cells if other.steering is None}
    dense = next(other.key for other in plan.cells if other.model == cell.model and other.compress is None)
    base, mine = cells[str(cell.base)], _finished(cell, evaluated)
    found = {}
    for task in mine:
        goals = [None if key is None else cells[key].get(task) for key in (cell.target, dense)]
        if task in base and (gain := gain_of(base[task], mine[task], *goals)) is not None:
            found[task] = gain
    return found


def gain_of(base: Evaluated, steered: Evaluated, target: Evaluated | None, dense: Evaluated | None) -> Gain | None:
    """What a pair gained on the samples that all have a score for; None where they were asked different prompts.

    `dense` is the base itself where nothing was compressed, and then nothing is won back.
    """
    goals = [goal for goal in (target, dense) if goal is not None]
    if any(other.prompts != base.prompts for other in (steered, *goals)):
        return None
    known = [key for key in base.answers if all(e.answers[key].above is not None for e in (base, steered, *goals))]
    start, reached = _headline(base, known), _headline(steered, known)
    return Gain(
        difference=gaps.difference(start, reached),
        gap_closed=_share(start, reached, target, known),
        won_back=_share(start, reached, None if dense is base else dense, known),
    )


def _share(
    start: gaps.Headline, reached: gaps.Headline, goal: Evaluated | None, samples: Sequence[str]
) -> Estimate | None:
    """How much of the way to a better score was gone; None where `goal` is not shown to be better."""
    if goal is None:
        return None
    there = _headline(goal, samples)
    better = there.value > start.value if goal.scores.higher_is_better else there.value < start.value
    return gaps.share_closed(start, reached, there) if better else None


def _headline(evaluated: Evaluated, samples: Sequence[str]) -> gaps.Headline:
    """The headline metric as sums over some samples."""
    answers = [evaluated.answers[key] for key in samples]
    sums = Sums(np.array([a.above for a in answers], dtype=float), np.array([a.below for a in answers], dtype=float))
    return gaps.Headline(sums, evaluated.scores.headline in EXPONENTIAL)
