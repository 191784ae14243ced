"""Few clusters, rare losses and heavy tails make no verdicts up: errors by simulation on the margin, power off it."""

from collections.abc import Callable

import numpy as np
import pytest
from benchmarks.verdict_errors import biographies, clusters, perplexities
from scipy.stats import binom

from earnest.statistics.equivalence import samples_needed, tost
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs

Make = Callable[[np.random.Generator], Pairs]
# On the margin, exactly 5 % worse: a "no worse" or a "falls" is wrong.
NULLS: dict[str, Make] = {
    "2 clusters": lambda rng: clusters(rng, 2, 50, 0.9, 0.3, 0.05),
    "20 clusters": lambda rng: clusters(rng, 20, 30, 0.98, 0.3, 0.05),
    "57 clusters": lambda rng: clusters(rng, 57, 50, 0.5, 0.3, 0.05),
    "clusters of unequal size": lambda rng: clusters(rng, 30, 30, 0.9, 0.1, 0.05, uneven=True),
    "30 biographies": lambda rng: biographies(rng, 30, 0.3, 0.05),
    "60 windows, heavy tails": lambda rng: perplexities(rng, 60, 3, 0.05),
}
REPEATED = 250


@pytest.mark.slow
@pytest.mark.parametrize("name", NULLS)
def test_a_wrong_claim_is_as_rare_as_promised(name: str) -> None:
    generator, matched, fell = np.random.default_rng(11), 0, 0
    for _ in range(REPEATED):
        claims = tost(NULLS[name](generator))
        matched += claims.no_worse <= 0.05
        fell += claims.falls <= 0.05
    most = binom.ppf(0.995, REPEATED, 0.05)
    assert matched <= most
    assert fell <= most


def test_a_hundred_clusters_show_what_is_there() -> None:
    generator = np.random.default_rng(12)
    alike = [tost(clusters(generator, 100, 20, 0.9, 0.05, 0.005)).verdict() for _ in range(20)]
    worse = [tost(clusters(generator, 100, 20, 0.9, 0.05, 0.15)).verdict() for _ in range(20)]
    assert alike.count("matches") >= 19
    assert worse.count("falls") >= 19


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_clusters_decide_nothing(count: int) -> None:
    names = [str(i % count) for i in range(400)]
    same = Pairs.of_scores([1.0] * 400, [1.0] * 400).by_cluster(names)
    lost = Pairs.of_scores([1.0] * 400, [0.0] * 400).by_cluster(names)
    assert [tost(pairs).verdict() for pairs in (same, lost)] == ["not decided"] * 2


def test_clusters_that_are_all_alike_show_no_more_than_their_number() -> None:
    """No loss in 6 clusters of 50 proves little about clusters; a collapse in all 6 proves much."""
    names = [str(i // 50) for i in range(300)]
    assert tost(Pairs.of_scores([1.0] * 300, [1.0] * 300).by_cluster(names)).verdict() == "not decided"
    assert tost(Pairs.of_scores([1.0] * 300, [0.0] * 300).by_cluster(names)).verdict() == "falls"


def test_one_cluster_that_holds_almost_all_counts_as_one() -> None:
    """Kish's (Σ w)² ÷ Σ w²: one of 900 and nineteen of 5 are worth 1.22 clusters."""
    sizes = np.array([900.0] + [5.0] * 19)
    pairs = Pairs(Sums(sizes, sizes), Sums(sizes, sizes))
    assert pairs.effective == pytest.approx(995**2 / (900**2 + 19 * 25))
    assert tost(pairs).verdict() == "not decided"


def test_equal_clusters_are_worth_their_number() -> None:
    assert Pairs.of_scores([1.0] * 40, [0.0] * 40).by_cluster([i % 8 for i in range(40)]).effective == pytest.approx(8)
    assert Pairs.of_scores([1.0] * 40, [0.5] * 40).effective == 40


def test_the_clusters_needed_decide_as_often_as_asked() -> None:
    generator = np.random.default_rng(13)
    need = samples_needed(clusters(generator, 400, 20, 0.9, 0.1, 0.01))
    assert need is not None
    decided = [tost(clusters(generator, need, 20, 0.9, 0.1, 0.01)).verdict() == "matches" for _ in range(200)]
    assert 0.65 <= np.mean(decided) <= 0.99
