"""How often the 95 % intervals that users see hold the true value, and how wide they are, by simulation.

    python benchmarks/interval_coverage.py [--repeats 1000] [--seed 1] [--only TEXT]

Prints a table: the share of intervals that hold the truth, promised to be at least 93 %; how many are given at all (few
clusters without bounds, and values that are all 0, have none); how many have no width (none may); the mean width, and
beside it that of an interval of known spread, ± 1.96 standard deviations of the estimate.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from benchmarks.verdict_errors import perplexities

from earnest.records import Estimate
from earnest.statistics.bca import bca_difference
from earnest.statistics.gaps import Headline, share_closed
from earnest.statistics.intervals import bootstrap_mean, cluster_mean, mean_estimate, ratio_estimate, wilson
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs
from earnest.statistics.reliability import error_estimate

Generator = np.random.Generator
Make = Callable[[Generator], Estimate | None]
COUNTS = (10, 20, 30, 100, 164, 1000)
SHARES = (0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 1.0)
CLUSTERS = ((2, 50), (3, 30), (5, 20), (5, 100), (10, 30), (20, 20), (50, 20))


@dataclass(frozen=True)
class Coverage:
    """What was found of one kind of interval: `held` and `flat` are shares of those that were `given`."""

    held: float
    given: float
    flat: float
    width: float
    known: float


def coverage(make: Make, truth: float, repeats: int, seed: int) -> Coverage:
    """Simulate one kind of interval."""
    rng = np.random.default_rng(seed)
    found = [one for _ in range(repeats) if (one := make(rng)) is not None]
    ends = np.array([(one.low, one.high) for one in found if one.low is not None and one.high is not None])
    if not len(ends):
        return Coverage(math.nan, 0.0, 0.0, math.nan, math.nan)
    held = (ends[:, 0] <= truth + 1e-12) & (truth - 1e-12 <= ends[:, 1])
    known = 2 * 1.96 * float(np.std([one.value for one in found]))
    width = float((ends[:, 1] - ends[:, 0]).mean())
    return Coverage(float(held.mean()), len(ends) / repeats, float((ends[:, 0] == ends[:, 1]).mean()), width, known)


# --- what is measured -----------------------------------------------------------------------------------------------


def share(n: int, p: float) -> Make:
    """Right and wrong."""
    return lambda rng: wilson(int(rng.binomial(n, p)), n)


def binary_mean(n: int, p: float) -> Make:
    """The same as scores: pass@1, win rates, whether orders agree."""
    return lambda rng: bootstrap_mean((rng.random(n) < p).astype(float))


def graded(n: int, name: str) -> tuple[Make, float]:
    """Scores within 0..1: mostly 1 (F1), spread (ROUGE), in steps (pass@k, ties), near an end (confidences)."""
    draws: dict[str, tuple[Callable[[Generator], np.ndarray], float]] = {
        "mostly 1": (lambda rng: np.where(rng.random(n) < 0.9, 1.0, rng.random(n)), 0.95),
        "rarely above 0": (lambda rng: np.where(rng.random(n) < 0.95, 0.0, rng.random(n)), 0.025),
        "spread": (lambda rng: rng.beta(2, 5, n), 2 / 7),
        "in steps": (lambda rng: rng.choice([0.0, 0.5, 1.0], n, p=[0.6, 0.1, 0.3]), 0.35),
        "near an end": (lambda rng: rng.beta(30, 1, n), 30 / 31),
    }
    draw, truth = draws[name]
    return lambda rng: bootstrap_mean(draw(rng)), truth


def unbounded(n: int, name: str) -> tuple[Make, float]:
    """Counts and nats: tokens, statements, shifts."""
    draws: dict[str, tuple[Callable[[Generator], np.ndarray], float]] = {
        "normal": (lambda rng: rng.normal(5, 1, n), 5.0),
        "exponential": (lambda rng: rng.exponential(1, n), 1.0),
        "lognormal": (lambda rng: rng.lognormal(0, 1, n), math.exp(0.5)),
        "one in ten is large": (lambda rng: np.where(rng.random(n) < 0.1, rng.exponential(10, n), 0.0), 1.0),
    }
    draw, truth = draws[name]
    return lambda rng: mean_estimate(draw(rng)), truth


def rates(rng: Generator, mean: float, icc: float, count: int) -> np.ndarray:
    """Shares of clusters whose answers go together with correlation `icc`."""
    if not icc or mean in (0, 1):
        return np.full(count, mean)
    return rng.beta(mean * (1 - icc) / icc, (1 - mean) * (1 - icc) / icc, count)


def clustered(count: int, size: int, p: float, icc: float) -> Make:
    """A mean over subjects or passages."""
    names = np.repeat(np.arange(count), size).tolist()
    return lambda rng: cluster_mean(
        (rng.random((count, size)) < rates(rng, p, icc, count)[:, None]).astype(float).ravel(), names
    )


def biographies(n: int, p: float) -> Make:
    """True statements among 4 to 7 per text."""

    def make(rng: Generator) -> Estimate:
        sizes = rng.integers(4, 8, n)
        return ratio_estimate(rng.binomial(sizes, rates(rng, p, 0.3, n)).astype(float), sizes.astype(float))

    return make


def divergence(n: int, sigma: float) -> tuple[Make, float]:
    """KL per position: nats over positions, lognormal over windows."""
    mean = 0.05 * math.exp(sigma**2 / 2)
    return lambda rng: ratio_estimate(
        128 * 0.05 * rng.lognormal(0, sigma, n), np.full(n, 128.0), share=False
    ), mean  # fmt: skip


def difference(n: int, dense: float, lost: float, won: float) -> tuple[Make, float]:
    """A difference of right and wrong, paired."""

    def make(rng: Generator) -> Estimate:
        before = rng.random(n) < dense
        after = np.where(before, rng.random(n) >= lost, rng.random(n) < won)
        return bca_difference(Pairs.of_scores(before.astype(float), after.astype(float)))

    return make, (1 - dense) * won - dense * lost


def graded_difference(n: int) -> tuple[Make, float]:
    """A few lose most of a graded score."""

    def make(rng: Generator) -> Estimate:
        before = rng.beta(8, 2, n)
        return bca_difference(Pairs.of_scores(before, np.where(rng.random(n) < 0.06, before / 2, before)))

    return make, -0.06 * 0.4


def clustered_difference(count: int, size: int, dense: float, icc: float) -> tuple[Make, float]:
    """Answers lost in clusters: 5 % of those that dense has right."""

    def make(rng: Generator) -> Estimate:
        before = rng.binomial(size, rates(rng, dense, icc, count)).astype(float)
        after = rng.binomial(before.astype(int), 1 - rates(rng, 0.05, icc, count)).astype(float)
        weights = np.full(count, float(size))
        return bca_difference(Pairs(Sums(before, weights), Sums(after, weights)))

    return make, -0.05 * dense


def perplexity_difference(n: int, power: int, lost: float) -> tuple[Make, float]:
    """exp(nats per token) of two subjects, where windows lose `lost` in the mean."""
    dense = math.exp(0.6)
    make = lambda rng: bca_difference(perplexities(rng, n, power, lost))  # noqa: E731
    return make, dense * lost


def gap(n: int) -> tuple[Make, float]:
    """The share of a gap that a pair closes, of right and wrong."""

    def make(rng: Generator) -> Estimate | None:
        skill = rng.random(n)
        start, reached, goal = (Headline(Sums.of_scores((skill < p).astype(float))) for p in (0.2, 0.6, 0.8))
        return share_closed(start, reached, goal)

    return make, 2 / 3


def calibration(n: int, shrunk: float) -> tuple[Make, float]:
    """ECE of answers that are right `shrunk` times as often as is said."""

    def make(rng: Generator) -> Estimate:
        sure = rng.beta(5, 2, n)
        return error_estimate(sure, (rng.random(n) < sure * shrunk).tolist())

    return make, 5 / 7 * (1 - shrunk)


Case = tuple[str, Make, float]


def cases() -> Iterator[Case]:
    """Every row of the table: its name, what makes an interval, and the truth."""
    for n in COUNTS:
        for rows in (_shares(n), _means(n), _differences(n)):
            yield from ((f"{name}, n {n}", make, truth) for name, make, truth in rows)
    for count, size in CLUSTERS:
        yield from _clusters(count, size)


def _shares(n: int) -> Iterator[Case]:
    for p in SHARES:
        yield f"share {p}", share(n, p), p
        yield f"0/1 mean {p}", binary_mean(n, p), p
    for p in (0.5, 0.9, 0.99):
        yield f"biographies {p}, icc 0.3", biographies(n, p), p


def _means(n: int) -> Iterator[Case]:
    for name in ("mostly 1", "rarely above 0", "spread", "in steps", "near an end"):
        yield f"graded {name}", *graded(n, name)
    for name in ("normal", "exponential", "lognormal", "one in ten is large"):
        yield f"without bounds, {name}", *unbounded(n, name)
    for sigma in (0.5, 1.0):
        yield f"KL, lognormal {sigma}", *divergence(n, sigma)
    for shrunk in (1.0, 0.85):
        yield f"ECE, right {shrunk} x as often as said", *calibration(n, shrunk)


def _differences(n: int) -> Iterator[Case]:
    for dense, lost, won in ((0.9, 0.1, 0.0), (0.98, 0.02, 0.0), (0.5, 0.1, 0.1), (0.9, 0.0, 0.0)):
        yield f"difference, dense {dense}, lost {lost}, won {won}", *difference(n, dense, lost, won)
    yield "difference, graded", *graded_difference(n)
    for power, tail in ((1, "mild"), (3, "heavy")):
        for lost in (0.05, 1.0):
            yield f"perplexity difference {lost}, {tail} tail", *perplexity_difference(n, power, lost)
    yield "gap closed", *gap(n)


def _clusters(count: int, size: int) -> Iterator[Case]:
    for icc in (0.0, 0.1, 0.3):
        for p in (0.05, 0.5, 0.9, 0.98):
            yield f"clusters {count} x {size}, share {p}, icc {icc}", clustered(count, size, p, icc), p
        for dense in (0.5, 0.9):
            name = f"difference in clusters {count} x {size}, dense {dense}, icc {icc}"
            yield name, *clustered_difference(count, size, dense, icc)


def main() -> None:
    """Print the table, and then the rows that hold less than 93 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    asked = parser.parse_args()
    print("| case | held | given | without width | width | of known spread |\n|---|---|---|---|---|---|")
    low = []
    for name, make, truth in cases():
        if asked.only not in name:
            continue
        one = coverage(make, truth, asked.repeats, asked.seed)
        print(
            f"| {name} | {one.held:.1%} | {one.given:.1%} | {one.flat:.1%} | {one.width:.4g} | {one.known:.4g} |",
            flush=True,
        )
        if one.held < 0.93:
            low.append(f"{name}: {one.held:.1%}")
    print("\nBelow 93 %:", "; ".join(low) or "none")


if __name__ == "__main__":
    main()
