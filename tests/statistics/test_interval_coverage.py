"""Every kind of interval that users see holds the truth at least 93 % of the time, and none has a width of zero."""

import pytest
from benchmarks.interval_coverage import Make

from benchmarks import interval_coverage as simulated
from earnest.records import Verdict
from earnest.statistics.bca import bca_difference
from earnest.statistics.equivalence import tost
from earnest.statistics.pairs import Pairs

REPEATED = 200
KINDS: dict[str, tuple[Make, float]] = {
    "0/1 mean 0.05, n 10": (simulated.binary_mean(10, 0.05), 0.05),
    "0/1 mean 0.05, n 30": (simulated.binary_mean(30, 0.05), 0.05),
    "0/1 mean 0.99, n 164": (simulated.binary_mean(164, 0.99), 0.99),
    "0/1 mean 1, n 164": (simulated.binary_mean(164, 1.0), 1.0),
    "mostly 1, n 10": simulated.graded(10, "mostly 1"),
    "rarely above 0, n 30": simulated.graded(30, "rarely above 0"),
    "normal counts, n 10": simulated.unbounded(10, "normal"),
    "exponential counts, n 20": simulated.unbounded(20, "exponential"),
    "biographies 0.9, n 10": (simulated.biographies(10, 0.9), 0.9),
    "KL, lognormal, n 30": simulated.divergence(30, 1.0),
    "difference −0.0196, n 10": simulated.difference(10, 0.98, 0.02, 0.0),
    "difference −0.0196, n 100": simulated.difference(100, 0.98, 0.02, 0.0),
    "difference of nothing, n 30": simulated.difference(30, 0.9, 0.0, 0.0),
    "difference, graded, n 20": simulated.graded_difference(20),
    "perplexity difference, n 10": simulated.perplexity_difference(10, 1, 0.05),
    "perplexity difference, n 100": simulated.perplexity_difference(100, 1, 1.0),
    "gap closed, n 30": simulated.gap(30),
    "ECE, calibrated, n 30": simulated.calibration(30, 1.0),
    "ECE, not calibrated, n 100": simulated.calibration(100, 0.85),
    "2 clusters": (simulated.clustered(2, 20, 0.5, 0.3), 0.5),
    "5 clusters": (simulated.clustered(5, 20, 0.9, 0.1), 0.9),
    "20 clusters": (simulated.clustered(20, 20, 0.98, 0.3), 0.98),
    "50 clusters": (simulated.clustered(50, 20, 0.5, 0.3), 0.5),
    "difference in 5 clusters": simulated.clustered_difference(5, 20, 0.9, 0.3),
    "difference in 50 clusters": simulated.clustered_difference(50, 20, 0.9, 0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_an_interval_holds_the_truth(kind: str) -> None:
    make, truth = KINDS[kind]
    found = simulated.coverage(make, truth, REPEATED, seed=7)
    assert found.held >= 0.93
    assert found.flat == 0


@pytest.mark.parametrize(("right", "lost"), [(40, 9), (60, 12), (100, 100), (30, 0), (100, 1)])
def test_an_interval_and_the_verdict_of_the_same_samples_agree(right: int, lost: int) -> None:
    _agree(Pairs.of_scores([1.0] * right, [0.0] * lost + [1.0] * (right - lost)))


@pytest.mark.parametrize("lost", [0, 1, 2, 4, 8, 20])
def test_an_interval_and_the_verdict_of_the_same_clusters_agree(lost: int) -> None:
    subject = [float(i % 20 >= lost) for i in range(400)]
    _agree(Pairs.of_scores([1.0] * 400, subject).by_cluster([str(i // 20) for i in range(400)]))


def _agree(pairs: Pairs) -> None:
    """What falls or rises is shown to differ, and what matches is not shown to differ by more than the margin."""
    found, verdict = bca_difference(pairs), tost(pairs).verdict()
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.high
    margin = 0.05 * float(pairs.scores()[0])
    agrees: dict[Verdict, bool] = {
        "falls": found.high < 0,
        "rises": found.low > 0,
        "matches": found.low < margin and found.high > -margin,
        "no worse": found.high > -margin,
    }
    assert agrees.get(verdict, True)
