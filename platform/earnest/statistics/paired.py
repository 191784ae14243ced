"""Two subjects on the same samples: relative change, matching, retention, flips, McNemar's test.

Samples are paired by position; callers align them by id first. "dense" is what is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from earnest.records import Estimate
from earnest.statistics.intervals import (
    RESAMPLES,
    SEED,
    Floats,
    estimate,
    ratio,
    ratio_replicates,
    resamples,
    wilson,
    with_limits,
)
from earnest.statistics.quotients import of_scores, of_units, quotient_limits

MATCHING = 0.05


@dataclass(frozen=True)
class Sums:
    """Per sample, what is summed above and below the line: a mean has ones below, perplexity nats over tokens."""

    numerators: Floats
    denominators: Floats

    @classmethod
    def of_scores(cls, scores: Sequence[float]) -> Sums:
        """The sums whose ratio is the mean of `scores`."""
        values = np.asarray(scores, dtype=np.float64)
        return cls(values, np.ones_like(values))


def _itself(values: Floats) -> Floats:
    return values


def relative_change(
    dense: Sums, subject: Sums, score: Callable[[Floats], Floats] = _itself, seed: int = SEED, count: int = RESAMPLES
) -> Estimate:
    """score(subject) ÷ score(dense) − 1, with a paired bootstrap: both are computed on the same draws.

    `score` turns the ratio of sums into the metric, as `numpy.exp` does for perplexity. Where the dense score is 0
    in a draw, the change counts as 0.

    Raises:
        ValueError: the two have different numbers of samples, or the dense score is 0.
    """
    _check_pairs(len(dense.numerators), len(subject.numerators))

    def scored(sums: Sums, draw: NDArray[np.int64]) -> Floats:
        return score(ratio(sums.numerators[draw].sum(-1), sums.denominators[draw].sum(-1)))

    whole = np.arange(len(dense.numerators))
    if scored(dense, whole) == 0:
        raise ValueError("relative change: the dense score is 0, so nothing is relative to it; compare differences")
    value = scored(subject, whole) / scored(dense, whole) - 1
    replicates = []
    for draw in resamples(len(whole), seed, count):
        of_dense, of_subject = scored(dense, draw), scored(subject, draw)
        replicates.append(np.where(of_dense == 0, 0.0, ratio(of_subject, of_dense) - 1))
    return estimate(value, np.concatenate(replicates), len(whole))


def difference(dense: Sequence[float], subject: Sequence[float], seed: int = SEED, count: int = RESAMPLES) -> Estimate:
    """mean(subject) − mean(dense) with a paired percentile bootstrap.

    Raises:
        ValueError: the two have different numbers of samples.
    """
    _check_pairs(len(dense), len(subject))
    gaps = np.asarray(subject, dtype=np.float64) - np.asarray(dense, dtype=np.float64)
    replicates = np.concatenate([gaps[draw].mean(-1) for draw in resamples(len(gaps), seed, count)])
    return estimate(gaps.mean(), replicates, len(gaps))


def gap_closed(base: Sequence[float], proxy: Sequence[float], tuned: Sequence[float], seed: int = SEED) -> Estimate:
    """(proxy − base) ÷ (tuned − base) of the mean scores, with limits that hold all three on the same samples.

    The standard error is that of a bootstrap that draws the same samples for all three; where base and tuned score the
    same in a draw, no gap is there to close and the draw counts as 0. A side on which no share is ruled out has no
    limit: there the gap itself is in doubt.

    Raises:
        ValueError: the three have different numbers of samples, or base and tuned score the same.
    """
    _check_pairs(len(base), len(proxy))
    _check_pairs(len(base), len(tuned))
    start, reached, goal = (np.asarray(scores, dtype=np.float64) for scores in (base, proxy, tuned))
    if start.mean() == goal.mean():
        raise ValueError(f"gap closed: base and tuned both score {start.mean():.4g}, so there is no gap to close")
    value = float(ratio((reached - start).sum(), (goal - start).sum()))
    found = estimate(value, ratio_replicates(reached - start, goal - start, seed), len(start))
    within = all(scores.min() >= 0 and scores.max() <= 1 for scores in (start, reached, goal))
    rejected = of_scores(start, reached, goal) if within else of_units(reached - start, goal - start, len(start))
    return with_limits(found, quotient_limits(value, rejected))


def matches(relative: float, higher_is_better: bool = True, tolerance: float = MATCHING) -> bool:
    """Whether a relative change is no worse than `tolerance`: LLM-KICK's criterion (arXiv 2310.01382)."""
    return relative >= -tolerance if higher_is_better else relative <= tolerance


def retention(dense_correct: Sequence[bool], subject_correct: Sequence[bool]) -> Estimate | None:
    """Of the answers that dense had right, the share that the subject has right; None where dense had none right."""
    _check_pairs(len(dense_correct), len(subject_correct))
    kept = [bool(kept) for right, kept in zip(dense_correct, subject_correct, strict=True) if right]
    return wilson(sum(kept), len(kept)) if kept else None


def flips(
    dense_correct: Sequence[bool | None],
    subject_correct: Sequence[bool | None],
    dense_answers: Sequence[str],
    subject_answers: Sequence[str],
) -> Estimate:
    """The share of answers whose correctness or text differs between the two."""
    _check_pairs(len(dense_correct), len(subject_correct))
    pairs = zip(dense_correct, subject_correct, dense_answers, subject_answers, strict=True)
    changed = [right != now_right or text != now_text for right, now_right, text, now_text in pairs]
    return wilson(sum(changed), len(changed))


@dataclass(frozen=True)
class McNemar:
    """McNemar's test on the samples that only one of two subjects has right, with two-sided p-values."""

    first_only: int
    second_only: int
    exact: float
    mid_p: float


def mcnemar(first_correct: Sequence[bool], second_correct: Sequence[bool]) -> McNemar:
    """The exact test and its mid-p version (Fagerland, Lydersen & Laake 2013); both 1 where nothing differs."""
    _check_pairs(len(first_correct), len(second_correct))
    pairs = list(zip(first_correct, second_correct, strict=True))
    first_only = sum(1 for a, b in pairs if a and not b)
    second_only = sum(1 for a, b in pairs if b and not a)
    return mcnemar_counts(first_only, second_only)


def mcnemar_counts(first_only: int, second_only: int) -> McNemar:
    """The same from the two counts of discordant samples."""
    n, least = first_only + second_only, min(first_only, second_only)
    if n == 0:
        return McNemar(0, 0, 1.0, 1.0)
    # Whole numbers of Python do not overflow, so the tail is exact for any n.
    tail, at = sum(math.comb(n, k) for k in range(least + 1)), math.comb(n, least)
    scale = 1 << n
    exact = min(1.0, 2 * tail / scale)
    mid_p = (2 * tail - at) / scale if first_only != second_only else 1 - at / (2 * scale)
    return McNemar(first_only, second_only, exact, mid_p)


def _check_pairs(dense: int, subject: int) -> None:
    if dense != subject:
        raise ValueError(f"paired: {dense} samples against {subject}; align both by sample id first")
