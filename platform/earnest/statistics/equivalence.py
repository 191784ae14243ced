"""Matching, shown or not: two one-sided tests at LLM-KICK's margin, what they let one claim, and how many samples the
open questions need.

"Within 5 % of dense" is asked of the ratio of the two scores. The margin is tested on subject − 0.95 × dense and
subject − 1.05 × dense per sample, so that dense's own uncertainty is in the test; a p-value of a plain difference
answers another question (is there any change at all?).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from earnest.records import Verdict
from earnest.statistics.bounded import p_above_zero, p_of_weights
from earnest.statistics.intervals import Floats
from earnest.statistics.multiplicity import holm
from earnest.statistics.paired import MATCHING
from earnest.statistics.pairs import Pairs

ERROR = 0.05
POWER = 0.8
MOST_SAMPLES = 10_000_000  # more than this is no plan; the score lies on the margin
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Claims:
    """The p-value of each thing that may be claimed of a subject against dense.

    `no_worse` and `no_better` are the two one-sided tests (Schuirmann 1987): not worse, not better by the margin or
    more. `falls` (worse by more than the margin) and `rises` (better by more) are two-sided, so that a subject that
    truly matches is called different with at most the error rate, both sides together.
    """

    no_worse: float
    no_better: float
    falls: float
    rises: float

    @property
    def matches(self) -> float:
        """The p-value of equivalence: the larger of the two one-sided ones."""
        return max(self.no_worse, self.no_better)

    def verdict(self, error: float = ERROR) -> Verdict:
        """What is shown at the error rate. At most one of falls, rises and matches can be."""
        shown: tuple[tuple[Verdict, float], ...] = (
            ("falls", self.falls),
            ("rises", self.rises),
            ("matches", self.matches),
            ("no worse", self.no_worse),
        )
        return next((claim for claim, p in shown if p <= error), "not decided")


def tost(pairs: Pairs, margin: float = MATCHING) -> Claims:
    """Test whether the subject's score lies within `margin`, relative, of dense's.

    Means of scores within 0..1 are tested without normal theory (`bounded.p_above_zero`), all else by a t that
    allows for skewness, on the linearised contrast.

    Raises:
        ValueError: the margin is not in (0, 1).
    """
    _check_margin(margin)
    low, high = 1 - margin, 1 + margin
    above_low = _p_above(pairs, pairs.contrast(low), -low)
    below_low = _p_above(pairs, -pairs.contrast(low), -1.0)
    above_high = _p_above(pairs, pairs.contrast(high), -high)
    below_high = _p_above(pairs, -pairs.contrast(high), -1.0)
    if pairs.higher_is_better:
        return Claims(above_low, below_high, min(1.0, 2 * below_low), min(1.0, 2 * above_high))
    return Claims(below_high, above_low, min(1.0, 2 * above_high), min(1.0, 2 * below_low))


def holm_claims(family: Sequence[Claims]) -> list[Claims]:
    """The claims of a family, each kind adjusted by Holm: a wrong "matches" anywhere is as rare as in a single test,
    and so is a wrong "falls".
    """
    kinds = ("no_worse", "no_better", "falls", "rises")
    adjusted = {kind: holm([getattr(claims, kind) for claims in family]) for kind in kinds}
    return [Claims(**{kind: adjusted[kind][i] for kind in kinds}) for i in range(len(family))]


def samples_needed(
    pairs: Pairs, margin: float = MATCHING, error: float = ERROR, power: float = POWER, tests: int = 1
) -> int | None:
    """About how many units would show what the scores suggest: matches inside the margin, falls or rises outside.

    From the mean and the variance of the observed contrasts, which for right and wrong is their discordance, at the
    asked power. `tests` divides the error rate, as Holm's first step does. None where no number of samples would
    (dense scores 0, or the subject lies on the margin), or where a single unit shows no variance.
    """
    _check_margin(margin)
    if pairs.n < 2:
        return None
    low, high = 1 - margin, 1 + margin
    above_low, below_high = pairs.contrast(low), -pairs.contrast(high)
    if above_low.mean() > 0 and below_high.mean() > 0:
        # Both tests must succeed, and near the middle either may fail: each gets half of what may be missed.
        sides, level, reach = [(above_low, -low), (below_high, -1.0)], error / tests, 0.5 + power / 2
    else:
        sides = [(-above_low, -1.0)] if above_low.mean() <= 0 else [(-below_high, -high)]
        level, reach = error / tests / 2, power
    needs = [_units(pairs, values, least, level, _NORMAL.inv_cdf(reach)) for values, least in sides]
    need = max(needs)
    return math.ceil(need) if need <= MOST_SAMPLES else None


def _p_above(pairs: Pairs, values: Floats, least: float) -> float:
    return p_above_zero(values, least) if pairs.bounded else _t_above(values)


def _t_above(values: Floats) -> float:
    """The one-sided p-value of "mean ≤ 0" by Student's t with Hall's correction for skewness; 1 for a single value.

    Losses are often rare and large, and then a plain t calls a match too soon (Hall 1992, "On the removal of skewness
    by transformation", JRSS B 54).
    """
    n, gaps = len(values), values - values.mean()
    variance = float((gaps**2).mean())
    if n < 2:
        return 1.0
    if variance == 0:
        return 0.0 if values.mean() > 0 else 1.0
    from scipy.stats import t

    student = float(values.mean()) * math.sqrt((n - 1) / variance)
    skew = float((gaps**3).mean()) / math.pow(variance, 1.5) / math.sqrt(n)
    return float(t.sf(student + skew * student**2 / 3 + skew**2 * student**3 / 27 + skew / 6, n - 1))


def _units(pairs: Pairs, values: Floats, least: float, level: float, luck: float) -> float:
    """How many units it takes until the mean of `values`, `luck` standard errors lower, is shown above 0 at `level`."""
    mean = float(values.mean())
    if mean <= 0:
        return math.inf
    if not pairs.bounded:
        return max(2.0, math.pow((_NORMAL.inv_cdf(1 - level) + luck) * float(values.std()) / mean, 2))
    sizes, counts = np.unique(np.append(values, least), return_counts=True)
    worst = np.where(np.arange(len(sizes)) == 0, 1.0, 0.0)  # the one value more that the test puts at the bound
    shares, spread = (counts - worst) / len(values), float(np.append(values, least).std())

    def excess(log_n: float) -> float:
        """How far p is above the level, with the observed shares and a mean pulled down by unlucky draws."""
        n = math.exp(log_n)
        unlucky = luck * spread * math.sqrt(n) / -least
        return p_of_weights(sizes, shares * n + worst * (1 + unlucky)) - level

    return _where_zero(excess, math.log(2), math.log(MOST_SAMPLES))


def _where_zero(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where `falling` crosses 0 between the logarithms `low` and `high`; infinity where it does not."""
    from scipy.optimize import brentq

    if falling(low) <= 0:
        return math.exp(low)
    return math.exp(brentq(falling, low, high, xtol=1e-4)) if falling(high) < 0 else math.inf


def _check_margin(margin: float) -> None:
    if not 0 < margin < 1:
        raise ValueError(f"margin {margin}: must lie in (0, 1); LLM-KICK's matching is 0.05")
