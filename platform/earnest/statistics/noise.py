"""The noise floor: how far two runs of the same thing lie apart.

Calibration seeds, batch sizes and random controls move a score without meaning anything. A difference that such
replicates alone could make is marked, whatever its p-value over samples says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from earnest.statistics.limits import CONFIDENCE
from earnest.statistics.pairs import Pairs


def noise_floor(differences: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """The absolute difference that a further replicate exceeds with probability 1 − confidence only.

    `differences` are between runs that should be equal, so their mean is known to be 0: Student's t with as many
    degrees of freedom as differences, times their root mean square.

    Raises:
        ValueError: there are no differences.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not len(values):
        raise ValueError("noise floor: no replicate differences; run the same cell with a second seed")
    return _student(confidence, len(values)) * math.sqrt(float((values**2).mean()))


def noise_floor_of_scores(scores: Sequence[float], confidence: float = CONFIDENCE) -> float:
    """The same for the difference between two runs, from the scores of replicates (one per seed).

    Raises:
        ValueError: there are fewer than two scores.
    """
    if len(scores) < 2:
        raise ValueError(f"noise floor: {len(scores)} replicates; at least two runs are needed to see noise")
    spread = float(np.std(np.asarray(scores, dtype=np.float64), ddof=1))
    return _student(confidence, len(scores) - 1) * math.sqrt(2) * spread


def noise_floor_of_replicate(pairs: Pairs, confidence: float = CONFIDENCE) -> float:
    """The absolute difference that another replicate exceeds with probability 1 − confidence only, from one replicate.

    `pairs` are one subject's samples, scored twice, as in batches of another size. What changes on a sample could as
    well have changed the other way, so the difference of the scores has mean 0 and the variance Σ change² ÷ n²: k of n
    answers that flip move an accuracy by up to 1.96 · √k ÷ n.
    """
    spread = math.sqrt(float((pairs.contrast(1.0) ** 2).sum())) / pairs.n
    size = float(pairs.scores()[0]) if pairs.scale == "log" else 1.0
    return NormalDist().inv_cdf(0.5 + confidence / 2) * spread * size


def _student(confidence: float, degrees: int) -> float:
    from scipy.stats import t

    return float(t.ppf(0.5 + confidence / 2, degrees))
