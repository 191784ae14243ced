"""The BCa interval equals scipy's, and covers what it should."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from earnest.statistics.bca import bca_difference
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs


def skewed(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    dense = generator.exponential(size=n)
    return dense, dense + generator.exponential(0.5, size=n) - 0.3


def test_bca_equals_scipys_on_a_mean() -> None:
    dense, subject = skewed(60, 0)
    found = bca_difference(Pairs.of_scores(list(dense), list(subject)), count=20_000)
    expected = bootstrap((subject - dense,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.01)


def test_bca_equals_scipys_on_a_difference_of_perplexities() -> None:
    generator = np.random.default_rng(2)
    tokens = generator.integers(5, 40, size=80).astype(float)
    dense = tokens * generator.gamma(4, 0.25, size=80)
    subject = dense + tokens * generator.gamma(1, 0.1, size=80)

    def statistic(a: np.ndarray, b: np.ndarray, t: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.exp(b.sum(axis) / t.sum(axis)) - np.exp(a.sum(axis) / t.sum(axis))

    pairs = Pairs(Sums(dense, tokens), Sums(subject, tokens), higher_is_better=False, scale="log")
    found = bca_difference(pairs, count=20_000)
    expected = bootstrap(
        (dense, subject, tokens), statistic, n_resamples=20_000, method="BCa", paired=True, rng=1
    ).confidence_interval  # fmt: skip
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=0.03)


def test_bca_covers_the_mean_of_skewed_differences() -> None:
    covered = 0
    for seed in range(200):
        dense, subject = skewed(80, seed)
        found = bca_difference(Pairs.of_scores(list(dense), list(subject)), count=500)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.2 <= found.high
    assert covered >= 180


def test_equal_subjects_differ_by_exactly_nothing() -> None:
    found = bca_difference(Pairs.of_scores([1, 0, 1, 1], [1, 0, 1, 1]))
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_one_sample_has_no_interval() -> None:
    assert bca_difference(Pairs.of_scores([1.0], [0.0])).low is None


def test_clusters_that_move_together_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    shift = np.repeat(generator.normal(size=20), 10)
    pairs = Pairs.of_scores([0.0] * 200, list(shift))
    alone, together = bca_difference(pairs), bca_difference(pairs.by_cluster([i // 10 for i in range(200)]))
    assert together.n == 20
    assert together.value == pytest.approx(alone.value)
    assert alone.stderr is not None
    assert together.stderr == pytest.approx(alone.stderr * np.sqrt(10), rel=0.1)
