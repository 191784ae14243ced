"""Two subjects' scores on the same units, and the contrasts that tests, intervals and sample sizes are made from.

A unit is a sample, or a cluster of samples that hang together (one subject, one passage). The subject stands against
"dense", whatever that is. Every headline is one of three: a mean of scores, a ratio of sums, or exp of a ratio of sums.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from earnest.statistics.intervals import Floats, cluster_sums, linearised, ratio
from earnest.statistics.limits import effective_units
from earnest.statistics.paired import Sums

Scale = Literal["linear", "log"]


@dataclass(frozen=True)
class Pairs:
    """Per-unit sums of two subjects, paired by position.

    Args:
        dense, subject: what each summed above and below the line, per unit.
        higher_is_better: what counts as worse.
        scale: `log` where the score is exp(ratio of sums), as perplexity is; its ratio is then a difference of logs.

    Raises:
        ValueError: the two have different numbers of units, or none.
    """

    dense: Sums
    subject: Sums
    higher_is_better: bool = True
    scale: Scale = "linear"

    def __post_init__(self) -> None:
        sizes = {len(part) for sums in (self.dense, self.subject) for part in (sums.numerators, sums.denominators)}
        if len(sizes) != 1 or 0 in sizes:
            raise ValueError(f"pairs: {sorted(sizes)} units; both subjects need the same ones, at least one")

    @classmethod
    def of_scores(cls, dense: Sequence[float], subject: Sequence[float], higher_is_better: bool = True) -> Pairs:
        """Pairs whose headline is the mean of the samples' scores."""
        return cls(Sums.of_scores(dense), Sums.of_scores(subject), higher_is_better)

    def by_cluster(self, clusters: Sequence[Hashable]) -> Pairs:
        """The same headline with clusters as units: what lies in one cluster is drawn and counted together.

        Raises:
            ValueError: not every unit has a cluster.
        """
        dense, subject = (
            Sums(cluster_sums(sums.numerators, clusters), cluster_sums(sums.denominators, clusters))
            for sums in (self.dense, self.subject)
        )
        return replace(self, dense=dense, subject=subject)

    @property
    def n(self) -> int:
        """How many units."""
        return len(self.dense.numerators)

    @property
    def both(self) -> tuple[Sums, Sums]:
        """Dense, then the subject."""
        return self.dense, self.subject

    @property
    def bounded(self) -> bool:
        """Whether the headline is a mean of single scores that all lie within 0..1."""
        sides = self.both
        means = self.scale == "linear" and all(bool((sums.denominators == 1).all()) for sums in sides)
        return means and all(bool(((sums.numerators >= 0) & (sums.numerators <= 1)).all()) for sums in sides)

    @property
    def shares(self) -> bool:
        """Whether the headline is a share: what a unit adds above the line lies within 0 and what it adds below."""
        sides = (self.dense, self.subject)
        return self.scale == "linear" and all(
            bool(((sums.numerators >= 0) & (sums.numerators <= sums.denominators)).all()) for sums in sides
        )

    @property
    def weights(self) -> Floats:
        """How much each unit counts [n]: what it adds below the line, the mean of both subjects."""
        return np.asarray((self.dense.denominators + self.subject.denominators) / 2)

    @property
    def effective(self) -> float:
        """How many units of equal weight these are worth: (Σ weight)² ÷ Σ weight² (Kish 1965)."""
        return effective_units(self.weights)

    @property
    def binary(self) -> bool:
        """Whether every score is right or wrong."""
        return self.bounded and all(
            bool(np.isin(sums.numerators, (0.0, 1.0)).all()) for sums in (self.dense, self.subject)
        )

    def scores(self, draw: NDArray[np.int64] | slice = slice(None)) -> tuple[Floats, Floats]:
        """The headline of dense and of the subject on the drawn units [..., units]."""
        return self._score(self.dense, draw), self._score(self.subject, draw)

    def difference(self, draw: NDArray[np.int64] | slice = slice(None)) -> Floats:
        """Score of the subject − score of dense on the drawn units."""
        dense, subject = self.scores(draw)
        return subject - dense

    @property
    def sums(self) -> Floats:
        """What dense, then the subject, summed above and below the line, per unit [n, 4]."""
        sides = (self.dense, self.subject)
        return np.stack([part for side in sides for part in (side.numerators, side.denominators)], axis=1)

    def difference_of_sums(self, sums: Floats) -> Floats:
        """Score of the subject − score of dense where `sums` [draws, 4] were summed over drawn units."""
        dense, subject = (self._scaled(ratio(sums[:, at], sums[:, at + 1])) for at in (0, 2))
        return subject - dense

    def differences_without(self) -> Floats:
        """The difference with each unit left out in turn [n]: the jackknife."""
        dense, subject = (
            self._scaled(ratio(s.numerators.sum() - s.numerators, s.denominators.sum() - s.denominators))
            for s in (self.dense, self.subject)
        )
        return subject - dense

    def contrast(self, factor: float) -> Floats:
        """Per unit, a value [n] whose mean is above 0 exactly where score(subject) > factor × score(dense).

        Means give subject − factor × dense itself. Ratios of sums are linearised at their estimates (the delta
        method), and a log scale compares logs, so that the factor becomes a shift.
        """
        of_dense, of_subject = (linearised(s.numerators, s.denominators) for s in (self.dense, self.subject))
        return of_subject - of_dense - np.log(factor) if self.scale == "log" else of_subject - factor * of_dense

    def better_and_worse(self) -> tuple[int, int]:
        """How many units the subject scores better on than dense, and worse."""
        gaps = ratio(self.subject.numerators, self.subject.denominators) - ratio(
            self.dense.numerators, self.dense.denominators
        )
        above, below = int((gaps > 0).sum()), int((gaps < 0).sum())
        return (above, below) if self.higher_is_better else (below, above)

    def _score(self, sums: Sums, draw: NDArray[np.int64] | slice) -> Floats:
        return self._scaled(ratio(sums.numerators[draw].sum(-1), sums.denominators[draw].sum(-1)))

    def _scaled(self, values: Floats) -> Floats:
        return np.asarray(np.exp(values)) if self.scale == "log" else values
