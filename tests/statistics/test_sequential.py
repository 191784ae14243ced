"""Betting is exact: its capital is a fair game, its errors stay within what was asked, and it stops early."""

from itertools import product

import numpy as np
import pytest

from earnest.statistics.sequential import confidence_sequence, decide, log_capital


def test_the_capital_is_a_fair_game_where_the_mean_is_zero() -> None:
    """Over all sequences of six draws from {−0.5, 0, 1} with mean 0, the expected capital is exactly 1."""
    chances = {-0.5: 0.4, 0.0: 0.4, 1.0: 0.2}
    expected = sum(
        float(np.prod([chances[value] for value in path])) * np.exp(log_capital(np.array(path), -0.5))
        for path in product(chances, repeat=6)
    )
    assert expected == pytest.approx(np.ones(6), abs=1e-12)


def pairs_at(generator: np.random.Generator, n: int, right: float, lost: float, gained: float) -> tuple[list, list]:
    """Dense's and the subject's scores: right together, dense alone, subject alone, neither."""
    kinds = generator.choice(4, size=n, p=[right - lost, lost, gained, 1 - right - gained])
    return [float(kind < 2) for kind in kinds], [float(kind in (0, 2)) for kind in kinds]


def test_a_subject_on_the_margin_is_called_wrong_at_most_as_often_as_asked() -> None:
    """At exactly 95 % of dense, looked at after every one of 1,000 samples: "matches" or "falls" would both be luck."""
    generator, matched, fell = np.random.default_rng(0), 0, 0
    for _ in range(1000):
        decision = decide(*pairs_at(generator, 1000, 0.9, 0.9 * 0.05 + 0.02, 0.02))
        matched += decision.verdict == "matches"
        fell += decision.verdict == "falls"
    assert matched <= 50 + 2 * np.sqrt(1000 * 0.05 * 0.95)
    assert fell <= 25 + 2 * np.sqrt(1000 * 0.025 * 0.975)


def test_a_hopeless_cell_is_decided_after_a_few_samples() -> None:
    decision = decide(*pairs_at(np.random.default_rng(1), 1000, 0.9, 0.6, 0.0))
    assert decision.verdict == "falls"
    assert decision.samples < 60


def test_an_equal_subject_is_decided_before_the_end() -> None:
    decision = decide(*pairs_at(np.random.default_rng(2), 3000, 0.9, 0.01, 0.01))
    assert decision.verdict == "matches"
    assert decision.samples < 1500


def test_a_decision_does_not_change_with_what_comes_after_it() -> None:
    dense, subject = pairs_at(np.random.default_rng(3), 500, 0.9, 0.3, 0.0)
    first = decide(dense, subject)
    assert decide(dense[: first.samples], subject[: first.samples]) == first
    assert decide(dense[: first.samples - 1], subject[: first.samples - 1]).verdict == "not decided"


def test_few_samples_decide_nothing() -> None:
    decision = decide([1.0] * 5, [1.0] * 5)
    assert (decision.verdict, decision.samples) == ("not decided", 5)


def test_where_lower_is_better_a_rising_share_falls() -> None:
    dense, subject = [0.0, 1.0, 0.0, 0.0] * 50, [1.0, 1.0, 0.0, 1.0] * 50
    assert decide(dense, subject).verdict == "rises"
    assert decide(dense, subject, higher_is_better=False).verdict == "falls"


def test_the_confidence_sequence_holds_the_mean_at_all_times() -> None:
    generator, missed = np.random.default_rng(4), 0
    for _ in range(200):
        values = generator.choice([-1.0, 0.0, 1.0], size=300, p=[0.15, 0.8, 0.05])
        low, high = confidence_sequence(list(values), steps=80)
        missed += bool((low > -0.1).any() or (high < -0.1).any())
    assert missed <= 10 + 2 * np.sqrt(200 * 0.05 * 0.95)


def test_the_confidence_sequence_only_narrows_and_closes_in() -> None:
    values = np.random.default_rng(5).choice([-1.0, 0.0], size=2000, p=[0.2, 0.8])
    low, high = confidence_sequence(list(values))
    assert (np.diff(low) >= 0).all()
    assert (np.diff(high) <= 0).all()
    assert low[-1] < values.mean() < high[-1]
    assert high[-1] - low[-1] < 0.12


def test_scores_outside_their_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        decide([7.0], [8.0])
    with pytest.raises(ValueError, match="at least one"):
        decide([], [])
    with pytest.raises(ValueError, match="within"):
        confidence_sequence([1.5])
