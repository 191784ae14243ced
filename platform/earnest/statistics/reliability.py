"""Does a model know what it knows: calibration errors and Brier scores of stated probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earnest.statistics.intervals import Floats

BINS = 10


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


def equal_width(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> Reliability:
    """Reliability over bins (lo, hi] of equal width; the first also holds 0."""
    values = _checked(confidences, correct)
    edges = np.linspace(0, 1, bins + 1)
    return _binned(values, np.asarray(correct, float), np.clip(np.searchsorted(edges, values) - 1, 0, bins - 1), bins)


def equal_mass(confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS) -> Reliability:
    """Reliability over bins of (nearly) equal count, in order of confidence."""
    values = _checked(confidences, correct)
    member = np.empty(len(values), dtype=np.int64)
    for place, part in enumerate(np.array_split(np.argsort(values, kind="stable"), bins)):
        member[part] = place
    return _binned(values, np.asarray(correct, float), member, bins)


def brier(probabilities: Sequence[Sequence[float]], labels: Sequence[int]) -> float:
    """The mean over items of the sum over classes of (probability − truth)², 0..2, from [items, classes]."""
    table = np.asarray(probabilities, dtype=np.float64)
    truth = np.eye(table.shape[1])[np.asarray(labels)]
    return float(((table - truth) ** 2).sum(-1).mean())


def brier_binary(confidences: Sequence[float], correct: Sequence[bool]) -> float:
    """The mean of (confidence − right or wrong)², 0..1."""
    values = _checked(confidences, correct)
    return float(((values - np.asarray(correct, float)) ** 2).mean())


def _checked(confidences: Sequence[float], correct: Sequence[bool]) -> Floats:
    values = np.asarray(confidences, dtype=np.float64)
    if len(values) != len(correct) or not len(values):
        raise ValueError(f"calibration: {len(values)} confidences for {len(correct)} answers; give one for each")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("calibration: confidences must lie in 0..1")
    return values


def _binned(values: Floats, correct: Floats, member: NDArray[np.int64], bins: int) -> Reliability:
    counts = np.bincount(member, minlength=bins)
    filled = np.maximum(counts, 1)
    accuracy, confidence = (np.bincount(member, weights=part, minlength=bins) / filled for part in (correct, values))
    return Reliability(counts, accuracy, confidence)
