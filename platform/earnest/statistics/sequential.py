"""Stop when it is decided: always-valid tests and confidence sequences by betting.

A gambler who believes that a mean lies above 0 bets a share of the capital on every sample. If the mean is not above
0 the expected capital never grows, so it reaches 1/error with probability at most `error`, at any time, however
often one looks (Ville's inequality). Capital is spread over several bets and left alone, which keeps this exact.

Waudby-Smith & Ramdas, "Estimating means of bounded random variables by betting", arXiv 2010.09686. Samples must come
in an order that knows nothing of the answers, such as the task's seeded shuffle.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from earnest.records import Verdict
from earnest.statistics.equivalence import ERROR, Claims
from earnest.statistics.intervals import Floats
from earnest.statistics.paired import MATCHING

SHARES = 0.95 * 2.0 ** (-np.arange(14) / 2)  # of the largest bet that cannot lose everything


@dataclass(frozen=True)
class Decision:
    """What is decided after `samples` samples: the verdict, and the always-valid p-values behind it."""

    verdict: Verdict
    samples: int
    claims: Claims


def log_capital(values: Floats, least: float) -> Floats:
    """The log capital after each of `values` [n], of betting that their mean is above 0; none is below `least` < 0."""
    paths = np.cumsum(np.log1p(values[:, None] * (SHARES / -least)), axis=0)  # [n, bets]
    return np.asarray(np.logaddexp.reduce(paths, axis=1) - math.log(len(SHARES)))


def decide(
    dense: Sequence[float],
    subject: Sequence[float],
    *,
    margin: float = MATCHING,
    error: float = ERROR,
    higher_is_better: bool = True,
) -> Decision:
    """Read paired scores in order, and stop at the first sample where matches, falls or rises is decided.

    Args:
        dense, subject: scores within 0..1 of the same samples, in an order independent of the answers.
        margin: of matching, relative.
        error: the probability of a wrong verdict, ever; the same claims as `equivalence.tost`.

    Returns:
        The decision; "not decided" or "no worse" after the last sample mean: go on.

    Raises:
        ValueError: the scores do not pair up, there are none, or one is not within 0..1.
    """
    a, b = _checked(subject, dense)
    low, high = 1 - margin, 1 + margin
    above_low, below_low = _p_ever(a - low * b, -low), _p_ever(low * b - a, -1.0)
    above_high, below_high = _p_ever(a - high * b, -high), _p_ever(high * b - a, -1.0)
    if not higher_is_better:
        above_low, below_low, above_high, below_high = below_high, above_high, below_low, above_low
    matches = np.maximum(above_low, below_high)
    decided = np.flatnonzero(np.minimum(matches, 2 * np.minimum(below_low, above_high)) <= error)
    at = int(decided[0]) if len(decided) else len(a) - 1
    p = [float(min(1.0, value)) for value in (above_low[at], below_high[at], 2 * below_low[at], 2 * above_high[at])]
    claims = Claims(*p)
    return Decision(claims.verdict(error), at + 1, claims)


def confidence_sequence(
    values: Sequence[float], *, least: float = -1.0, most: float = 1.0, error: float = ERROR, steps: int = 400
) -> tuple[Floats, Floats]:
    """Bounds of the mean after each sample, low [n] and high [n], all of them right at once with 1 − error.

    Candidates are `steps` means between the bounds of the values; limits are rounded outwards to a candidate.

    Raises:
        ValueError: a value lies outside its bounds.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.min() < least or array.max() > most:
        raise ValueError(f"confidence sequence: values must lie within {least}..{most}")
    lows = _lower_limits(array - least, most - least, error / 2, steps) + least
    highs = most - _lower_limits(most - array, most - least, error / 2, steps)
    return lows, highs


def _lower_limits(values: Floats, width: float, error: float, steps: int) -> Floats:
    """After each value in 0..width [n], the largest candidate mean that was ever rejected from above."""
    limits = np.zeros(len(values))
    for candidate in np.linspace(0, width, steps + 1)[1:]:
        # The same bets for all candidates (safe for the largest): capital falls with the candidate, so what is
        # rejected is an interval.
        rejected = np.maximum.accumulate(log_capital(values - candidate, -width)) >= -math.log(error)
        if not rejected[-1]:
            break
        limits[rejected] = candidate
    return limits


def _p_ever(values: Floats, least: float) -> Floats:
    """The always-valid p-value after each sample: one over the largest capital so far [n]."""
    return np.asarray(np.exp(-np.maximum.accumulate(log_capital(values, least))))


def _checked(subject: Sequence[float], dense: Sequence[float]) -> tuple[Floats, Floats]:
    a, b = np.asarray(subject, dtype=np.float64), np.asarray(dense, dtype=np.float64)
    if len(a) != len(b) or not len(a):
        raise ValueError(f"sequential: {len(b)} dense scores against {len(a)}; give the same samples, at least one")
    if min(a.min(), b.min()) < 0 or max(a.max(), b.max()) > 1:
        raise ValueError("sequential: scores must lie within 0..1; scale them by the bounds of the metric first")
    return a, b
