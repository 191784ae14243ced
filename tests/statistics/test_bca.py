"""The BCa interval equals scipy's, and covers what it should."""

import numpy as np
import pytest
from scipy.stats import bootstrap

from earnest.statistics.bca import bca_difference, bca_interval
from earnest.statistics.intervals import resamples
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs


def skewed(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    dense = generator.exponential(size=n)
    return dense, dense + generator.exponential(0.5, size=n) - 0.3


def bca_of(pairs: Pairs) -> tuple[float, float]:
    draws = np.concatenate([pairs.difference(draw) for draw in resamples(pairs.n, count=20_000)])
    return bca_interval(float(pairs.difference()), draws, pairs.differences_without())


def test_bca_equals_scipys_on_a_mean() -> None:
    dense, subject = skewed(60, 0)
    found = bca_of(Pairs.of_scores(list(dense), list(subject)))
    expected = bootstrap((subject - dense,), np.mean, n_resamples=20_000, method="BCa", rng=1).confidence_interval
    assert found == pytest.approx(tuple(expected), abs=0.01)


def test_bca_equals_scipys_on_a_difference_of_perplexities() -> None:
    generator = np.random.default_rng(2)
    tokens = generator.integers(5, 40, size=80).astype(float)
    dense = tokens * generator.gamma(4, 0.25, size=80)
    subject = dense + tokens * generator.gamma(1, 0.1, size=80)

    def statistic(a: np.ndarray, b: np.ndarray, t: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.exp(b.sum(axis) / t.sum(axis)) - np.exp(a.sum(axis) / t.sum(axis))

    pairs = Pairs(Sums(dense, tokens), Sums(subject, tokens), higher_is_better=False, scale="log")
    found = bca_of(pairs)
    expected = bootstrap(
        (dense, subject, tokens), statistic, n_resamples=20_000, method="BCa", paired=True, rng=1
    ).confidence_interval  # fmt: skip
    assert found == pytest.approx(tuple(expected), rel=0.03)


def test_bca_covers_the_mean_of_skewed_differences() -> None:
    covered = 0
    for seed in range(200):
        dense, subject = skewed(80, seed)
        found = bca_difference(Pairs.of_scores(list(dense), list(subject)), count=500)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.2 <= found.high
    assert covered >= 180


@pytest.mark.parametrize("n", [4, 10, 164])
def test_equal_subjects_may_differ_by_what_was_not_seen(n: int) -> None:
    """No change in n samples: a change of a share above 1 − 0.025^(1/n) would have been seen with 97.5 %."""
    found = bca_difference(Pairs.of_scores([1.0] * n, [1.0] * n))
    unseen = 1 - 0.025 ** (1 / n)
    assert (found.value, found.low, found.high) == (
        0.0,
        pytest.approx(-unseen, rel=0.01),
        pytest.approx(unseen, rel=0.01),
    )


def test_right_and_wrong_differ_where_the_exact_sign_test_says_so() -> None:
    """Six lost and none won: 2 · 2^-6 = 0.031; five lost: 0.0625."""
    six, five = (bca_difference(Pairs.of_scores([1.0] * 50, [0.0] * k + [1.0] * (50 - k))) for k in (6, 5))
    assert six.high is not None
    assert five.high is not None
    assert six.high < 0 < five.high


def test_two_clusters_of_equal_answers_say_little_of_a_third() -> None:
    names = ["one"] * 5 + ["two"] * 5
    found = bca_difference(Pairs.of_scores([1.0] * 10, [1.0] * 10).by_cluster(names))
    assert (found.low, found.high) == (pytest.approx(-0.84, abs=0.01), pytest.approx(0.84, abs=0.01))


def test_a_difference_of_perplexities_is_on_the_side_that_their_ratio_is_shown_to_be_on() -> None:
    """Windows are of very unequal difficulty, and all lose alike."""
    tokens, nats = np.full(12, 100.0), np.linspace(20, 400, 12)
    pairs = Pairs(Sums(nats, tokens), Sums(nats + np.linspace(9, 11, 12), tokens), higher_is_better=False, scale="log")
    found = bca_difference(pairs)
    assert found.low is not None
    assert found.low > 0


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
