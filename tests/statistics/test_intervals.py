"""Intervals equal the references, and the bootstrap does what its definition says."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from earnest.statistics.intervals import (
    bootstrap_mean,
    cluster_mean,
    mean_estimate,
    ratio_estimate,
    wilson,
    wilson_interval,
)
from earnest.statistics.limits import bounded_limits, exact_limits


def test_wilson_equals_the_reference_table(shared: Path) -> None:
    table = json.loads((shared / "parity/statistics/wilson.json").read_text())
    for case in table["cases"]:
        found = wilson_interval(case["successes"], case["n"], case["confidence"])
        assert found == pytest.approx(case["wilson"], abs=table["tolerance"]["abs"])


def test_wilson_by_hand() -> None:
    # p = 1/2, n = 4, z = 1.959964: centre 1/2, half-width z * sqrt(1/16 + z^2/64) / (1 + z^2/4)
    z = 1.959963984540054
    half = z * math.sqrt(1 / 16 + z * z / 64) / (1 + z * z / 4)
    assert wilson_interval(2, 4) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-12)
    assert wilson(2, 4).stderr == pytest.approx(math.sqrt(0.25 / 3))


def test_few_successes_have_the_exact_interval_and_many_have_wilsons() -> None:
    """Clopper & Pearson of 0 of 164 is [0, 1 − 0.025^(1/164)]; of 1 of 10, a table of theirs says 0.0025 to 0.4450."""
    none, one, many = wilson(0, 164), wilson(1, 10), wilson(30, 70)
    assert (none.low, none.high) == pytest.approx((0.0, 1 - 0.025 ** (1 / 164)))
    assert (one.low, one.high) == pytest.approx((0.0025, 0.4450), abs=5e-5)
    assert (many.low, many.high) == wilson_interval(30, 70)


@pytest.mark.parametrize("n", [10, 12, 20, 36, 51, 100, 164, 1000])
def test_a_share_is_covered_whatever_it_is(n: int) -> None:
    """Summed over all outcomes, and not simulated."""
    ends = np.array([(e.low, e.high) for e in (wilson(k, n) for k in range(n + 1))])
    for p in np.linspace(0, 1, 501):
        held = (ends[:, 0] <= p + 1e-12) & (p - 1e-12 <= ends[:, 1])
        assert binom.pmf(np.arange(n + 1), n, p)[held].sum() >= 0.93


def test_a_bounded_mean_of_right_and_wrong_is_the_exact_interval() -> None:
    for right, n in ((1, 10), (7, 20), (60, 164)):
        values = np.array([1.0] * right + [0.0] * (n - right))
        assert bounded_limits(values) == pytest.approx(exact_limits(right, n), abs=2e-3)


def test_scores_that_are_all_equal_have_an_interval() -> None:
    """0.025^(1/n) of the way from what is seen to what may be."""
    half = bootstrap_mean([0.5] * 20)
    assert (half.low, half.high) == (
        pytest.approx(0.5 * 0.025 ** (1 / 20), rel=2e-3),
        pytest.approx(1 - 0.5 * 0.025 ** (1 / 20), rel=2e-3),
    )
    full = bootstrap_mean([1.0] * 20)
    assert (full.low, full.high) == (pytest.approx(0.025 ** (1 / 20)), 1.0)


def test_counts_that_are_all_equal_have_an_interval_and_zeros_have_none() -> None:
    texts = mean_estimate([32.0] * 20)
    assert texts.low is not None
    assert texts.high is not None
    assert texts.low < 32 < texts.high
    assert mean_estimate([0.0] * 20).low is None
    assert mean_estimate([1.0, 3.0]).low is None


def test_a_mean_carries_the_sample_standard_error() -> None:
    estimate = mean_estimate([1.0, 2.0, 3.0, 4.0])
    assert estimate.value == 2.5
    assert estimate.stderr == pytest.approx(math.sqrt(5 / 3) / 2)


def test_one_sample_has_no_interval() -> None:
    for estimate in (mean_estimate([3.0]), bootstrap_mean([3.0])):
        assert (estimate.value, estimate.stderr, estimate.low, estimate.high) == (3.0, None, None, None)
    assert wilson(1, 1).stderr is None


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_estimate([])
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_mean([])
    with pytest.raises(ValueError, match="n must be at least 1"):
        wilson(0, 0)


def test_the_bootstrap_of_a_mean_agrees_with_the_standard_error() -> None:
    values = np.random.default_rng(3).normal(size=400)
    assert bootstrap_mean(values).stderr == pytest.approx(values.std() / 20, rel=0.06)


def test_the_bootstrap_is_the_same_every_time() -> None:
    assert bootstrap_mean([0.1, 0.9, 0.4]) == bootstrap_mean([0.1, 0.9, 0.4])


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    assert ratio_estimate([1.0, 9.0], [10.0, 10.0]).value == 0.5
    assert ratio_estimate([1.0, 0.0], [1.0, 9.0]).value == pytest.approx(0.1)


def test_clusters_widen_the_interval_where_their_statements_agree() -> None:
    """Sixty statements in ten biographies that are each all true or all false are worth ten, not sixty."""
    whole = ratio_estimate([6.0] * 5 + [0.0] * 5, [6.0] * 10)
    single = ratio_estimate([1.0] * 30 + [0.0] * 30, [1.0] * 60)
    assert whole.stderr is not None
    assert single.stderr is not None
    assert whole.stderr == pytest.approx(single.stderr * math.sqrt(6), rel=0.1)


def test_a_ratio_of_nothing_is_zero() -> None:
    estimate = ratio_estimate([0.0, 0.0], [0.0, 0.0])
    assert (estimate.value, estimate.low, estimate.high) == (0.0, 0.0, 1.0)


def test_a_clustered_mean_draws_whole_clusters() -> None:
    """Ten subjects of six questions that are each all right or all wrong are worth ten answers."""
    values, subjects = [1.0] * 30 + [0.0] * 30, [f"subject {i // 6}" for i in range(60)]
    found, alone = cluster_mean(values, subjects), bootstrap_mean(values)
    assert (found.value, found.n) == (0.5, 10)
    assert alone.stderr is not None
    assert found.stderr == pytest.approx(alone.stderr * math.sqrt(6), rel=0.1)
    assert cluster_mean([1.0, 0.0, 0.0], ["a", "b", "b"]).value == pytest.approx(1 / 3)
    with pytest.raises(ValueError, match="name one for each"):
        cluster_mean([1.0], [])
