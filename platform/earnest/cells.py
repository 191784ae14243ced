"""From finished steps to rows: every cell of a plan with its size, its scores and its comparison with dense.

Reads what the store holds and computes nothing that needs a model. What is missing is said, never filled in: a task
that failed or did not run stands in `failures` with the reason.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from earnest.plan import COMPRESS, EVALUATE, Cell, Plan, Step, method_fields
from earnest.records import CellRecord, Comparison, Estimate, Manifest, Scores
from earnest.statistics.intervals import wilson
from earnest.store import Store

MATCHING_TOLERANCE = 0.05
NOT_FINISHED = "not finished"
_ROUNDING = 1e-9
_COLUMNS = ("id", "prompt_hash", "prediction", "correct")


@dataclass(frozen=True)
class Answers:
    """One task's answers on one subject: sample id -> (prompt, prediction, correct or None)."""

    by_id: Mapping[str, tuple[str, str, bool | None]]


@dataclass(frozen=True)
class _Evaluated:
    scores: Scores
    answers: Answers


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
    dense = plan.cells[0]
    return [_record(cell, dense, plan, store, evaluated, failures) for cell in plan.cells]


def _read_evaluations(plan: Plan, store: Store) -> dict[str, _Evaluated]:
    wanted = {digest for cell in plan.cells for digest in cell.evaluate.values()}
    return {digest: _read_evaluation(store, digest) for digest in sorted(wanted & store.digests(EVALUATE))}


def _read_evaluation(store: Store, digest: str) -> _Evaluated:
    scores = Scores.model_validate_json(store.read_file(EVALUATE, digest, "scores.json"))
    table = pq.read_table(io.BytesIO(store.read_file(EVALUATE, digest, "samples.parquet")), columns=list(_COLUMNS))
    ids, prompts, predictions, correct = (table[column].to_pylist() for column in _COLUMNS)
    answers = zip(prompts, predictions, correct, strict=True)
    return _Evaluated(scores, Answers(dict(zip(ids, answers, strict=True))))


def _record(
    cell: Cell,
    dense: Cell,
    plan: Plan,
    store: Store,
    evaluated: Mapping[str, _Evaluated],
    failures: Mapping[str, str],
) -> CellRecord:
    mine = {task: evaluated[digest] for task, digest in cell.evaluate.items() if digest in evaluated}
    theirs = {task: evaluated[digest] for task, digest in dense.evaluate.items() if digest in evaluated}
    steps = {**({"compress": cell.compress} if cell.compress else {}), **cell.evaluate}
    finished = store.digests(COMPRESS) | set(evaluated)
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


def _comparisons(mine: Mapping[str, _Evaluated], theirs: Mapping[str, _Evaluated]) -> dict[str, Comparison]:
    return {task: compare(mine[task], theirs[task]) for task in mine if task in theirs}


def compare(subject: _Evaluated, dense: _Evaluated) -> Comparison:
    """One task of a subject against the dense model, on the samples that both answered.

    The relative change is of the headline, and only given where both scored the very same prompts: a change of
    samples is not a change of the model.
    """
    relative = relative_change(subject, dense) if _same_samples(subject.answers, dense.answers) else None
    return Comparison(
        relative=relative,
        matches=None if relative is None else is_match(relative, subject.scores.higher_is_better),
        retention=retention(subject.answers, dense.answers),
        flips=flips(subject.answers, dense.answers),
        kl=subject.scores.metrics.get("kl_to_dense"),
    )


def relative_change(subject: _Evaluated, dense: _Evaluated) -> float | None:
    """(subject − dense) ÷ dense of the headline; None where dense scored zero."""
    before, after = dense.scores.main.value, subject.scores.main.value
    return (after - before) / before if before else None


def is_match(relative: float, higher_is_better: bool) -> bool:
    """Whether a relative change is no worse than 5 % (LLM-KICK's criterion, arXiv 2310.01382), by its direction.

    >>> is_match(-0.05, higher_is_better=True), is_match(0.06, higher_is_better=False)
    (True, False)
    """
    loss = -relative if higher_is_better else relative
    return loss <= MATCHING_TOLERANCE + _ROUNDING


def retention(subject: Answers, dense: Answers) -> Estimate | None:
    """Of the answers dense had right, the share that the subject has right too; None without right answers."""
    right = [key for key, (_, _, correct) in dense.by_id.items() if correct and key in subject.by_id]
    return wilson(sum(bool(subject.by_id[key][2]) for key in right), len(right)) if right else None


def flips(subject: Answers, dense: Answers) -> Estimate | None:
    """The share of shared samples whose answer's text or correctness changed; None for tasks without right and wrong."""
    shared = [key for key, (_, _, correct) in dense.by_id.items() if correct is not None and key in subject.by_id]
    changed = sum(subject.by_id[key][1:] != dense.by_id[key][1:] for key in shared)
    return wilson(changed, len(shared)) if shared else None


def _same_samples(subject: Answers, dense: Answers) -> bool:
    prompts = ({key: prompt for key, (prompt, _, _) in answers.by_id.items()} for answers in (subject, dense))
    return next(prompts) == next(prompts)
