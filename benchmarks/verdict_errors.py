"""How often a verdict is wrong, and how often a true one is found, by simulation.

    python benchmarks/verdict_errors.py [--repeats 1000] [--seed 1]

Prints a table: on the margin (the subject exactly 5 % worse than dense) the share of wrong "no worse" and of wrong
"falls", each promised to be at most 5 %; beside it the share found where the subject loses 0.5 %, and where it loses
15 %. `t` is what a t of the units alone would say, with Hall's correction for skewness.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator

import numpy as np

from earnest.statistics.equivalence import _t_above, tost
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs

LOST, LITTLE, MUCH = 0.05, 0.005, 0.15
Make = Callable[[np.random.Generator, float], Pairs]


def clusters(
    rng: np.random.Generator, count: int, size: int, dense: float, icc: float, lost: float, *, uneven: bool = False
) -> Pairs:
    """Right and wrong in `count` clusters: shares right and shares lost are beta over clusters with correlation `icc`.

    `size` questions lie in each; where `uneven`, from a fifth of `size` to many times as many.
    """
    sizes = np.maximum(size // 5, rng.lognormal(math.log(size), 0.8, count).astype(int) if uneven else size)
    sizes = np.broadcast_to(sizes, count)
    before = rng.binomial(sizes, _rates(rng, dense, icc, count))
    after = rng.binomial(before, 1 - _rates(rng, lost, icc, count))
    weights = sizes.astype(float)
    return Pairs(Sums(before.astype(float), weights), Sums(after.astype(float), weights))


def biographies(rng: np.random.Generator, count: int, icc: float, lost: float) -> Pairs:
    """True statements among 4 to 7 per biography, 94 % of dense's."""
    sizes = rng.integers(4, 8, count)
    before = rng.binomial(sizes, _rates(rng, 0.94, icc, count))
    after = rng.binomial(before, 1 - _rates(rng, lost, icc, count))
    weights = sizes.astype(float)
    return Pairs(Sums(before.astype(float), weights), Sums(after.astype(float), weights))


def perplexities(rng: np.random.Generator, count: int, power: int, lost: float) -> Pairs:
    """Windows of 128 tokens whose losses are exponential, to a `power` that makes the tail heavy; perplexity is
    worse by `lost`.
    """
    tokens = np.full(count, 128.0)
    nats = tokens * rng.normal(0.6, 0.15, count)
    more = tokens * math.log1p(lost) * rng.exponential(1, count) ** power / math.factorial(power)
    return Pairs(Sums(nats, tokens), Sums(nats + more, tokens), higher_is_better=False, scale="log")


def graded(rng: np.random.Generator, count: int, lost: float) -> Pairs:
    """Scores between 0 and 1, of which a few lose most."""
    dense, share = rng.beta(8, 2, count), max(0.06, 1.2 * lost)
    return Pairs.of_scores(dense, np.where(rng.random(count) < share, dense * (1 - lost / share), dense))


def _rates(rng: np.random.Generator, mean: float, icc: float, count: int) -> np.ndarray:
    return rng.beta(mean * (1 - icc) / icc, (1 - mean) * (1 - icc) / icc, count) if icc else np.full(count, mean)


def cases() -> Iterator[tuple[str, Make]]:
    """Every row of the table."""
    for count, size in ((2, 50), (3, 30), (5, 20), (5, 250), (10, 30), (20, 30), (50, 20), (57, 100), (100, 20)):
        for dense in (0.5, 0.9, 0.98):
            for icc in (0.0, 0.05, 0.3):
                yield f"clusters {count} x {size}, dense {dense:.0%}, icc {icc}", _clustered(count, size, dense, icc)
    for count in (10, 30, 57):
        yield f"clusters {count}, sizes uneven, icc 0.1", _clustered(count, 40, 0.9, 0.1, uneven=True)
    for count in (5, 10, 30, 100, 300):
        yield f"biographies {count}, icc 0.3", lambda rng, lost, n=count: biographies(rng, n, 0.3, lost)
    for power, tail in ((1, "mild"), (3, "heavy")):
        for count in (5, 10, 30, 60, 100, 500):
            yield (
                f"perplexity {count} windows, {tail} tail",
                lambda rng, lost, n=count, k=power: perplexities(rng, n, k, lost),
            )
    for count in (10, 30, 100, 300):
        yield f"single scores in 0..1, {count}", lambda rng, lost, n=count: graded(rng, n, lost)


def _clustered(count: int, size: int, dense: float, icc: float, *, uneven: bool = False) -> Make:
    return lambda rng, lost: clusters(rng, count, size, dense, icc, lost, uneven=uneven)


def shares(make: Make, repeats: int, seed: int) -> list[float]:
    """Wrong "no worse", by a t alone, wrong "falls", by a t alone; found matches, by a t; found falls, by a t."""
    rng = np.random.default_rng(seed)
    found = np.zeros(8)
    for _ in range(repeats):
        on, little, much = (make(rng, lost) for lost in (LOST, LITTLE, MUCH))
        here, same, worse = tost(on), tost(little), tost(much)
        found += [
            here.no_worse <= 0.05, _by_t(on, worse=False) <= 0.05, here.falls <= 0.05, _by_t(on, worse=True) <= 0.025,
            same.no_worse <= 0.05, _by_t(little, worse=False) <= 0.05,
            worse.falls <= 0.05, _by_t(much, worse=True) <= 0.025,
        ]  # fmt: skip
    return [float(share) for share in found / repeats]


def _by_t(pairs: Pairs, *, worse: bool) -> float:
    """The one-sided p of "no worse", or of "worse", by a t of the units alone."""
    side = pairs.contrast(0.95) if pairs.higher_is_better else -pairs.contrast(1.05)
    return _t_above(-side if worse else side, pairs.n)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    print("| case | wrong no worse (t) | wrong falls (t) | found at −0.5 % (t) | found at −15 % (t) |")
    print("|---|---|---|---|---|")
    for name, make in cases():
        found = [f"{100 * share:.1f}" for share in shares(make, asked.repeats, asked.seed)]
        cells = [f"{mine} ({plain})" for mine, plain in zip(found[::2], found[1::2], strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
