"""Evaluate a model, a checkpoint or an ensemble on a task: the one door to this room.

Two runs on one machine give the same samples and scores, bit for bit: nothing in them tells the time.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pyarrow as pa
from torch import Tensor

from earnest.evaluation.degeneration import calibration, text_metrics, with_texts
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.rereading import written_rows, written_texts
from earnest.evaluation.samples import Measured, Sample, scored, table
from earnest.evaluation.scoring import Subject, computed_in
from earnest.evaluation.sequential import Growing, Rule, measure_until_decided
from earnest.evaluation.shift import token_shift, with_shifts
from earnest.evaluation.tasks import measure
from earnest.records import Estimate, Scores
from earnest.specs import AnyTask


@dataclass(frozen=True)
class Evaluation:
    """What a task measured: its scores, every sample, the dense reference where the task makes one, and as tokens the
    texts that were written. Nothing here holds the subject. The tables are made when they are asked for, because
    pyarrow imports pandas to make one.
    """

    scores: Scores
    make_samples: Callable[[], pa.Table]
    reference: dict[str, Tensor] | None
    make_texts: Callable[[], pa.Table | None] = lambda: None

    @cached_property
    def samples(self) -> pa.Table:
        """Every sample, a row each."""
        return self.make_samples()

    @cached_property
    def texts(self) -> pa.Table | None:
        """The written texts as tokens; None where none were written."""
        return self.make_texts()


def evaluate(
    subject: Subject,
    task: AnyTask,
    data_path: str,
    reference: Path | None = None,
    progress: Progress | None = None,
    rule: Rule | None = None,
    budget: int | None = None,
) -> Evaluation:
    """Run one task on one subject: generation and log-likelihoods alike are those of the whole ensemble.

    Args:
        subject: a model, or an ensemble; one whose pairs all have alpha 0 is its base.
        task: what to ask; its `data` was resolved to `data_path` (`nano` for the almanac).
        data_path: where the questions lie.
        reference: a dense run's log-probabilities, for KL.
        progress: told how much is done, and of how much.
        rule: stop as soon as this decides; by default all samples are asked.
        budget: tokens of a batch, by default what suits the device; it changes nothing beyond rounding.

    Raises:
        UserError: the data does not fit the task, or no sample could be scored.
    """
    engine, stopped = Engine(subject, budget), None
    if rule is None:
        measured = measure(engine, task, data_path, reference, progress)
    else:
        engine = growing = Growing(subject, task.seed)
        measured, stopped = measure_until_decided(growing, task, data_path, rule, progress)
    known, samples, forwarded = scored(measured.samples), measured.samples, engine.tokens_forwarded
    texts, shift = [made for _, made in engine.written], None
    one_each = len(texts) == len(samples)  # a conversation or a program has several texts
    same = not any(prompt.forms for prompt, _ in engine.written)  # what is read in several forms has no one shift
    if engine.readers.steered and texts and same:
        shift, per_text = token_shift(engine)
        samples = with_shifts(samples, per_text) if one_each else samples
    samples = with_texts(samples, texts) if one_each else samples
    found = {**text_metrics(texts), **calibration(samples)}
    scores = Scores(
        task=task.label,
        version=task.version,
        dtype=computed_in(subject),
        headline=measured.headline_name or task.headline,
        higher_is_better=task.higher_is_better if measured.higher_is_better is None else measured.higher_is_better,
        asked=len(measured.samples) if rule is None else len(rule.dense),
        scored=len(known),
        truncated=sum(sample.truncated for sample in measured.samples),
        failed=len(measured.samples) - len(known),
        metrics={**measured.metrics, **{name: found[name] for name in found if name not in measured.metrics}},
        groups=_groups(measured, known),
        tokens_forwarded=forwarded,
        token_shift=shift,
        stopped=stopped,
        reading=engine.readers.way,
        breakdowns=dict(measured.breakdowns),
        notes=dict(sorted(engine.notes.items())),
    )
    return Evaluation(scores, partial(table, samples), measured.reference, partial(written_texts, written_rows(engine)))


def _groups(measured: Measured, known: Sequence[Sample]) -> dict[str, dict[str, Estimate]]:
    """The headline metric by domain and by stratum, where samples have them."""
    found = {
        "domain": _by([sample.domain for sample in known], known),
        "stratum": _by([sample.stratum for sample in known], known),
    }
    return {
        grouping: {name: measured.headline(samples) for name, samples in groups.items()}
        for grouping, groups in found.items()
        if groups
    }


def _by(names: Sequence[str], samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    groups: dict[str, list[Sample]] = defaultdict(list)
    for name, sample in zip(names, samples, strict=True):
        if name:
            groups[name].append(sample)
    return dict(sorted(groups.items()))
