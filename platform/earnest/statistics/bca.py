"""Paired differences of two subjects' scores, with intervals that hold at few samples, in few clusters, without change.

Single scores within 0..1 turn the test of the verdicts round (`limits.bounded_limits`); clusters of shares and scores
without bounds have `limits.share_limits` and `limits.unit_limits` of the linearised difference, the latter never
narrower than the bias-corrected and accelerated bootstrap (BCa: Efron 1987, "Better bootstrap confidence intervals").
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import NormalDist

import numpy as np

from earnest.records import Estimate
from earnest.statistics.intervals import RESAMPLES, SEED, Floats, draw_counts, linearised, ratio_limits
from earnest.statistics.limits import CONFIDENCE, Limits, bounded_limits, share_limits, unit_limits
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs

_NORMAL = NormalDist()


def bca_difference(pairs: Pairs, seed: int = SEED, count: int = RESAMPLES) -> Estimate:
    """Score of the subject − score of dense with its interval of 95 %; `n` counts units.

    There is none of one unit, of fewer than three without bounds, and where units without bounds are all exactly 0.
    """
    return bca_differences([pairs], seed, count)[0]


def bca_differences(family: Sequence[Pairs], seed: int = SEED, count: int = RESAMPLES) -> list[Estimate]:
    """The same for many pairs; those of one size are drawn together, in a product of matrices."""
    found, sizes = dict[int, Estimate](), dict[int, list[int]]()
    for i, pairs in enumerate(family):
        if pairs.n < 2:
            found[i] = Estimate(value=float(pairs.difference()), n=1)
        elif pairs.bounded or pairs.shares:
            found[i] = _of_shares(pairs)
        else:
            sizes.setdefault(pairs.n, []).append(i)
    for n, same in sizes.items():
        replicates = _replicates([family[i] for i in same], n, seed, count)
        found |= {i: _estimate(family[i], column) for i, column in zip(same, replicates, strict=True)}
    return [found[i] for i in range(len(family))]


def _of_shares(pairs: Pairs) -> Estimate:
    """Of scores within 0..1, or of clusters of them; the standard error is that of a mean of linearised units."""
    gaps = pairs.contrast(1.0)
    low, high = bounded_limits(gaps, -1.0, 1.0) if pairs.bounded else share_limits(gaps, pairs.weights, -1.0, 1.0)
    error = float(gaps.std(ddof=1)) / math.sqrt(pairs.n)
    return Estimate(value=float(pairs.difference()), stderr=error, low=low, high=high, n=pairs.n)


def _replicates(family: Sequence[Pairs], n: int, seed: int, count: int) -> Iterator[Floats]:
    """The difference in each bootstrap sample, of each pair."""
    columns = np.concatenate([pairs.sums for pairs in family], axis=1)  # [n, 4 × pairs]
    drawn = np.concatenate([counts @ columns for counts in draw_counts(n, seed, count)])
    for place, pairs in enumerate(family):
        yield pairs.difference_of_sums(drawn[:, 4 * place : 4 * place + 4])


def _estimate(pairs: Pairs, replicates: Floats) -> Estimate:
    value, limits = float(pairs.difference()), unit_limits(units_of(pairs), pairs.effective)
    if limits is not None:
        bootstrap = bca_interval(value, replicates, pairs.differences_without())
        limits = min(limits[0], bootstrap[0]), max(limits[1], bootstrap[1])
        limits = _on_its_side(pairs, limits) if pairs.scale == "log" else limits
    low, high = (None, None) if limits is None else limits
    return Estimate(value=value, stderr=float(replicates.std()), low=low, high=high, n=pairs.n)


def units_of(pairs: Pairs) -> Floats:
    """Values whose mean is the difference in the score's own units [n], linearised there."""
    if pairs.scale == "linear":
        return pairs.contrast(1.0)
    dense, subject = (score * _log_units(sums) for score, sums in zip(pairs.scores(), pairs.both, strict=True))
    gaps = subject - dense
    return np.asarray(gaps - gaps.mean() + pairs.difference())


def _log_units(sums: Sums) -> Floats:
    return linearised(sums.numerators, sums.denominators)


def _on_its_side(pairs: Pairs, limits: Limits) -> Limits:
    """Where the ratio of two exponentials is above 1 for certain, so is their difference above 0; and below it.

    The ratio has tighter limits, for what is common to both subjects falls out: the difference is at least the lower
    limit of dense times what the ratio's limit leaves of 1.
    """
    low, high = limits
    ratio = unit_limits(pairs.contrast(1.0), pairs.effective)
    dense = ratio_limits(pairs.dense.numerators, pairs.dense.denominators, share=False)[0]
    if ratio is not None and dense is not None:
        if ratio[0] > 0:
            low = max(low, math.exp(dense) * math.expm1(ratio[0]))
        if ratio[1] < 0:
            high = min(high, math.exp(dense) * math.expm1(ratio[1]))
    return low, high


def bca_interval(
    value: float, replicates: Floats, jackknife: Floats, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """The BCa interval of a statistic: percentiles shifted by the replicates' bias and by the jackknife's acceleration.

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
