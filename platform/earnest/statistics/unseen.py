"""How bad a unit may be that was not drawn: the one value more that a test of a mean puts beside the values seen.

Single scores within 0..1 have a bound. Clusters, ratios of sums and losses in nats have none that is of use: a whole
cluster lost would hide any match, and a window's nats have no end. What stands instead was chosen by simulation
(`benchmarks/verdict_errors.py`): wrong claims stay below 5 % for 2 clusters and more, correlations within clusters of 0
to 0.3, and heavy tails.
"""

from __future__ import annotations

import math

import numpy as np

from earnest.statistics.intervals import Floats
from earnest.statistics.pairs import Pairs

FARTHER = 3.0  # times as far below the mean as the worst unit seen
DEVIATIONS = 3.0  # standard deviations of a cluster that loses the margin, where losses go together by
TOGETHER = 0.1  # this correlation within clusters
MARGINS = 8.0  # times the margin, where a unit's score has no bounds


def worst_unseen(pairs: Pairs, values: Floats, least: float, margin: float) -> float:
    """The value, below 0 and below all `values` [n], of the one unit more.

    Args:
        pairs: the units; single scores within 0..1 have `least` itself.
        values: a contrast of the pairs, whose mean is tested for being above 0.
        least: the lowest contrast of a single score within 0..1.
        margin: of matching, relative.
    """
    if pairs.bounded:
        return least
    mean, worst = float(values.mean()), float(values.min())
    low = -max(FARTHER * (mean - worst) - mean, _of_the_margin(pairs, margin))
    if pairs.shares:
        weights = pairs.weights
        low = max(low, least * float(weights.max() / weights.mean())) if low < 0 else least
    return min(low, worst, -1e-12)


def _of_the_margin(pairs: Pairs, margin: float) -> float:
    """How low a unit may be where all that were seen are alike."""
    dense, subject = (abs(float(score)) for score in pairs.scores())
    if pairs.scale == "log":
        return MARGINS * math.log1p(margin)
    if not pairs.shares:
        return MARGINS * margin * max(dense, subject)
    weights = pairs.weights
    lost = margin * max(dense, subject)
    spread = np.sqrt(lost * (TOGETHER + (1 - TOGETHER) / np.maximum(weights, 1.0)))
    return DEVIATIONS * float((weights / weights.mean() * spread).max())
