"""The bias-corrected and accelerated bootstrap (BCa) of a paired difference.

Efron 1987, "Better bootstrap confidence intervals": the percentiles are shifted by the bias of the replicates (z0)
and by how fast the standard error changes with the value (a, from the jackknife).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

from earnest.records import Estimate
from earnest.statistics.intervals import CONFIDENCE, RESAMPLES, SEED, Floats, draw_counts
from earnest.statistics.pairs import Pairs

_NORMAL = NormalDist()


def bca_difference(pairs: Pairs, seed: int = SEED, count: int = RESAMPLES) -> Estimate:
    """Score of the subject − score of dense with a paired BCa interval of 95 %; `n` counts units.

    One unit has no interval; where all replicates are the same, the interval is the value itself.
    """
    return bca_differences([pairs], seed, count)[0]


def bca_differences(family: Sequence[Pairs], seed: int = SEED, count: int = RESAMPLES) -> list[Estimate]:
    """The same for many pairs; those of one size are drawn together, in a product of matrices."""
    found = {i: Estimate(value=float(pairs.difference()), n=1) for i, pairs in enumerate(family) if pairs.n < 2}
    sizes: dict[int, list[int]] = {}
    for i, pairs in enumerate(family):
        if i not in found:
            sizes.setdefault(pairs.n, []).append(i)
    for n, same in sizes.items():
        replicates = _replicates([family[i] for i in same], n, seed, count)
        found |= {i: _estimate(family[i], column) for i, column in zip(same, replicates, strict=True)}
    return [found[i] for i in range(len(family))]


def _replicates(family: Sequence[Pairs], n: int, seed: int, count: int) -> Iterator[Floats]:
    """The difference in each bootstrap sample, of each pair."""
    columns = np.concatenate([pairs.sums for pairs in family], axis=1)  # [n, 4 × pairs]
    drawn = np.concatenate([counts @ columns for counts in draw_counts(n, seed, count)])
    for place, pairs in enumerate(family):
        yield pairs.difference_of_sums(drawn[:, 4 * place : 4 * place + 4])


def _estimate(pairs: Pairs, replicates: Floats) -> Estimate:
    value = float(pairs.difference())
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
