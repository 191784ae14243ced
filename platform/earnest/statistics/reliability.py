"""Does a model know what it knows: calibration errors and Brier scores of stated probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from earnest.records import Estimate
from earnest.statistics.intervals import RESAMPLES, SEED, Floats, draw_counts
from earnest.statistics.limits import CONFIDENCE

BINS = 10
EXACT = 1000  # answers up to which each is drawn


@dataclass(frozen=True)
class Reliability:
    """Calibration by bins of confidence: per bin count, accuracy and mean confidence (0 where empty)."""

    counts: NDArray[np.int64]
    accuracy: Floats
    confidence: Floats

    @property
    def gaps(self) -> Floats:
        """|accuracy − confidence| per bin."""
        return np.asarray(np.abs(self.accuracy - self.confidence))

    @property
    def expected_error(self) -> float:
        """ECE: the mean gap, weighted by count (Guo et al. 2017)."""
        return float((self.gaps * self.counts).sum() / self.counts.sum())

    @property
    def maximum_error(self) -> float:
        """MCE: the largest gap of a bin that holds anything."""
        return float(self.gaps[self.counts > 0].max())


def equal_width(confidences: Sequence[float] | Floats, correct: Sequence[bool], bins: int = BINS) -> Reliability:
    """Reliability over bins (lo, hi] of equal width; the first also holds 0."""
    values = _checked(confidences, correct)
    return _binned(values, np.asarray(correct, float), _bin_of(values, bins), bins)


def equal_mass(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> Reliability:
    """Reliability over bins of (nearly) equal count, in order of confidence."""
    values = _checked(confidences, correct)
    member = np.empty(len(values), dtype=np.int64)
    for place, part in enumerate(np.array_split(np.argsort(values, kind="stable"), bins)):
        member[part] = place
    return _binned(values, np.asarray(correct, float), member, bins)


def error_estimate(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> Estimate:
    """The ECE over bins of equal width, with the bootstrap's standard error and a 95 % interval within 0..1.

    Chance alone makes a gap in every bin, so that few answers show an ECE far above the true one: it may lie lower by
    what a perfectly calibrated model would show (`calibrated_error`), or by the normal half-width where that is more.
    """
    values = _checked(confidences, correct)
    value, n = equal_width(values, correct, bins).expected_error, len(values)
    if n < 2:
        return Estimate(value=value, n=n)
    excess = np.zeros((n, bins))  # a bin's count times its gap is the sum of (right − confidence) in it
    excess[np.arange(n), _bin_of(values, bins)] = np.asarray(correct, float) - values
    stderr = float(np.concatenate([np.abs(counts @ excess).sum(-1) / n for counts in draw_counts(n)]).std())
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * stderr
    chance = float(np.quantile(_calibrated_errors(values, bins), 0.5 + CONFIDENCE / 2))
    low, high = max(0.0, value - max(half, chance)), min(1.0, value + max(half, 1 / (2 * n)))
    return Estimate(value=value, stderr=stderr, low=low, high=high, n=n)


def calibrated_error(confidences: Sequence[float], bins: int = BINS) -> Estimate:
    """The ECE that a perfectly calibrated model with these confidences would show: its mean, and where 95 % of it lie.

    Every answer is right with the probability that was stated, in RESAMPLES seeded draws.
    """
    values = _checked(confidences, [True] * len(confidences))
    drawn = _calibrated_errors(values, bins)
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=float(drawn.mean()), stderr=None, low=float(low), high=float(high), n=len(values))


def _calibrated_errors(values: Floats, bins: int) -> Floats:
    """The ECE in each of RESAMPLES draws of right and wrong [RESAMPLES]; above EXACT answers their sums are normal."""
    return _drawn_errors(np.sort(values).tobytes(), bins)  # the order of asking changes no draw


@lru_cache(maxsize=2)
def _drawn_errors(confidences: bytes, bins: int) -> Floats:
    """The same of the bytes of sorted values: an ECE and what it would be if calibrated ask one after the other."""
    values = np.frombuffer(confidences)
    generator, member, n = np.random.default_rng(SEED), _bin_of(values, bins), len(values)
    if n > EXACT:
        deviations = np.sqrt(np.bincount(member, weights=values * (1 - values), minlength=bins))
        return np.asarray(np.abs(generator.normal(size=(RESAMPLES, bins)) * deviations).sum(-1) / n)
    of_bin = np.zeros((n, bins))
    of_bin[np.arange(n), member] = 1
    return np.asarray(np.abs(((generator.random((RESAMPLES, n)) < values) - values) @ of_bin).sum(-1) / n)


def brier(probabilities: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """The mean over items of the sum over classes of (probability − truth)², 0..2, from [items, classes]."""
    table = np.asarray(probabilities, dtype=np.float64)
    truth = np.eye(table.shape[1])[np.asarray(labels)]
    return float(((table - truth) ** 2).sum(-1).mean())


def brier_binary(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """The mean of (confidence − right or wrong)², 0..1."""
    values = _checked(confidences, correct)
    return float(((values - np.asarray(correct, float)) ** 2).mean())


def _checked(confidences: Sequence[float] | Floats, correct: Sequence[bool]) -> Floats:
    values = np.asarray(confidences, dtype=np.float64)
    if len(values) != len(correct) or not len(values):
        raise ValueError(f"calibration: {len(values)} confidences for {len(correct)} answers; give one for each")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("calibration: confidences must lie in 0..1")
    return values


def _bin_of(values: Floats, bins: int) -> NDArray[np.int64]:
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), values) - 1, 0, bins - 1)


def _binned(values: Floats, correct: Floats, member: NDArray[np.int64], bins: int) -> Reliability:
    counts = np.bincount(member, minlength=bins)
    filled = np.maximum(counts, 1)
    accuracy, confidence = (np.bincount(member, weights=part, minlength=bins) / filled for part in (correct, values))
    return Reliability(counts, accuracy, confidence)
