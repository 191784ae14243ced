"""From finished steps to rows: every cell of a plan with its size, its scores, its comparison with dense, its gains.

Reads what the store holds and computes nothing that needs a model. What is missing is said, never filled in: a task
that failed stands in `failures` with the reason, one that did not run or is running in `waiting`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from earnest.plan import COMPRESS, EVALUATE, Cell, Plan, Step, method_fields
from earnest.records import CellRecord, Comparison, Estimate, Gain, Manifest, Scores, State, Steered
from earnest.samples import SAMPLES_FILE, SCORES_FILE, Places, Samples, match_up, read_samples, shared
from earnest.specs import UserError
from earnest.statistics import gaps, paired
from earnest.statistics.intervals import Floats
from earnest.statistics.noise import noise_floor_of_replicate, noise_floor_of_scores
from earnest.statistics.paired import Sums
from earnest.statistics.versus import Matchup, Versus, judge
from earnest.store import PREFIX, Store

SAME_METHOD = ("model", "method", "steering")


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation: its scores, and its samples."""

    scores: Scores
    samples: Samples

    def asked_the_same(self, other: Evaluated) -> bool:
        """Whether both were asked the very same prompts."""
        return self.samples.places.keys() == other.samples.places.keys()


def collect(plan: Plan, store: Store, failures: Mapping[str, str]) -> list[CellRecord]:
    """Every cell of a plan, in the plan's order, with all that its finished steps say.

    What may be claimed of the cells against dense is judged as one family.

    Args:
        plan: the sweep's steps and cells; its first cell is the dense model that all others are compared with.
        store: where the steps' outputs are.
        failures: digest of a step that failed or could not start -> the reason.

    Raises:
        CorruptOutputError: a stored score, sample file or manifest does not have the bytes that were published.
    """
    evaluated = _with_readings(plan, store, read_evaluations(plan, store))
    finished = store.intact(COMPRESS, (cell.compress for cell in plan.cells if cell.compress)) | set(evaluated)
    running = store.running(COMPRESS) | store.running(EVALUATE)
    rows = _judged(plan, evaluated)
    return [_record(cell, plan, store, evaluated, rows, finished, running, failures) for cell in plan.cells]


def read_evaluations(plan: Plan, store: Store) -> dict[str, Evaluated]:
    """Digest -> the finished evaluation, for all tasks of all cells."""
    wanted = {d for cell in plan.cells for d in (*cell.evaluate.values(), *cell.rebatched.values())}
    there = sorted(store.intact(EVALUATE, wanted))
    return {digest: read_evaluation(store, digest, plan.steps[digest].spec["task"]["task"]) for digest in there}


def _with_readings(plan: Plan, store: Store, evaluated: Mapping[str, Evaluated]) -> dict[str, Evaluated]:
    """The evaluations, each with what the dense model makes of its texts among its metrics, where that is finished."""
    readings = [step for step in plan.steps.values() if "reads" in step.spec]
    found, there = dict(evaluated), store.intact(EVALUATE, (step.digest for step in readings))
    for step in readings:
        read = str(step.spec["reads"])
        if read in found and step.digest in there:
            scores, again = found[read].scores, store.read_file(EVALUATE, step.digest, SCORES_FILE)
            metrics = {**scores.metrics, **Scores.model_validate_json(again).metrics}
            found[read] = replace(found[read], scores=scores.model_copy(update={"metrics": metrics}))
    return found


def read_evaluation(store: Store, digest: str, kind: str) -> Evaluated:
    """One finished evaluation of a task of this kind from the store."""
    scores, content = (store.read_file(EVALUATE, digest, name) for name in (SCORES_FILE, SAMPLES_FILE))
    known = Scores.model_validate_json(scores)
    return Evaluated(known, read_samples(content, digest, scores, known.task, kind=kind))


def _record(
    cell: Cell,
    plan: Plan,
    store: Store,
    evaluated: Mapping[str, Evaluated],
    rows: Mapping[tuple[str, str], Versus],
    finished: set[str],
    running: set[str],
    failures: Mapping[str, str],
) -> CellRecord:
    dense = plan.cells[0]
    mine = _finished(cell, evaluated)
    theirs = _finished(dense, evaluated)
    steps = {**({"compress": cell.compress} if cell.compress else {}), **cell.evaluate}
    compress = plan.steps[cell.compress] if cell.compress else None
    manifest = _manifest(store, cell.compress) if cell.compress in finished else None
    pattern = getattr(cell.method, "pattern", None)
    missing = {name: d for name, d in steps.items() if d not in finished}
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
        dtype=_dtype(cell, plan),
        steering=_steered(cell, plan),
        size=manifest.size if manifest else None,
        scores={task: found.scores for task, found in mine.items()},
        comparisons={
            task: compare(theirs[task], found, rows.get((cell.key, task)))
            for task, found in mine.items()
            if task in theirs and cell.key != dense.key
        },
        gains=_gains(cell, plan, evaluated) if cell.steering else {},
        failures={name: failures[d] for name, d in missing.items() if d in failures},
        waiting={name: _state(d, running) for name, d in missing.items() if d not in failures},
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


def _dtype(cell: Cell, plan: Plan) -> str:
    """What a cell's evaluations compute in, the base's dtype first."""
    specs = [plan.steps[digest].spec for digest in cell.evaluate.values()]
    every = (name for spec in specs for name in (spec["dtype"], *spec.get("dtypes", {}).values()))
    return ", ".join(dict.fromkeys(every))


def _state(digest: str, running: set[str]) -> State:
    return "running" if digest[:PREFIX] in running else "not run yet"


def _dataset(step: Step) -> str:
    """The data a step looked at, as name@digest; empty for a compression that looks at none."""
    where = "calibration" if step.kind == COMPRESS else "data"
    if where not in step.location:
        return ""
    fields: Mapping[str, Any] = step.spec["calibration"] if step.kind == COMPRESS else step.spec
    return f"{PurePosixPath(step.location[where]).name}@{fields['data_digest']}"


# --- against dense --------------------------------------------------------------------------------------------------


def _judged(plan: Plan, evaluated: Mapping[str, Evaluated]) -> dict[tuple[str, str], Versus]:
    """(cell, task) -> its row against dense; nothing where the two cannot be paired."""
    matchups = dict(_matchups(plan, evaluated))
    # A task that stopped when it was decided was judged then; its row is no part of the family.
    families = [
        {key: matchup for key, (matchup, stopped) in matchups.items() if stopped is apart} for apart in (False, True)
    ]
    return {key: row for family in families for key, row in zip(family, judge(family.values()), strict=True)}


def _matchups(plan: Plan, evaluated: Mapping[str, Evaluated]) -> Iterator[tuple[tuple[str, str], tuple[Matchup, bool]]]:
    """(cell, task), what is to be judged of it, and whether that was decided already."""
    dense, scores = plan.cells[0], {digest: found.scores for digest, found in evaluated.items()}
    theirs = {task: found.samples for task, found in _finished(dense, evaluated).items()}
    again = {task: evaluated[digest].samples for task, digest in dense.rebatched.items() if digest in evaluated}
    jitter = jitter_floors(theirs, again)
    for cell in plan.cells[1:]:
        floors = larger(noise_floors(plan, cell, scores), jitter)
        for task, mine in _finished(cell, evaluated).items():
            if task not in theirs:
                continue
            try:
                matchup = match_up(mine.samples, theirs[task], cell.label, floors.get(task))
            except UserError:  # `earnest compare` says why they cannot be paired; a report stands without
                continue
            yield (cell.key, task), (matchup, mine.scores.stopped is not None)


def noise_floors(plan: Plan, cell: Cell, scores: Mapping[str, Scores]) -> dict[str, float]:
    """Task -> how far two seeds of a cell lie apart by chance; nothing where fewer than two are finished."""
    same = [other for other in plan.cells if all(getattr(other, name) == getattr(cell, name) for name in SAME_METHOD)]
    floors = {}
    for task in cell.evaluate:
        digests = {other.evaluate[task] for other in same} & scores.keys()
        if len(digests) > 1:
            floors[task] = noise_floor_of_scores([scores[digest].main.value for digest in sorted(digests)])
    return floors


def jitter_floors(once: Mapping[str, Samples], again: Mapping[str, Samples]) -> dict[str, float]:
    """Task -> how far one model's score moves when its batches have another size."""
    floors = {}
    for task in once.keys() & again.keys():
        with suppress(UserError):  # as in `_matchups`
            floors[task] = noise_floor_of_replicate(match_up(again[task], once[task]).samples)
    return floors


def larger(*floors: Mapping[str, float]) -> dict[str, float]:
    """Task -> the largest of its floors."""
    return {task: max(mine[task] for mine in floors if task in mine) for task in {name for f in floors for name in f}}


def compare(dense: Evaluated, subject: Evaluated, row: Versus | None) -> Comparison:
    """One task of a subject against the dense model, on the samples that both answered.

    Change and verdict are of the headline, and only given where both were asked the very same prompts: a change of
    samples is not a change of the model. A task that stopped once it was decided has its own verdict, and its change
    is that on the samples it was asked.
    """
    stopped = subject.scores.stopped
    same, partial = dense.asked_the_same(subject), stopped is not None and not subject.scores.whole
    relative = relative_change(dense, subject) if same else row.relative if partial and row else None
    judged = row if row is not None and (same or partial) else None
    retention, flips = _agreement(dense.samples, subject.samples)
    return Comparison(
        relative=relative,
        within_margin=None if relative is None else paired.matches(relative, subject.scores.higher_is_better),
        verdict=stopped.verdict if stopped else judged.verdict if judged else None,
        samples=judged.samples if judged else 0,
        units=judged.units if judged else 0,
        effective=judged.effective if judged else None,
        needed=judged.needed if judged and not stopped else None,
        difference=judged.difference if judged else None,
        p=judged.p_holm if judged and not partial else None,
        noise=judged.noise if judged else None,
        stopped=partial,
        retention=retention,
        flips=flips,
        kl=subject.scores.metrics.get("kl_to_dense"),
    )


def relative_change(dense: Evaluated, subject: Evaluated) -> float | None:
    """(subject − dense) ÷ dense of the headline; None where dense scored zero.

    Rounded to twelve digits, so that a score of exactly 95 % of dense still matches.
    """
    before, after = dense.scores.main.value, subject.scores.main.value
    return round((after - before) / before, 12) if before else None


def _agreement(dense: Samples, subject: Samples) -> tuple[Estimate | None, Estimate | None]:
    """Retention and flips on what both were asked and dense got right or wrong; None without right and wrong."""
    if dense.correct is None or subject.correct is None:
        return None, None
    now, before = shared(subject, dense)
    known = ~np.isnan(dense.correct[before])
    now, before = now[known], before[known]
    if not len(now):
        return None, None
    right, still = _right(dense.correct[before]), _right(subject.correct[now])
    texts = ([samples.predictions[i] for i in places] for samples, places in ((dense, before), (subject, now)))
    kept = paired.retention([bool(one) for one in right], [bool(one) for one in still])
    return kept, paired.flips(right, still, *texts)


def _right(correct: Floats) -> list[bool | None]:
    return [None if math.isnan(one) else bool(one) for one in correct.tolist()]


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
    others = [other for other in (steered, target, dense) if other is not None]
    if not all(base.asked_the_same(other) for other in others):
        return None
    places = {id(one): shared(base.samples, one.samples)[1] for one in (base, *others)}
    known = ~np.isnan([one.samples.above[places[id(one)]] for one in (base, *others)]).any(axis=0)

    def headline(one: Evaluated | None) -> gaps.Headline | None:
        return None if one is None else headline_of(one, places[id(one)][known])

    start, reached = headline_of(base, places[id(base)][known]), headline_of(steered, places[id(steered)][known])
    higher, lost = base.scores.higher_is_better, None if dense is base else dense
    return Gain(
        difference=gaps.difference(start, reached),
        gap_closed=_share(start, reached, headline(target), higher=higher),
        won_back=_share(start, reached, headline(lost), higher=higher),
    )


def _share(
    start: gaps.Headline, reached: gaps.Headline, goal: gaps.Headline | None, *, higher: bool
) -> Estimate | None:
    """How much of the way to a better score was gone; None where `goal` is not shown to be better."""
    if goal is None:
        return None
    better = goal.value > start.value if higher else goal.value < start.value
    return gaps.share_closed(start, reached, goal) if better else None


def headline_of(evaluated: Evaluated, places: Places) -> gaps.Headline:
    """The headline metric as sums over some samples."""
    samples = evaluated.samples
    return gaps.Headline(Sums(samples.above[places], samples.below[places]), samples.exponential)
