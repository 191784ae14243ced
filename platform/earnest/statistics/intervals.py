"""Estimates with a standard error and a 95 % interval: shares, means, ratios of sums, and the bootstrap.

Intervals are those of `limits`; standard errors of means of scores and of ratios are the bootstrap's. Everything is
vectorised and seeded: the same numbers give the same interval.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from earnest.records import Estimate
from earnest.statistics.limits import (
    CONFIDENCE,
    FEW,
    bounded_limits,
    effective_units,
    exact_limits,
    share_limits,
    unit_limits,
)

RESAMPLES = 2000
SEED = 20231002
_CHUNK = 2**22
KEPT = 2**22  # draws of so many samples are made once and kept

Floats = NDArray[np.float64]


def wilson_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of a share, without continuity correction (Wilson 1927), within [0, 1].

    Raises:
        ValueError: `n` is below 1, or `successes` is not in 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"wilson: {successes} of {n}: successes must lie in 0..n and n must be at least 1")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = successes / n, z * z / n
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At the ends the bound is exactly 0 or 1; rounding would leave a crumb.
    return 0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == n else min(1.0, centre + half)


def wilson(successes: int, n: int) -> Estimate:
    """A share with its 95 % interval; the standard error is the sample's (ddof 1), None for one sample.

    The interval is Wilson's, but the exact one (Clopper & Pearson 1934) where at most FEW succeed or fail: there
    Wilson's covers as little as 84 %. This one covers at least 93 % for every share and n.
    """
    low, high = wilson_interval(successes, n)
    if min(successes, n - successes) <= FEW:
        low, high = exact_limits(successes, n)
    share = successes / n
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else None
    return Estimate(value=share, stderr=stderr, low=low, high=high, n=n)


def mean_estimate(values: Sequence[float] | Floats) -> Estimate:
    """A mean of values without bounds, such as counts, with its standard error (ddof 1) and `limits.unit_limits`.

    Fewer than three values, and values that are all 0, have no interval.

    Raises:
        ValueError: there are no values.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("mean: no values; give at least one")
    mean = float(array.mean())
    if len(array) == 1:
        return Estimate(value=mean, n=1)
    stderr = float(array.std(ddof=1) / math.sqrt(len(array)))
    low, high = _ends(unit_limits(array, len(array), least=0.0 if array.min() >= 0 else -math.inf))
    return Estimate(value=mean, stderr=stderr, low=low, high=high, n=len(array))


def bootstrap_mean(values: Sequence[float] | Floats, seed: int = SEED, *, bounded: bool = True) -> Estimate:
    """A mean of scores with the bootstrap's standard error.

    Scores within 0..1 have the interval of a share where all are 0 or 1, and else that of `limits.bounded_limits`;
    others, and those that are not `bounded` though they lie there, that of `limits.unit_limits`.
    """
    array = np.asarray(values, dtype=np.float64)
    ones = np.ones_like(array)
    found = estimate(ratio(array.sum(), len(array)), ratio_replicates(array, ones, seed), len(array))
    return found if len(array) < 2 else with_limits(found, _mean_limits(array, bounded))


def _mean_limits(values: Floats, bounded: bool) -> tuple[float | None, float | None]:
    n = len(values)
    if not bounded or values.min() < 0 or values.max() > 1:
        return _ends(unit_limits(values, n, least=0.0 if values.min() >= 0 else -math.inf))
    if np.isin(values, (0.0, 1.0)).all():
        share = wilson(int(values.sum()), n)
        return share.low, share.high
    return bounded_limits(values)


def with_limits(estimate: Estimate, limits: tuple[float | None, float | None]) -> Estimate:
    """The same estimate with other limits."""
    low, high = limits
    return estimate.model_copy(update={"low": low, "high": high})


def _ends(limits: tuple[float, float] | None) -> tuple[float | None, float | None]:
    return (None, None) if limits is None else limits


def cluster_mean(values: Sequence[float] | Floats, clusters: Sequence[Hashable], seed: int = SEED) -> Estimate:
    """The mean of all values, with a bootstrap that draws whole clusters, such as the questions of one subject.

    `n` counts clusters.

    Raises:
        ValueError: there are no values, or not one cluster's name for each.
    """
    array = np.asarray(values, dtype=np.float64)
    return ratio_estimate(cluster_sums(array, clusters), cluster_sums(np.ones_like(array), clusters), seed)


def cluster_sums(values: Floats, clusters: Sequence[Hashable]) -> Floats:
    """The sum of `values` in each cluster, in the order in which clusters first appear.

    Raises:
        ValueError: there is not one cluster's name for each value.
    """
    if len(values) != len(clusters):
        raise ValueError(f"clusters: {len(clusters)} names for {len(values)} values; name one for each")
    places = {name: place for place, name in enumerate(dict.fromkeys(clusters))}
    member = np.array([places[name] for name in clusters], dtype=np.int64)
    return np.bincount(member, weights=values).astype(np.float64)


def ratio_estimate(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    seed: int = SEED,
    *,
    share: bool | None = None,
) -> Estimate:
    """Sum of numerators ÷ sum of denominators over clusters, with the standard error of a cluster bootstrap.

    A pair holds the sums of one cluster, such as one biography's true and well-formed statements: what lies in one
    cluster hangs together, so clusters are drawn and not their parts. `n` counts clusters. Where nothing was counted
    at all the value is 0, and a share may be anything. Intervals are those of `ratio_limits`.

    Args:
        numerators, denominators: per cluster.
        seed: of the bootstrap.
        share: whether the ratio is one; without a word, where no numerator is below 0 or above its denominator.

    Raises:
        ValueError: there are no clusters.
    """
    a, b = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    found = estimate(ratio(a.sum(), b.sum()), ratio_replicates(a, b, seed), len(a))
    return with_limits(found, ratio_limits(a, b, share))


def ratio_limits(
    numerators: Floats, denominators: Floats, share: bool | None = None
) -> tuple[float | None, float | None]:
    """The 95 % limits of a ratio of sums: `limits.share_limits` for a share, else `limits.unit_limits`."""
    if len(numerators) < 2:
        return None, None
    if share is None:
        share = bool(((numerators >= 0) & (numerators <= denominators)).all())
    if not denominators.sum():
        return (0.0, 1.0) if share else (None, None)
    units = linearised(numerators, denominators)
    if share:
        return share_limits(units, denominators, 0.0, 1.0)
    least = 0.0 if numerators.min() >= 0 else -math.inf
    return _ends(unit_limits(units, effective_units(denominators), least))


def exponential_estimate(numerators: Floats, denominators: Floats, seed: int = SEED) -> Estimate:
    """exp(sum of numerators ÷ sum of denominators), as perplexity is: limits of the logarithm, and a bootstrap."""
    value = np.exp(ratio(numerators.sum(), denominators.sum()))
    found = estimate(value, np.exp(ratio_replicates(numerators, denominators, seed)), len(numerators))
    low, high = (None if end is None else math.exp(end) for end in ratio_limits(numerators, denominators, share=False))
    return with_limits(found, (low, high))


def linearised(numerators: Floats, denominators: Floats) -> Floats:
    """Values [n] whose mean is the ratio of sums and whose spread is its spread (the delta method)."""
    value = ratio(numerators.sum(), denominators.sum())
    rest = numerators - value * denominators
    return np.asarray(value + ratio(rest, np.full_like(rest, denominators.mean())))


def ratio_replicates(numerators: Floats, denominators: Floats, seed: int = SEED) -> Floats:
    """The ratio of sums in each of RESAMPLES bootstrap samples of the clusters [RESAMPLES]."""
    parts = [ratio(numerators[draw].sum(-1), denominators[draw].sum(-1)) for draw in resamples(len(numerators), seed)]
    return np.concatenate(parts)


def estimate(value: float | Floats, replicates: Floats, n: int) -> Estimate:
    """An estimate from bootstrap replicates: their standard deviation, and the 2.5 % and 97.5 % quantiles (linear)."""
    if n < 2:
        return Estimate(value=float(value), n=n)
    low, high = np.quantile(replicates, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value=float(value), stderr=float(replicates.std()), low=float(low), high=float(high), n=n)


def ratio(numerator: float | Floats, denominator: float | Floats) -> Floats:
    """Numerator ÷ denominator, 0 where the denominator is 0."""
    top, bottom = np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def resamples(n: int, seed: int = SEED, count: int = RESAMPLES) -> Iterator[NDArray[np.int64]]:
    """Index samples with replacement [some, n], together `count` rows, a bounded number at a time.

    Raises:
        ValueError: `n` is below 1.
    """
    if n < 1:
        raise ValueError("bootstrap: no samples to draw from; give at least one")
    generator = np.random.default_rng(seed)
    at_once = max(1, _CHUNK // n)
    for begin in range(0, count, at_once):
        yield generator.integers(0, n, size=(min(at_once, count - begin), n))


def draw_counts(n: int, seed: int = SEED, count: int = RESAMPLES) -> Iterator[Floats]:
    """How often each of `n` samples is drawn in each bootstrap sample [some, n]: sums of draws are then one product.

    The draws are those of `resamples`.
    """
    return iter(_kept_counts(n, seed, count)) if count * n <= KEPT else _drawn_counts(n, seed, count)


@lru_cache(maxsize=4)
def _kept_counts(n: int, seed: int, count: int) -> tuple[Floats, ...]:
    return tuple(_drawn_counts(n, seed, count))


def _drawn_counts(n: int, seed: int, count: int) -> Iterator[Floats]:
    for draw in resamples(n, seed, count):
        rows = np.arange(len(draw))[:, None] * n
        counts = np.bincount((draw + rows).ravel(), minlength=len(draw) * n)
        yield counts.reshape(len(draw), n).astype(np.float64)
