"""Stop a task once it is decided: questions come in a random order and growing batches, until the subject is shown to
match dense or to fall (or rise) against it.

The tests are always valid (`statistics.sequential`), so that one may look after every answer. What has been asked is
remembered: a task is measured again on more of its questions, and only the new ones cost anything.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

import pyarrow.parquet as pq

from earnest.decoding.generation import Generation, Prompt
from earnest.evaluation.engine import Engine, LogLikelihood, Progress
from earnest.evaluation.samples import Measured, Sample
from earnest.evaluation.scoring import Subject
from earnest.evaluation.tasks import measure
from earnest.evaluation.tokens import Request
from earnest.records import Stopped
from earnest.specs import AnyTask
from earnest.statistics.sequential import decide

FIRST, GROWTH = 32, 1.5  # asked first, and how many times as many are asked the next time

Question = TypeVar("Question")


@dataclass(frozen=True)
class Rule:
    """When to stop: `error` is the probability of a wrong verdict, ever; `margin` is matching's, relative; `dense` the
    dense model's score of every sample by its id, None where it has none.
    """

    error: float
    margin: float
    dense: Mapping[str, float | None]

    @classmethod
    def of_samples(cls, error: float, margin: float, file: Path) -> Self:
        """The rule against a dense model's stored samples."""
        found = pq.read_table(file, columns=["id", "score"])
        return cls(error, margin, dict(zip(found["id"].to_pylist(), found["score"].to_pylist(), strict=True)))


class Growing(Engine):
    """An engine that is asked the first `count` of a task's questions in an order drawn by `seed`, and remembers."""

    def __init__(self, subject: Subject, seed: int, budget: int | None = None) -> None:
        super().__init__(subject, budget)
        self.count, self._seed = FIRST, seed
        self._written: dict[Prompt, Generation] = {}
        self._likelihoods: dict[Request, LogLikelihood] = {}

    def posed(self, items: Sequence[Question]) -> list[Question]:
        """The first `count` items in the drawn order, which knows nothing of the answers."""
        order = random.Random(self._seed).sample(range(len(items)), len(items))
        return super().posed([items[place] for place in order[: self.count]])

    def generate(self, prompts: Sequence[Prompt], progress: Progress | None = None) -> list[Generation]:
        """Greedy continuations of `prompts`, in order; those of before are remembered.

        A task asks for all of its texts at once, so `written` is these: one for every question, asked before or not.
        """
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._written]
        self._written |= zip(new, super().generate(new, progress), strict=True)
        made = [self._written[prompt] for prompt in prompts]
        self.written = list(zip(prompts, made, strict=True))
        return made

    def log_likelihoods(self, requests: Sequence[Request], progress: Progress | None = None) -> list[LogLikelihood]:
        """The log-likelihood of each request's continuation; those of before are remembered."""
        new = [request for request in dict.fromkeys(requests) if request not in self._likelihoods]
        self._likelihoods |= zip(new, super().log_likelihoods(new, progress), strict=True)
        return [self._likelihoods[request] for request in requests]


def measure_until_decided(
    engine: Growing, task: AnyTask, data: str, rule: Rule, progress: Progress | None = None
) -> tuple[Measured, Stopped]:
    """Measure a task on more and more of its questions until it is decided, or all are asked.

    Args:
        engine: its `count` grows.
        task: one whose headline is a mean of scores within 0..1 (`Task.bounded`).
        data: where its questions lie.
        rule: with dense's scores of all of the task's questions.
        progress: told how much is done of what is asked next, and how much that is.

    Returns:
        What the questions that were asked measure, and the verdict; it is "not decided" or "no worse" only after all.
    """
    while True:
        measured = measure(engine, task, data, None, progress)
        stopped = _verdict(measured.samples, task, rule)
        if stopped.verdict in ("matches", "falls", "rises") or engine.count >= len(rule.dense):
            return measured, stopped
        engine.count = math.ceil(engine.count * GROWTH)


def _verdict(samples: Sequence[Sample], task: AnyTask, rule: Rule) -> Stopped:
    """What the samples that both have a score for decide, in the order in which they were asked."""
    scores = [(rule.dense[sample.id], sample.score) for sample in samples]
    known = [(dense, mine) for dense, mine in scores if dense is not None and mine is not None]
    if not known:
        return Stopped(verdict="not decided", after=0, error=rule.error, margin=rule.margin)
    dense, mine = zip(*known, strict=True)
    found = decide(dense, mine, margin=rule.margin, error=rule.error, higher_is_better=task.higher_is_better)
    return Stopped(verdict=found.verdict, after=found.samples, error=rule.error, margin=rule.margin)
