"""Shares of a gap are paired, direction-free, and not given where there is no gap."""

import numpy as np
import pytest

from earnest.statistics.gaps import Headline, difference, share_closed
from earnest.statistics.intervals import RESAMPLES, SEED
from earnest.statistics.paired import Sums, gap_closed, relative_change


def right(count: int, n: int = 200, seed: int = 0) -> list[float]:
    order = np.random.default_rng(seed).permutation(n)
    return [float(place < count) for place in order]


def of_scores(scores: list[float]) -> Headline:
    return Headline(Sums.of_scores(scores))


def test_the_share_of_a_gap_between_means_is_that_of_gap_closed() -> None:
    base, proxy, tuned = right(20), right(130, seed=1), right(150, seed=2)
    found = share_closed(*map(of_scores, (base, proxy, tuned)))
    assert found is not None
    expected = gap_closed(base, proxy, tuned)
    assert found.model_dump() == pytest.approx(expected.model_dump(), rel=1e-9)


def test_perplexity_that_falls_closes_a_gap_too() -> None:
    rng = np.random.default_rng(1)
    tokens = rng.integers(20, 60, 50).astype(float)
    nats = rng.uniform(1.0, 1.2, 50) * tokens
    start, reached, goal = (Headline(Sums(nats + more * tokens, tokens), exponential=True) for more in (0.5, 0.2, 0.1))
    found = share_closed(start, reached, goal)
    assert found is not None
    assert found.value == pytest.approx((np.exp(0.2) - np.exp(0.5)) / (np.exp(0.1) - np.exp(0.5)))
    # every draw multiplies all three by one factor, so nothing is left to chance
    assert found.stderr == pytest.approx(0, abs=1e-9)


def test_where_no_gap_is_shown_no_share_is_given() -> None:
    same = right(100)
    nearly = [1.0 - same[0], *same[1:]]
    assert share_closed(*map(of_scores, (same, right(150), same))) is None
    assert share_closed(*map(of_scores, (same, right(150), nearly))) is None


def test_a_difference_is_paired() -> None:
    base = right(100)
    better = [1.0] * 10 + base[10:]
    found = difference(of_scores(base), of_scores(better))
    assert found.value == pytest.approx((sum(better) - sum(base)) / 200)
    alone = np.std(base, ddof=1) / np.sqrt(200)
    assert found.stderr is not None
    assert found.stderr < alone


def test_draws_are_those_of_the_other_paired_statistics() -> None:
    a, b = Sums.of_scores(right(80)), Sums.of_scores(right(90, seed=1))
    replicates = Headline(b).replicates / Headline(a).replicates - 1
    assert len(replicates) == RESAMPLES
    assert relative_change(a, b, seed=SEED).stderr == pytest.approx(float(replicates.std()))


def test_subjects_of_different_samples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[199, 200\] samples; align"):
        difference(of_scores(right(10, 199)), of_scores(right(10)))
