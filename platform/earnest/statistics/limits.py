"""95 % limits of means that hold at few samples too: of shares, of scores within bounds, and of units without bounds.

All of them widen where little was seen: n equal values say little about rare other ones, so nothing here has a width of
zero. Coverage, by simulation, stands in `benchmarks/interval_coverage.py`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from earnest.statistics.bounded import tail_at

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2  # what may be missed on each side
FEW = 15  # successes or failures below which Wilson's interval covers too little
FEWEST = 3  # effective units
SCARCE = 10.0  # clusters up to which the unseen one lies FARTHER
FARTHER = 3.0  # times as far from the mean as the farthest share of a cluster
DEVIATIONS, TOGETHER, RARE = 3.0, 0.1, 0.05  # of a cluster where all are alike: see `share_limits`
SKEWED = 20.0  # units up to which skewness sends the unseen unit far out
_NEGLIGIBLE = 1e-9

Floats = NDArray[np.float64]
Limits = tuple[float, float]


def exact_limits(successes: int, n: int) -> Limits:
    """The exact interval of a share (Clopper & Pearson 1934): it covers at least 95 % whatever the share."""
    from scipy.special import betainccinv, betaincinv

    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, TAIL))
    return low, 1.0 if successes == n else float(betainccinv(successes + 1, n - successes, TAIL))


def bounded_limits(values: Floats, least: float = 0.0, most: float = 1.0) -> Limits:
    """The mean's limits from Gaffke's test inverted (see `bounded`), for values [n] within `least`..`most`.

    For right and wrong it is the exact interval of a share.
    """
    return _lower(values, least), -_lower(-values, -most)


def unit_limits(values: Floats, effective: float, least: float = -math.inf, most: float = math.inf) -> Limits | None:
    """The mean's limits for units [n] without bounds, such as windows, texts, or linearised ratios.

    The widest of Student's t, Hall's t, which heeds skewness, and the bounded test with one more unit that lies as far
    out as the farthest seen, and farther the more skewed the units are to its side and the fewer they are: at n = 20 by
    their skewness times. Where all are equal that unit is 0 or twice their value; None where all are 0, and below
    FEWEST `effective` units.

    Args:
        values: their mean is what is estimated.
        effective: how many units of equal weight they are worth.
        least, most: what the mean cannot leave.
    """
    mean, skew = float(values.mean()), _skewness(values)
    if effective < FEWEST or not math.isfinite(mean):
        return None
    below, above = (mean - float(values.min())), (float(values.max()) - mean)
    if skew is None:
        if abs(mean) < _NEGLIGIBLE:
            return None
        below = above = abs(mean)
        skew = 0.0
    skew *= SKEWED / len(values)
    unseen = bounded_limits(values, mean - below * (1 + max(0.0, -skew)), mean + above * (1 + max(0.0, skew)))
    found = _widest(unseen, *_students(values, effective))
    return max(least, found[0]), min(most, found[1])


def share_limits(values: Floats, weights: Floats, least: float, most: float) -> Limits:
    """The limits of a ratio of sums that is a share, or of the difference of two, over clusters.

    The widest of Student's t, Hall's t and the bounded test with one cluster more. That one lies FARTHER times as far
    from the mean as any seen, at least DEVIATIONS standard deviations of a cluster that loses RARE answers where
    losses go together by TOGETHER, and no farther than `least` or `most`; there it lies where fewer than FEWEST
    effective clusters were seen. Above SCARCE clusters both come nearer, as one over their number.

    Args:
        values: linearised, one per cluster; their mean is the ratio or the difference.
        weights: how many answers lie in each cluster.
        least, most: of a single answer.
    """
    mean, relative = float(values.mean()), weights / weights.mean()
    heaviest, effective = float(relative.max()), effective_units(weights)
    lowest, highest = (min(float(values.min()), mean + (least - mean) * heaviest),
                       max(float(values.max()), mean + (most - mean) * heaviest))  # fmt: skip
    if effective < FEWEST:
        found = bounded_limits(values, lowest, highest)
    else:
        spread = np.sqrt(RARE * (TOGETHER + (1 - TOGETHER) / np.maximum(weights, 1.0)))
        few = min(1.0, SCARCE / effective)
        rare, farther = few * DEVIATIONS * float((relative * spread).max()), 1 + few * (FARTHER - 1)
        below = max(farther * (mean - float(values.min())), rare)
        above = max(farther * (float(values.max()) - mean), rare)
        unseen = bounded_limits(values, max(lowest, mean - below), min(highest, mean + above))
        found = _widest(unseen, *_students(values, effective))
    return max(least, found[0]), min(most, found[1])


def effective_units(weights: Floats) -> float:
    """How many units of equal weight these are worth: (Σ weight)² ÷ Σ weight² (Kish 1965)."""
    squares = float((weights**2).sum())
    return float(np.abs(weights).sum()) ** 2 / squares if squares else 0.0


def _widest(*limits: Limits) -> Limits:
    return min(low for low, _ in limits), max(high for _, high in limits)


def _lower(values: Floats, least: float) -> float:
    """The mean that Gaffke's test rejects just so from above, for `values` that are never below `least`.

    With y = value − least and one more y of 0, a mean m and the saddlepoint of its tail belong together by a number s
    below 0: m = Σ y/(1 − sy) ÷ Σ 1/(1 − sy), at the tilt s ÷ (1 − sm). So one root is found, and not one per candidate.
    """
    from scipy.optimize import brentq

    sizes, counts = np.unique(np.append(np.maximum(values - least, 0.0), 0.0), return_counts=True)
    scale = float(sizes[-1])
    if scale <= 0:
        return least
    sizes, times = sizes / scale, counts.astype(np.float64)

    def mean_and_tilt(log_s: float) -> tuple[float, float]:
        s = -math.exp(log_s)
        shares = times / (1 - s * sizes)
        mean = float((shares * sizes).sum() / shares.sum())
        return mean, s / (1 - s * mean)

    def excess(log_s: float) -> float:
        mean, tilt = mean_and_tilt(log_s)
        return tail_at(sizes - mean, times, tilt) - TAIL

    return least + scale * mean_and_tilt(brentq(excess, -12.0, 36.0, xtol=1e-6))[0]


def _students(values: Floats, effective: float) -> tuple[Limits, Limits]:
    """Student's t, and with Hall's correction for skewness (1992, "On the removal of skewness by transformation")."""
    from scipy.special import stdtrit

    n, mean, skew = len(values), float(values.mean()), _skewness(values)
    if skew is None:
        return (mean, mean), (mean, mean)
    error, far = float(values.std()) / math.sqrt(n - 1), -float(stdtrit(effective - 1, TAIL))
    k = skew / math.sqrt(n)

    def turned(quantile: float) -> float:
        """Where t + kt²/3 + k²t³/27 + k/6 is the quantile."""
        return quantile if abs(k) < _NEGLIGIBLE else 3 / k * (float(np.cbrt(1 + k * (quantile - k / 6))) - 1)

    return (mean - far * error, mean + far * error), (mean - turned(far) * error, mean - turned(-far) * error)


def _skewness(values: Floats) -> float | None:
    """Of the values as they are; None where they are all equal but for rounding."""
    gaps = values - values.mean()
    deviation = math.sqrt(float((gaps**2).mean()))
    if deviation <= _NEGLIGIBLE * max(float(np.abs(values).max()), 1e-300):
        return None
    return float(((gaps / deviation) ** 3).mean())
