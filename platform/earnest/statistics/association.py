"""What goes with a loss: rank correlation over few units, and several reasons at once over many samples.

Both say how far two things go together, not that one is the cause of the other.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import NormalDist

import numpy as np

from earnest.records import Estimate
from earnest.statistics.intervals import SEED, Floats, estimate, ratio, resamples
from earnest.statistics.limits import CONFIDENCE

FEWEST_UNITS = 5
FEWEST_SAMPLES = 30
EXACT = 7  # up to so many units all orders are counted
ORDERS = 9999
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Association:
    """An estimate and its two-sided p-value."""

    estimate: Estimate
    p: float


def spearman(x: Floats, y: Floats, seed: int = SEED) -> Association | None:
    """Spearman's rank correlation with a bootstrap over units and a permutation test.

    The interval is never narrower than Fisher's with the error of Bonett & Wright 2000, at a value that is one over n
    nearer to 0: five units in perfect order show no certainty. The test is exact up to 7 units and counts 9,999 random
    orders beyond. Bootstrap samples in which either is constant count as 0. None where there are fewer than 5 units or
    either is constant.

    Raises:
        ValueError: the two have different lengths.
    """
    if len(x) != len(y):
        raise ValueError(f"spearman: {len(x)} values against {len(y)}; give one of each per unit")
    if len(x) < FEWEST_UNITS or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    value = float(_rank_correlation(x[None], y[None])[0])
    drawn = np.concatenate([_rank_correlation(x[draw], y[draw]) for draw in resamples(len(x), seed)])
    found, (low, high) = estimate(value, drawn, len(x)), _fisher_limits(value, len(x))
    widest = {"low": min(found.low or 0.0, low), "high": max(found.high or 0.0, high)}
    return Association(found.model_copy(update=widest), _permutation_p(x, y, abs(value), seed))


def _fisher_limits(value: float, n: int) -> tuple[float, float]:
    near = value * (1 - 1 / n)
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * math.sqrt((1 + near**2 / 2) / (n - 3))
    low, high = math.tanh(math.atanh(near) - half), math.tanh(math.atanh(near) + half)
    return min(low, value), max(high, value)


def _permutation_p(x: Floats, y: Floats, observed: float, seed: int) -> float:
    n = len(x)
    if n <= EXACT:
        orders = np.array(list(permutations(range(n))))
        added = 0
    else:
        orders = np.random.default_rng(seed).permuted(np.tile(np.arange(n), (ORDERS, 1)), axis=1)
        added = 1  # the observed order, so that p is valid
    found = np.abs(_rank_correlation(np.broadcast_to(x, orders.shape), y[orders]))
    return float((np.sum(found >= observed - _ROUNDING) + added) / (len(orders) + added))


def _rank_correlation(x: Floats, y: Floats) -> Floats:
    """Of each row of x and y [rows, n], ties with their mean rank; 0 where either is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(each, axis=-1) for each in (x, y))
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    return ratio((a * b).sum(-1), np.sqrt((a**2).sum(-1) * (b**2).sum(-1)))


def uneven(values: Floats, groups: Sequence[Hashable]) -> float | None:
    """The p-value of groups whose values do not differ: Kruskal & Wallis 1952, with ties.

    None where there are fewer than two groups or all values are the same.

    Raises:
        ValueError: there is not one group's name for each value.
    """
    from scipy.stats import kruskal

    if len(values) != len(groups):
        raise ValueError(f"uneven: {len(groups)} names of groups for {len(values)} values; name one for each")
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values.tolist(), groups, strict=True):
        members.setdefault(group, []).append(value)
    if len(members) < 2 or len(set(values.tolist())) < 2:
        return None
    return float(kruskal(*members.values()).pvalue)


def effects(reasons: Mapping[str, Floats], outcome: Floats) -> dict[str, Association]:
    """How much the mean outcome changes with one standard deviation of each reason, the others held equal.

    Least squares with an intercept and heteroscedasticity-robust errors (HC3, MacKinnon & White 1985): for outcomes of
    0 and 1 these are differences of probability, and stay defined where a logistic fit separates. A reason that is
    constant, or that the reasons before it already tell, is left out; so are all with fewer than 30 samples.

    Args:
        reasons: name -> values [samples].
        outcome: [samples].
    """
    n = len(outcome)
    columns, names = [np.ones(n)], list[str]()
    for name, values in reasons.items():
        if n >= FEWEST_SAMPLES and _adds(columns, values):
            columns.append((values - values.mean()) / values.std(ddof=1))
            names.append(name)
    if not names:
        return {}
    X = np.stack(columns, axis=1)  # [samples, 1 + reasons]
    inverse = np.linalg.inv(X.T @ X)
    slopes = inverse @ X.T @ outcome
    leverage = np.einsum("ij,jk,ik->i", X, inverse, X)
    scaled = (outcome - X @ slopes) / np.maximum(1 - leverage, _ROUNDING)
    covariance = inverse @ (X.T * scaled**2) @ X @ inverse
    errors = np.sqrt(np.diag(covariance))
    return {name: _effect(slopes[at], errors[at], n) for at, name in enumerate(names, start=1)}


def _adds(columns: list[Floats], values: Floats) -> bool:
    """Whether values are told by no combination of the columns."""
    before = np.stack(columns, axis=1)
    rest = values - before @ np.linalg.lstsq(before, values, rcond=None)[0]
    return bool(np.linalg.norm(rest) > 1e-6 * max(float(np.linalg.norm(values)), _ROUNDING))


def _effect(slope: float, error: float, n: int) -> Association:
    half = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * error
    p = math.erfc(abs(slope) / max(error, _ROUNDING) / math.sqrt(2))
    ends = {"low": float(slope - half), "high": float(slope + half)} if error > _ROUNDING else {}
    return Association(Estimate(value=float(slope), stderr=float(error), n=n, **ends), p)
