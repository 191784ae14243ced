"""Matching, shown or not: two one-sided tests at LLM-KICK's margin, what they let one claim, and how many samples the
open questions need.

"Within 5 % of dense" is asked of the ratio of the two scores. The margin is tested on subject − 0.95 × dense and
subject − 1.05 × dense per sample, so that dense's own uncertainty is in the test; a p-value of a plain difference
answers another question (is there any change at all?).

Few units, or units that are all alike, show little, whatever their variance: each test puts one unit more beside them,
as bad as one may be that was not drawn (`unseen`), and fewer than FEWEST units show nothing.
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
from earnest.statistics.limits import FEWEST
from earnest.statistics.multiplicity import holm
from earnest.statistics.paired import MATCHING
from earnest.statistics.pairs import Pairs
from earnest.statistics.unseen import worst_unseen

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

    Means of scores within 0..1 are tested without normal theory (`bounded.p_above_zero`). All else, clusters and ratios
    among it, must pass that test with the worst unit that may be (`unseen`), and a t of the linearised contrast.

    Raises:
        ValueError: the margin is not in (0, 1).
    """
    _check_margin(margin)
    above_low, below_low, above_high, below_high = (_p_above(pairs, side, margin) for side in _sides(pairs, margin))
    if pairs.higher_is_better:
        return Claims(above_low, below_high, min(1.0, 2 * below_low), min(1.0, 2 * above_high))
    return Claims(below_high, above_low, min(1.0, 2 * above_high), min(1.0, 2 * below_low))


@dataclass(frozen=True)
class _Side:
    """One side of a margin: values [n] whose mean is claimed to be above 0, and the least that a single score gives.

    `alike` where the claim is that the two are alike: it rests on what was not seen, such as rare losses.
    """

    values: Floats
    least: float
    alike: bool


def _sides(pairs: Pairs, margin: float) -> tuple[_Side, _Side, _Side, _Side]:
    """Above and below 1 − margin, above and below 1 + margin."""
    low, high = 1 - margin, 1 + margin
    of_low, of_high = pairs.contrast(low), pairs.contrast(high)
    return (
        _Side(of_low, -low, alike=True),
        _Side(-of_low, -1.0, alike=False),
        _Side(of_high, -high, alike=False),
        _Side(-of_high, -1.0, alike=True),
    )


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
    above_low, below_low, above_high, below_high = _sides(pairs, margin)
    if above_low.values.mean() > 0 and below_high.values.mean() > 0:
        # Both tests must succeed, and near the middle either may fail: each gets half of what may be missed.
        sides, level, reach = [above_low, below_high], error / tests, 0.5 + power / 2
    else:
        sides = [below_low] if above_low.values.mean() <= 0 else [above_high]
        level, reach = error / tests / 2, power
    need = max(_units(pairs, side, margin, level, _NORMAL.inv_cdf(reach)) for side in sides)
    return math.ceil(need) if need <= MOST_SAMPLES else None


def _p_above(pairs: Pairs, side: _Side, margin: float) -> float:
    if pairs.bounded:
        return p_above_zero(side.values, side.least)
    effective = pairs.effective
    if effective < FEWEST or side.values.mean() <= 0:
        return 1.0
    seen = p_above_zero(side.values, worst_unseen(pairs, side.values, side.least, margin))
    return max(seen, _t_above(side.values, effective), _p_unseen(pairs, side, margin, effective))


def _p_unseen(pairs: Pairs, side: _Side, margin: float, units: float) -> float:
    """The chance that `units` without bounds show none of the losses that one unit of 1 ÷ margin may hide."""
    return math.pow(1 - margin, units) if side.alike and not pairs.shares else 0.0


def _t_above(values: Floats, effective: float) -> float:
    """The one-sided p-value of "mean ≤ 0" by Student's t with Hall's correction for skewness.

    Losses are often rare and large, and then a plain t calls a match too soon (Hall 1992, "On the removal of skewness
    by transformation", JRSS B 54). `effective` units have one degree of freedom less.
    """
    n, gaps = len(values), values - values.mean()
    variance = float((gaps**2).mean())
    if variance == 0:
        return 0.0 if values.mean() > 0 else 1.0
    from scipy.stats import t

    student = float(values.mean()) * math.sqrt((n - 1) / variance)
    skew = float((gaps**3).mean()) / math.pow(variance, 1.5) / math.sqrt(n)
    corrected = student + skew * student**2 / 3 + skew**2 * student**3 / 27 + skew / 6
    return float(t.sf(corrected, effective - 1))


def _units(pairs: Pairs, side: _Side, margin: float, level: float, luck: float) -> float:
    """How many units it takes until the mean of a side, `luck` standard errors lower, is shown above 0 at `level`."""
    values, mean = side.values, float(side.values.mean())
    if mean <= 0:
        return math.inf
    least = worst_unseen(pairs, values, side.least, margin)
    sizes, counts = np.unique(np.append(values, least), return_counts=True)
    worst = np.where(np.arange(len(sizes)) == 0, 1.0, 0.0)  # the one value more that the test puts at the bound
    spread = float(np.append(values, least).std()) if pairs.bounded else float(values.std())
    need = _units_of_weights(sizes, (counts - worst) / len(values), worst, spread, level, luck)
    if pairs.bounded:
        return need
    by_t = math.pow((_NORMAL.inv_cdf(1 - level) + luck) * spread / mean, 2)
    unseen = math.log(level) / math.log(1 - margin) if _p_unseen(pairs, side, margin, 0.0) else 0.0
    # Units of unequal weight are worth fewer.
    return max(need, max(by_t, unseen, float(FEWEST)) * pairs.n / pairs.effective)


def _units_of_weights(sizes: Floats, shares: Floats, worst: Floats, spread: float, level: float, luck: float) -> float:
    """The same for the bounded test alone, with the observed shares of each size of value."""

    def excess(log_n: float) -> float:
        """How far p is above the level, with a mean pulled down by unlucky draws."""
        n = math.exp(log_n)
        unlucky = luck * spread * math.sqrt(n) / -float(sizes[0])
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
