"""A ratio of sums taken apart: one estimate for each part, all from the same resamples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earnest.records import Estimate
from earnest.statistics.intervals import SEED, Floats, estimate, ratio, ratio_limits, resamples, with_limits


def ratio_estimates(numerators: Floats, denominators: Floats, seed: int = SEED) -> list[Estimate]:
    """For each column of `numerators` and `denominators` [clusters, parts] what `ratio_estimate` says of it, no share.

    The clusters are drawn once for all parts; draws without anything of a part say nothing of it. `n` counts the
    clusters that hold something of the part.

    Raises:
        ValueError: there are no clusters.
    """
    drawn = [times_drawn(draw) for draw in resamples(len(numerators), seed)]
    above = np.concatenate([times @ numerators for times in drawn])  # [resamples, parts]
    below = np.concatenate([times @ denominators for times in drawn])
    values, replicates = ratio(numerators.sum(0), denominators.sum(0)), ratio(above, below)
    holding = (denominators != 0).sum(0)
    found = [estimate(values[i], replicates[below[:, i] != 0, i], int(n)) for i, n in enumerate(holding)]
    ends = [ratio_limits(numerators[:, i], denominators[:, i], share=False) for i in range(len(found))]
    return [with_limits(one, each) for one, each in zip(found, ends, strict=True)]


def times_drawn(draws: NDArray[np.int64]) -> Floats:
    """How often each of n things was drawn [resamples, n], from `draws` [resamples, n] of their indices."""
    rows, n = draws.shape
    flat = (draws + n * np.arange(rows)[:, None]).ravel()
    return np.bincount(flat, minlength=rows * n).reshape(rows, n).astype(np.float64)
