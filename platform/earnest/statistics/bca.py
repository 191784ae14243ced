"""The bias-corrected and accelerated bootstrap (BCa) of a paired difference.

Efron 1987, "Better bootstrap confidence intervals": the percentiles are shifted by the bias of the replicates (z0)
and by how fast the standard error changes with the value (a, from the jackknife).
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np

from earnest.records import Estimate
from earnest.statistics.intervals import CONFIDENCE, RESAMPLES, SEED, Floats, resamples
from earnest.statistics.pairs import Pairs

_NORMAL = NormalDist()


def bca_difference(pairs: Pairs, seed: int = SEED, count: int = RESAMPLES) -> Estimate:
    """Score of the subject − score of dense with a paired BCa interval of 95 %; `n` counts units.

    One unit has no interval; where all replicates are the same, the interval is the value itself.
    """
    value = float(pairs.difference())
    if pairs.n < 2:
        return Estimate(value=value, n=pairs.n)
    replicates = np.concatenate([pairs.difference(draw) for draw in resamples(pairs.n, seed, count)])
    low, high = bca_interval(value, replicates, pairs.differences_without())
    return Estimate(value=value, stderr=float(replicates.std()), low=low, high=high, n=pairs.n)


def bca_interval(
    value: float, replicates: Floats, jackknife: Floats, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The BCa interval of a statistic.

    Args:
        value: the statistic on the samples.
        replicates: the statistic on bootstrap samples.
        jackknife: the statistic with each sample left out in turn.
        confidence: two-sided.
    """
    # Replicates equal to the value count half: scores of few samples take few values.
    below = float((replicates < value).mean() + (replicates == value).mean() / 2)
    if not 0 < below < 1 or replicates.min() == replicates.max():
        return float(replicates.min()), float(replicates.max())
    bias, acceleration = _NORMAL.inv_cdf(below), _acceleration(jackknife)

    def level(nominal: float) -> float:
        shifted = bias + _NORMAL.inv_cdf(nominal)
        return _NORMAL.cdf(bias + shifted / (1 - acceleration * shifted))

    low, high = np.quantile(replicates, [level((1 - confidence) / 2), level((1 + confidence) / 2)])
    return float(low), float(high)


def _acceleration(jackknife: Floats) -> float:
    gaps = jackknife.mean() - jackknife
    spread = float((gaps**2).sum())
    return float((gaps**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
