"""The evidence of a comparison: samples paired, tested and judged as one family.

Every row asks two questions. Is there any change (p, adjusted by Holm over the rows)? And does the score still match,
within 5 %: shown, refuted, or open, and then how many samples would decide it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from earnest.compare.samples import Samples
from earnest.records import Estimate
from earnest.specs import UserError
from earnest.statistics.bca import bca_difference
from earnest.statistics.equivalence import ERROR, Claims, Verdict, holm_claims, samples_needed, tost
from earnest.statistics.multiplicity import benjamini_hochberg, holm
from earnest.statistics.paired import MATCHING, Sums, mcnemar_counts
from earnest.statistics.pairs import Pairs
from earnest.statistics.permutation import sign_flip


@dataclass(frozen=True)
class Matchup:
    """One task of subject A against subject B, paired by sample.

    `units` are what is drawn and tested: the samples, or clusters of them. `left_out` samples have no partner with the
    same prompt, or no score. `noise` is the difference that replicates alone make, where there are any.
    """

    name: str
    task: str
    headline: str
    samples: Pairs
    units: Pairs
    left_out: int
    noise: float | None = None


@dataclass(frozen=True)
class Versus:
    """One row: A against B on one task.

    Differences are A − B in the headline's own units; `relative` is A ÷ B − 1. `better` and `worse` count samples on
    which A scores better and worse. `p` is of no change at all, `claims` of the matching margin; `p_holm`, `p_bh` and
    `claims` are adjusted over the whole family. `needed` counts units that would decide an open verdict, None where it
    is decided or no number would.
    """

    name: str
    task: str
    headline: str
    higher_is_better: bool
    samples: int
    units: int
    left_out: int
    a: float
    b: float
    difference: Estimate
    relative: float | None
    better: int
    worse: int
    p: float
    p_holm: float
    p_bh: float
    claims: Claims
    verdict: Verdict
    needed: int | None
    noise: float | None

    @property
    def within_noise(self) -> bool:
        """Whether replicates alone make a difference as large as this."""
        return self.noise is not None and abs(self.difference.value) <= self.noise

    @property
    def changed(self) -> bool:
        """Whether any change is shown."""
        return self.p_holm <= ERROR


def match_up(a: Samples, b: Samples, name: str = "", noise: float | None = None) -> Matchup:
    """Pair two subjects' samples of one task: the same id, the same prompt, a score on both sides.

    Raises:
        UserError: the two headlines are not the same, or no sample pairs up.
    """
    if (a.headline, a.higher_is_better) != (b.headline, b.higher_is_better):
        raise UserError(f"{a.task}: A was scored by {a.headline} and B by {b.headline}; evaluate both the same way")
    places = {key: place for place, key in enumerate(zip(b.ids, b.prompts, strict=True))}
    found = [(i, places[key]) for i, key in enumerate(zip(a.ids, a.prompts, strict=True)) if key in places]
    of_a, of_b = np.array(found, dtype=np.int64).reshape(-1, 2).T
    known = ~(np.isnan(a.above[of_a]) | np.isnan(b.above[of_b]))
    of_a, of_b = of_a[known], of_b[known]
    if not len(of_a):
        raise UserError(
            f"{a.task}: no sample of A has a scored partner in B with the same id and prompt; "
            "compare subjects that were asked the same questions"
        )
    pairs = Pairs(
        dense=Sums(b.above[of_b], b.below[of_b]),
        subject=Sums(a.above[of_a], a.below[of_a]),
        higher_is_better=a.higher_is_better,
        scale="log" if a.exponential else "linear",
    )
    units = pairs.by_cluster([a.clusters[i] for i in of_a]) if a.clusters else pairs
    if a.clusters and units.n < 2:
        raise UserError(f"{a.task}: all {pairs.n} samples lie in one cluster; cluster by a column with several values")
    return Matchup(name, a.task, a.headline, pairs, units, len(set(a.ids) | set(b.ids)) - pairs.n, noise)


def judge(matchups: Iterable[Matchup], margin: float = MATCHING) -> list[Versus]:
    """Test every matchup, and judge them together: the error rate of a claim is the whole family's."""
    family = list(matchups)
    p = [p_of_no_change(matchup.units) for matchup in family]
    claims = holm_claims([tost(matchup.units, margin) for matchup in family])
    adjusted = zip(family, p, holm(p), benjamini_hochberg(p), claims, strict=True)
    return [_row(*found, margin=margin, tests=len(family)) for found in adjusted]


def p_of_no_change(pairs: Pairs) -> float:
    """McNemar's exact test where scores are right or wrong, and the sign-flip test on the differences elsewhere."""
    if pairs.binary:
        return mcnemar_counts(*pairs.better_and_worse()).exact
    return sign_flip(pairs.contrast(1.0))


def _row(
    matchup: Matchup, p: float, p_holm: float, p_bh: float, claims: Claims, *, margin: float, tests: int
) -> Versus:
    pairs, verdict = matchup.units, claims.verdict()
    b, a = (float(score) for score in pairs.scores())
    better, worse = matchup.samples.better_and_worse()
    return Versus(
        name=matchup.name,
        task=matchup.task,
        headline=matchup.headline,
        higher_is_better=pairs.higher_is_better,
        samples=matchup.samples.n,
        units=pairs.n,
        left_out=matchup.left_out,
        a=a,
        b=b,
        difference=bca_difference(pairs),
        relative=a / b - 1 if b else None,
        better=better,
        worse=worse,
        p=p,
        p_holm=p_holm,
        p_bh=p_bh,
        claims=claims,
        verdict=verdict,
        needed=samples_needed(pairs, margin, tests=tests) if verdict in ("no worse", "not decided") else None,
        noise=matchup.noise,
    )


def by_verdict(rows: Sequence[Versus]) -> dict[Verdict, list[Versus]]:
    """The rows under each verdict, the ones to act on first."""
    order: tuple[Verdict, ...] = ("falls", "rises", "matches", "no worse", "not decided")
    return {verdict: same for verdict in order if (same := [row for row in rows if row.verdict == verdict])}
