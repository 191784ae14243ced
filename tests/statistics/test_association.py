"""What goes together is found with the right sign, and what does not is not."""

import math

import numpy as np
import pytest

from earnest.statistics.association import effects, spearman, uneven


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_rank_correlation_and_its_exact_test_are_those_of_the_hand_calculation() -> None:
    """Ranks 1..5 against 2, 1, 4, 3, 5: 1 - 6 * 4 / (5 * 24) = 0.8; 16 of 120 orders are as far from 0."""
    found = spearman(np.array([1.0, 2, 3, 4, 5]), np.array([20.0, 10, 400, 300, 5000]))
    assert found is not None
    assert found.estimate.value == pytest.approx(0.8)
    assert found.p == pytest.approx(16 / 120)
    assert found.estimate.n == 5


def test_rank_correlation_is_scipys_and_so_is_its_p_value_where_both_are_good(rng: np.random.Generator) -> None:
    from scipy.stats import spearmanr

    x = rng.normal(size=40).round(1)
    y = 0.4 * x + rng.normal(size=40).round(1)
    found, theirs = spearman(x, y), spearmanr(x, y)
    assert found is not None
    assert found.estimate.value == pytest.approx(theirs.statistic)
    assert found.p == pytest.approx(theirs.pvalue, abs=0.02)
    assert found.estimate.low < found.estimate.value < found.estimate.high  # type: ignore[operator]


def test_five_units_in_perfect_order_show_no_certainty() -> None:
    found = spearman(np.arange(5.0), np.arange(5.0))
    assert found is not None
    assert found.estimate.value == found.estimate.high == pytest.approx(1.0)
    assert found.estimate.low is not None
    assert found.estimate.low < 0.5


def test_an_outcome_that_never_changes_has_no_interval(rng: np.random.Generator) -> None:
    found = effects({"cause": rng.normal(size=40)}, np.zeros(40))["cause"].estimate
    assert (found.value, found.low, found.high) == (0.0, None, None)


def test_of_few_or_constant_units_nothing_is_said() -> None:
    assert spearman(np.arange(4.0), np.arange(4.0)) is None
    assert spearman(np.ones(9), np.arange(9.0)) is None


def test_one_reason_of_two_values_is_a_difference_of_means_with_its_robust_error() -> None:
    """HC3 of two groups, by hand: the sum over both of (squared residuals) / (n - 1)^2."""
    group = np.array([0.0] * 20 + [1.0] * 30)
    outcome = np.array([0.0] * 15 + [1.0] * 5 + [0.0] * 10 + [1.0] * 20)
    found = effects({"group": group}, outcome)["group"].estimate
    spread = group.std(ddof=1)
    variance = (20 * 0.25 * 0.75) / 19**2 + (30 * (1 / 3) * (2 / 3)) / 29**2
    assert found.value == pytest.approx((20 / 30 - 5 / 20) * spread)
    assert found.stderr == pytest.approx(np.sqrt(variance) * spread)


def test_a_planted_reason_is_told_from_the_one_that_only_goes_with_it(rng: np.random.Generator) -> None:
    cause = rng.normal(size=4000)
    companion = 0.8 * cause + 0.6 * rng.normal(size=4000)
    forgotten = (rng.random(4000) < 0.3 + 0.1 * cause).astype(float)
    found = effects({"cause": cause, "companion": companion, "none": rng.normal(size=4000)}, forgotten)
    assert found["cause"].p < 1e-6
    assert found["cause"].estimate.value == pytest.approx(0.1, abs=0.02)
    assert found["companion"].p > 0.05
    assert found["none"].p > 0.05


def test_where_nothing_is_planted_five_in_a_hundred_are_found(rng: np.random.Generator) -> None:
    found = [effects({"x": rng.normal(size=60)}, (rng.random(60) < 0.3).astype(float))["x"].p for _ in range(600)]
    assert 0.025 < np.mean(np.array(found) < 0.05) < 0.08


def test_reasons_that_tell_nothing_new_are_left_out(rng: np.random.Generator) -> None:
    x = rng.normal(size=50)
    assert set(effects({"x": x, "twice": 2 * x + 1, "constant": np.full(50, 0.1)}, rng.normal(size=50))) == {"x"}
    assert effects({"x": x[:29]}, x[:29]) == {}


def test_groups_that_differ_are_told_from_those_that_do_not(rng: np.random.Generator) -> None:
    """Two groups of 0 and 1, by hand: H = (n - 1) / n times chi squared of the two-by-two table."""
    values = np.array([1.0] * 8 + [0.0] * 12 + [1.0] * 16 + [0.0] * 4)
    chi = 40 * (8 * 4 - 12 * 16) ** 2 / (20 * 20 * 24 * 16)
    p = uneven(values, ["a"] * 20 + ["b"] * 20)
    assert p == pytest.approx(math.erfc(math.sqrt(chi * 39 / 40 / 2)))
    found = [uneven((rng.random(90) < 0.3).astype(float), ["a", "b", "c"] * 30) or 1.0 for _ in range(300)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.08


def test_groups_without_a_difference_to_be_had_say_nothing() -> None:
    assert uneven(np.ones(9), ["a", "b", "c"] * 3) is None
    assert uneven(np.arange(9.0), ["a"] * 9) is None
