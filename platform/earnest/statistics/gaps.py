"""How far something got on the way from one score to another: gap closed, and what is won back.

All scores of one quotient are drawn together: every bootstrap sample takes the same samples of each subject.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from earnest.records import Estimate
from earnest.statistics.bca import bca_difference, units_of
from earnest.statistics.intervals import Floats, draw_counts, estimate, ratio, with_limits
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs
from earnest.statistics.quotients import Rejected, of_scores, of_units, quotient_limits


@dataclass(frozen=True)
class Headline:
    """A headline metric over samples: a ratio of sums, or exp of it, as perplexity is."""

    sums: Sums
    exponential: bool = False

    @property
    def value(self) -> float:
        """The metric on all samples."""
        return float(self._of(self.sums.numerators.sum(), self.sums.denominators.sum()))

    @property
    def replicates(self) -> Floats:
        """The metric in each bootstrap sample."""
        columns = np.stack([self.sums.numerators, self.sums.denominators], axis=1)
        drawn = np.concatenate([counts @ columns for counts in draw_counts(len(columns))])  # [draws, 2]
        return self._of(drawn[:, 0], drawn[:, 1])

    def _of(self, numerator: Floats, denominator: Floats) -> Floats:
        value = ratio(numerator, denominator)
        return np.exp(value) if self.exponential else value


def difference(start: Headline, reached: Headline) -> Estimate:
    """How much higher `reached` is than `start`, on the same samples, as a comparison says it.

    Raises:
        ValueError: the two have different numbers of samples.
    """
    _common_count(start, reached)
    return bca_difference(_pairs(start, reached))


def share_closed(start: Headline, reached: Headline, goal: Headline) -> Estimate | None:
    """(reached − start) ÷ (goal − start), with a paired bootstrap's standard error and the limits of `quotients`.

    None where no gap is shown: where the 95 % interval of goal − start holds 0, its quotient would be noise. The few
    draws in which the gap is exactly 0 count as 0.

    Raises:
        ValueError: the three have different numbers of samples.
    """
    n = _common_count(start, reached, goal)
    gap = difference(start, goal)
    if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
        return None
    before = start.replicates
    value = (reached.value - start.value) / (goal.value - start.value)
    found = estimate(value, ratio(reached.replicates - before, goal.replicates - before), n)
    return with_limits(found, quotient_limits(value, _rejected(start, reached, goal)))


def _rejected(start: Headline, reached: Headline, goal: Headline) -> Rejected:
    won, gap = _pairs(start, reached), _pairs(start, goal)
    if won.bounded and gap.bounded:
        return of_scores(start.sums.numerators, reached.sums.numerators, goal.sums.numerators)
    return of_units(units_of(won), units_of(gap), gap.effective)


def _pairs(start: Headline, reached: Headline) -> Pairs:
    return Pairs(start.sums, reached.sums, scale="log" if start.exponential else "linear")


def _common_count(*headlines: Headline) -> int:
    sizes = {len(headline.sums.numerators) for headline in headlines}
    if len(sizes) != 1:
        raise ValueError(f"gap: {sorted(sizes)} samples; align all subjects by sample id first")
    return sizes.pop()
