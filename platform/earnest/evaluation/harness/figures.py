"""lm-eval's metrics as estimates with intervals, and as one score per sample.

A metric that is a mean over samples is estimated from the samples' values. One that holds for the whole corpus alone
(perplexity, F1, Matthews' correlation, BLEU) is linearised: a sample's score is the corpus's value plus the sample's
influence by the jackknife (Efron 1982), so that scores average to the value exactly and their spread is its error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from earnest.evaluation.samples import COUNTS, SCHEMA
from earnest.records import Estimate
from earnest.statistics.intervals import bootstrap_mean, mean_estimate, wilson

TAKEN = frozenset({*SCHEMA.names, *COUNTS, "text"})
BLOCKS = 200  # of samples that are left out together, where there are more


@dataclass(frozen=True)
class Figure:
    """A metric over some samples: its estimate, and each sample's score; `is_mean` where that is the sample's own."""

    estimate: Estimate
    scores: tuple[float, ...]
    is_mean: bool


def metric_name(metric: str, filtered: str) -> str:
    """A metric and the filter of what it looks at as one name: "acc", "exact_match_strict_match", "pass_at_1".

    One that is called as a column of all samples is, such as "score", gets lm-eval's name before its own.
    """
    whole = metric if filtered == "none" else f"{metric}_{filtered}"
    name = re.sub(r"[^A-Za-z0-9.]+", "_", whole.replace("@", "_at_")).strip("_")
    return f"lm_eval_{name}" if name in TAKEN else name


def figure(values: Sequence[Any], aggregate: Callable[[list[Any]], Any]) -> Figure:
    """A metric of samples whose values lm-eval would aggregate."""
    value = float(aggregate(list(values)))
    if all(isinstance(one, Real | np.bool_) for one in values):
        numbers = tuple(map(float, values))
        if math.isclose(math.fsum(numbers) / len(numbers), value, rel_tol=1e-12, abs_tol=1e-12):
            return Figure(mean_of(numbers), numbers, is_mean=True)
    scores = influences(value, values, aggregate)
    estimate = mean_estimate(scores)
    return Figure(estimate.model_copy(update={"value": value}), scores, is_mean=False)


def mean_of(numbers: Sequence[float]) -> Estimate:
    """The mean of samples' values; a share where each is 0 or 1."""
    if set(numbers) <= {0.0, 1.0}:
        return wilson(int(sum(numbers)), len(numbers))
    return bootstrap_mean(numbers)


def influences(value: float, values: Sequence[Any], aggregate: Callable[[list[Any]], Any]) -> tuple[float, ...]:
    """One score per sample of an aggregate: they average to it, and their standard error is the jackknife's.

    Above BLOCKS samples neighbours are left out together and share a score.
    """
    n = len(values)
    blocks = np.arange(n) * min(n, BLOCKS) // n  # [n]
    count = int(blocks[-1]) + 1
    if count < 2:
        return (value,) * n
    without = np.array(
        [float(aggregate([v for v, b in zip(values, blocks, strict=True) if b != k])) for k in range(count)]
    )
    away = (without.mean() - without)[blocks]  # [n]
    # With one sample per block this is (n - 1) times what leaving it out changes.
    scores = value + math.sqrt((count - 1) * (n - 1)) * (away - away.mean())
    return tuple(scores.tolist())
