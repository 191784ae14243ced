"""What is claimed at the matching margin is shown: sizes by simulation, small samples by hand, needs by power."""

import math

import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp

from earnest.records import NO_WORSE
from earnest.statistics.bounded import p_above_zero
from earnest.statistics.equivalence import Claims, _t_above, holm_claims, samples_needed, tost
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs


def answers(both: int, dense_only: int, subject_only: int, neither: int) -> Pairs:
    """Pairs of right and wrong by their four counts."""
    dense = [1.0] * (both + dense_only) + [0.0] * (subject_only + neither)
    subject = [1.0] * both + [0.0] * dense_only + [1.0] * subject_only + [0.0] * neither
    return Pairs.of_scores(dense, subject)


def test_on_right_and_wrong_the_bounded_test_is_the_binomial_test() -> None:
    for n, wrong, share in ((5, 0, 0.5), (60, 0, 0.95), (60, 2, 0.95), (200, 5, 0.95), (1000, 40, 0.95)):
        values = np.r_[np.ones(n - wrong), np.zeros(wrong)] - share
        expected = binom.sf(n - wrong - 1, n, share)  # P(as many right or more) where the share is just not reached
        assert p_above_zero(values, -share) == pytest.approx(expected, rel=0.03)


def test_the_bounded_test_is_the_share_of_random_weights_that_do_not_reach_zero() -> None:
    values = np.random.default_rng(0).uniform(-0.4, 0.6, size=25)
    weights = np.random.default_rng(1).dirichlet(np.ones(26), size=200_000)
    expected = ((weights @ np.append(values, -1.0)) <= 0).mean()
    assert p_above_zero(values, -1.0) == pytest.approx(expected, rel=0.02)


def test_the_bounded_test_has_no_step_where_the_mean_is_zero() -> None:
    around = [p_above_zero(np.array([1.0 + shift, 0.2, -0.2]), -1.0) for shift in (-1e-3, -1e-6, 0.0, 1e-6, 1e-3)]
    assert around == sorted(around, reverse=True)
    assert max(around) - min(around) < 1e-3


def test_ten_agreeing_answers_show_nothing_and_sixty_do() -> None:
    assert tost(answers(10, 0, 0, 0)).verdict() == "not decided"
    # 0.95^59 = 0.0485: the first n at which no loss rules out one of 5 %
    assert tost(answers(58, 0, 0, 0)).no_worse > 0.05
    assert tost(answers(60, 0, 0, 0)).no_worse < 0.05


@pytest.mark.parametrize(
    ("counts", "verdict"),
    [
        ((880, 10, 10, 100), "matches"),
        ((500, 400, 10, 90), "falls"),
        ((500, 10, 400, 90), "rises"),
        ((800, 10, 60, 130), "no worse"),
        ((80, 6, 4, 10), "not decided"),
    ],
)
def test_the_verdict_says_what_the_counts_show(counts: tuple[int, int, int, int], verdict: str) -> None:
    assert tost(answers(*counts)).verdict() == verdict


def test_a_real_drop_that_may_be_within_the_margin_is_not_called_a_fall() -> None:
    claims = tost(answers(850, 60, 20, 70))  # 91 % to 87 %: certainly lower, by 4.4 % of dense
    assert claims.verdict() == "not decided"


def test_where_lower_is_better_more_is_a_fall() -> None:
    toxic = answers(100, 0, 300, 600)
    assert tost(toxic).verdict() == "rises"
    assert tost(Pairs(toxic.dense, toxic.subject, higher_is_better=False)).verdict() == "falls"


def test_dense_at_zero_decides_nothing_but_a_rise() -> None:
    assert tost(answers(0, 0, 0, 200)).verdict() == "not decided"
    assert tost(answers(0, 0, 150, 50)).verdict() == "rises"


def test_unbounded_scores_are_tested_by_a_t_on_the_contrast() -> None:
    """Mirrored around its mean, a contrast has no skewness, and Hall's t is Student's."""
    half = np.random.default_rng(4).normal(0, 4.0, size=150)
    dense = np.full(300, 5.0)
    subject = dense - 0.25 - 0.2 + np.r_[half, -half]
    expected = ttest_1samp(0.95 * dense - subject, 0, alternative="greater").pvalue
    assert tost(Pairs.of_scores(list(dense), list(subject))).falls >= 2 * expected
    values = 0.95 * dense - subject
    assert _t_above(values, 300) == pytest.approx(expected, rel=1e-9)


def test_what_thirty_windows_cannot_hide_is_decided_and_what_they_can_is_not() -> None:
    """A loss in one window of twenty goes unseen in thirty with probability 0.95^30 = 0.21."""
    tokens = np.full(30, 100.0)
    same = Pairs(Sums(tokens, tokens), Sums(tokens, tokens), False, "log")
    assert tost(same).no_worse == pytest.approx(0.95**30)
    worse = Pairs(Sums(tokens, tokens), Sums(tokens * (1 + math.log(1.3)), tokens), False, "log")
    assert tost(worse).verdict() == "falls"


def test_rare_large_losses_are_not_called_a_match_too_soon() -> None:
    """Perplexity at exactly 1.05 of dense's, by exponential losses per document: "no worse" would be luck."""
    generator, matched, fell = np.random.default_rng(8), 0, 0
    for _ in range(1000):
        tokens = generator.integers(20, 60, size=150).astype(float)
        nats = tokens * generator.gamma(4, 0.25, size=150)
        worse = Sums(nats + tokens * (math.log(1.05) + 0.15 * (generator.exponential(size=150) - 1)), tokens)
        claims = tost(Pairs(Sums(nats, tokens), worse, higher_is_better=False, scale="log"))
        matched += claims.no_worse <= 0.05
        fell += claims.falls <= 0.05
    assert matched <= 70
    assert fell <= 38


def test_perplexity_is_compared_by_its_logarithm() -> None:
    tokens = np.full(150, 100.0)
    nats = tokens * np.random.default_rng(5).gamma(4, 0.25, size=150)
    for factor, verdict in ((1.03, "matches"), (1.08, "falls"), (0.9, "rises")):
        subject = Sums(nats + tokens * math.log(factor), tokens)
        assert tost(Pairs(Sums(nats, tokens), subject, False, "log")).verdict() == verdict


@pytest.mark.parametrize(("right", "agree", "n"), [(0.9, 0.95, 200), (0.5, 0.8, 100), (0.98, 0.99, 400)])
def test_a_subject_on_the_margin_is_called_a_match_as_rarely_as_promised(right: float, agree: float, n: int) -> None:
    """The null hypothesis at its edge: the subject's true score is exactly 95 % of dense's."""
    generator = np.random.default_rng(6)
    gained = (1 - agree) / 4
    lost = 0.05 * right + gained
    matched = fell = 0
    for _ in range(1000):
        both, dense_only, subject_only, neither = generator.multinomial(
            n, [right - lost, lost, gained, 1 - right - gained]
        )
        claims = tost(answers(both, dense_only, subject_only, neither))
        matched += claims.no_worse <= 0.05
        fell += claims.falls <= 0.05
    assert matched <= 65  # 50 expected at most; 65 is two standard errors above
    assert fell <= 38  # one side of a two-sided 5 %


def test_holm_makes_claims_of_a_family_no_easier() -> None:
    family = [tost(answers(880, 10, 10, 100)), tost(answers(500, 400, 10, 90)), Claims(0.02, 0.02, 1, 1)]
    adjusted = holm_claims(family)
    assert [claims.verdict() for claims in adjusted] == ["matches", "falls", "matches"]
    assert [claims.verdict() for claims in holm_claims([Claims(0.03, 0.03, 1, 1)] * 2)] == ["not decided"] * 2


@pytest.mark.slow
def test_a_sweep_of_cells_on_the_margin_makes_a_wrong_claim_of_a_kind_as_rarely_as_a_single_one() -> None:
    """20 cells against one dense model, all truly 5 % worse: the claims of 100 such sweeps, each kind wrong in 5 %."""
    generator = np.random.default_rng(1)
    gain, sweeps = 0.05, 100
    lose = (0.8 * 0.05 + 0.2 * gain) / 0.8  # of right answers, so that 80 % become 76 %
    no_worse = falls = 0
    for _ in range(sweeps):
        dense = generator.random(300) < 0.8
        draws = generator.random((20, 300))
        cells = [np.where(dense, draw >= lose, draw < gain) for draw in draws]
        family = [Pairs.of_scores(dense.astype(float), cell.astype(float)) for cell in cells]
        verdicts = [claims.verdict() for claims in holm_claims([tost(pairs) for pairs in family])]
        no_worse += any(verdict in NO_WORSE for verdict in verdicts)
        falls += "falls" in verdicts
    most = binom.ppf(0.99, sweeps, 0.05)
    assert no_worse <= most
    assert falls <= most


def test_the_samples_needed_decide_as_often_as_asked() -> None:
    """Draw as many as the pilot says: about 80 % of such studies reach the verdict."""
    need = samples_needed(answers(880, 20, 20, 80))
    assert need is not None
    generator, matched = np.random.default_rng(7), 0
    for _ in range(300):
        both, dense_only, subject_only, neither = generator.multinomial(need, [0.88, 0.02, 0.02, 0.08])
        matched += tost(answers(both, dense_only, subject_only, neither)).verdict() == "matches"
    assert 0.72 <= matched / 300 <= 0.95


def test_more_tests_and_nearer_margins_need_more_samples() -> None:
    near, far = samples_needed(answers(840, 60, 30, 70)), samples_needed(answers(600, 300, 30, 70))
    assert near is not None
    assert far is not None
    assert near > far
    alone, family = samples_needed(answers(85, 5, 4, 6)), samples_needed(answers(85, 5, 4, 6), tests=10)
    assert alone is not None
    assert family is not None
    assert family > alone


def test_on_the_margin_no_number_of_samples_is_named() -> None:
    assert samples_needed(answers(950, 50, 0, 0)) is None
    assert samples_needed(answers(0, 0, 0, 50)) is None


def test_a_margin_outside_zero_and_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"margin 5.*0\.05"):
        tost(answers(1, 1, 1, 1), margin=5)


def test_units_must_pair_up() -> None:
    with pytest.raises(ValueError, match="same ones"):
        Pairs.of_scores([1.0], [1.0, 0.0])
    with pytest.raises(ValueError, match="same ones"):
        Pairs.of_scores([], [])
