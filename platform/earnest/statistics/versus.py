"""The evidence of a comparison: pairs of subjects tested, and judged as one family.

Every row asks two questions. Is there any change (p, adjusted by Holm over the rows)? And does the score still match,
within 5 %: shown, refuted, or open, and then how many samples would decide it. `earnest compare` and the cells of a
sweep are judged here, the whole family at once: units of like number are drawn together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from earnest.records import NO_WORSE, Estimate, Verdict
from earnest.statistics.bca import bca_differences
from earnest.statistics.equivalence import ERROR, Claims, holm_claims, samples_needed, tost
from earnest.statistics.multiplicity import benjamini_hochberg, holm
from earnest.statistics.paired import MATCHING, mcnemar_counts
from earnest.statistics.pairs import Pairs
from earnest.statistics.permutation import sign_flips


@dataclass(frozen=True)
class Matchup:
    """One task of subject A against subject B, paired by sample.

    `units` are what is drawn and tested: the samples, or clusters of them. `left_out` samples have no partner with the
    same prompt, or no score. `noise` is the difference that replicates alone make, where there are any; `computed_in`
    the dtype of A's arithmetic and of B's, where that is known.
    """

    name: str
    task: str
    headline: str
    samples: Pairs
    units: Pairs
    left_out: int
    noise: float | None = None
    computed_in: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Versus:
    """One row: A against B on one task.

    Differences are A − B in the headline's own units; `relative` is A ÷ B − 1. `better` and `worse` count samples on
    which A scores better and worse. `units` are worth `effective` ones of equal weight. `p` is of no change at all,
    `claims` of the matching margin; `p_holm`, `p_bh` and `claims` are adjusted over the whole family. `needed` counts
    units that would decide an open verdict, None where it is decided or no number would.
    """

    name: str
    task: str
    headline: str
    higher_is_better: bool
    samples: int
    units: int
    effective: float
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
    computed_in: tuple[str, str] = ("", "")

    @property
    def within_noise(self) -> bool:
        """Whether replicates alone make a difference as large as this."""
        return self.noise is not None and 0 < abs(self.difference.value) <= self.noise

    @property
    def no_worse(self) -> bool:
        """Whether A is shown to be no worse than the margin."""
        return self.verdict in NO_WORSE

    @property
    def changed(self) -> bool:
        """Whether any change is shown."""
        return self.p_holm <= ERROR


def judge(matchups: Iterable[Matchup], margin: float = MATCHING) -> list[Versus]:
    """Test every matchup, and judge them together: the error rate of a claim is the whole family's."""
    family = list(matchups)
    p = p_of_no_change([matchup.units for matchup in family])
    claims = holm_claims([tost(matchup.units, margin) for matchup in family])
    differences = bca_differences([matchup.units for matchup in family])
    adjusted = zip(family, differences, p, holm(p), benjamini_hochberg(p), claims, strict=True)
    return [_row(*found, margin=margin, tests=len(family)) for found in adjusted]


def p_of_no_change(family: Sequence[Pairs]) -> list[float]:
    """McNemar's exact test where scores are right or wrong, and the sign-flip test on the differences elsewhere."""
    flipped = iter(sign_flips([pairs.contrast(1.0) for pairs in family if not pairs.binary]))
    return [mcnemar_counts(*pairs.better_and_worse()).exact if pairs.binary else next(flipped) for pairs in family]


def _row(
    matchup: Matchup,
    difference: Estimate,
    p: float,
    p_holm: float,
    p_bh: float,
    claims: Claims,
    *,
    margin: float,
    tests: int,
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
        effective=pairs.effective,
        left_out=matchup.left_out,
        a=a,
        b=b,
        difference=difference,
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
        computed_in=matchup.computed_in,
    )


def by_verdict(rows: Sequence[Versus]) -> dict[Verdict, list[Versus]]:
    """The rows under each verdict, the ones to act on first."""
    order: tuple[Verdict, ...] = ("falls", "rises", "matches", "no worse", "not decided")
    return {verdict: same for verdict in order if (same := [row for row in rows if row.verdict == verdict])}
