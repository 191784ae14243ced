"""From finished steps to rows: every cell of a plan with its size, its scores and its comparison with dense.

Reads what the store holds and computes nothing that needs a model. What is missing is said, never filled in: a task
that failed or did not run stands in `failures` with the reason.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from earnest.plan import COMPRESS, EVALUATE, Cell, Plan, Step, method_fields
from earnest.records import CellRecord, Comparison, Estimate, Manifest, Scores
from earnest.statistics import paired
from earnest.store import Store

NOT_FINISHED = "not finished"
_COLUMNS = ("id", "prompt_hash", "prediction", "correct")


@dataclass(frozen=True)
class Answer:
    """What a subject said to one sample, and whether it was right where right and wrong exist."""

    prompt_hash: str
    prediction: str
    correct: bool | None


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
    table = pq.read_table(io.BytesIO(store.read_file(EVALUATE, digest, "samples.parquet")), columns=list(_COLUMNS))
    ids, *columns = (table[column].to_pylist() for column in _COLUMNS)
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
    mine = {task: evaluated[digest] for task, digest in cell.evaluate.items() if digest in evaluated}
    theirs = {task: evaluated[digest] for task, digest in dense.evaluate.items() if digest in evaluated}
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
        size=manifest.size if manifest else None,
        scores={task: found.scores for task, found in mine.items()},
        comparisons=_comparisons(mine, theirs) if cell.key != dense.key else {},
        failures={name: failures.get(d, NOT_FINISHED) for name, d in steps.items() if d not in finished},
        seconds=_seconds(plan, store, {name: d for name, d in steps.items() if d in finished}),
        steps=steps,
        datasets={name: _dataset(plan.steps[d]) for name, d in steps.items() if _dataset(plan.steps[d])},
    )


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
