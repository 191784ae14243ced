"""Tests by resampling: the sign-flip permutation test and the paired bootstrap's p-value.

Under the null hypothesis that two subjects are exchangeable on every sample, each difference is as likely to have the
other sign. The test counts how often flipped signs give a sum as far from 0 as the one observed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from earnest.statistics.intervals import RESAMPLES, SEED, Floats, resamples

EXACT = 20  # up to so many non-zero differences all sign patterns are counted
FLIPS = 9999
_CHUNK = 2**22
_ROUNDING = 1e-12


def sign_flip(differences: Sequence[float] | Floats, seed: int = SEED, flips: int = FLIPS) -> float:
    """The two-sided p-value of a mean difference of 0.

    Exact where at most 20 differences are not 0: all sign patterns are counted. Otherwise `flips` random patterns
    and the observed one, so that p is valid and never below 1 / (flips + 1) (Phipson & Smyth 2010).
    """
    return sign_flips([np.asarray(differences, dtype=np.float64)], seed, flips)[0]


def sign_flips(family: Sequence[Floats], seed: int = SEED, flips: int = FLIPS) -> list[float]:
    """The p-value of each of many sets of differences; sets of one size share their random patterns."""
    found = {i: _exact(values) for i, values in enumerate(family) if np.count_nonzero(values) <= EXACT}
    sizes: dict[int, list[int]] = {}
    for i, values in enumerate(family):
        if i not in found:
            sizes.setdefault(len(values), []).append(i)
    for same in sizes.values():
        found |= zip(same, _random(np.stack([family[i] for i in same], axis=1), seed, flips), strict=True)
    return [found[i] for i in range(len(family))]


def _exact(differences: Floats) -> float:
    values = np.abs(differences[differences != 0])
    return float((np.abs(_all_sums(values)) >= _observed(differences)).mean())


def _random(columns: Floats, seed: int, flips: int) -> list[float]:
    """The p-values of the columns of differences [n, sets]."""
    generator, n = np.random.default_rng(seed), len(columns)
    at_once = max(1, _CHUNK // n)
    observed, far = _observed(columns), np.zeros(columns.shape[1], dtype=np.int64)
    for begin in range(0, flips, at_once):
        signs = generator.integers(0, 2, size=(min(at_once, flips - begin), n), dtype=np.int8)
        far += (np.abs((2.0 * signs - 1) @ np.abs(columns)) >= observed).sum(axis=0)
    return [float(p) for p in (far + 1) / (flips + 1)]


def _observed(differences: Floats) -> Floats:
    """How far the sum is from 0; a sum that ties with it but for rounding counts as being as far."""
    return np.asarray(np.abs(differences.sum(axis=0)) - _ROUNDING * np.abs(differences).sum(axis=0))


def _all_sums(values: Floats) -> Floats:
    """The sum of `values` under every pattern of signs [2^n]."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def bootstrap_p(differences: Sequence[float] | Floats, seed: int = SEED, count: int = RESAMPLES) -> float:
    """The paired bootstrap's two-sided p-value: twice the smaller share of replicates on either side of 0.

    It reads the percentile interval backwards and inherits its faults at small n; `sign_flip` is the safer test.
    """
    values = np.asarray(differences, dtype=np.float64)
    replicates = np.concatenate([values[draw].mean(-1) for draw in resamples(len(values), seed, count)])
    return float(min(1.0, 2 * min((replicates <= 0).mean(), (replicates >= 0).mean())))
