"""Win rates at equal length: judges like long answers, and a model should not win by that alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from earnest.records import Estimate

PRIOR = 0.01
STEPS = 100
CLOSE = 1e-10
NORMAL_95 = 1.959963984540054


def length_controlled(preferences: Sequence[float], differences: Sequence[float]) -> Estimate:
    """The win rate that a logistic model expects where both answers are of equal length.

    preference ~ sigmoid(θ + φ · tanh(difference ÷ sd)), after Dubois et al. 2024 (arXiv 2404.04475) without their terms
    for the instruction's difficulty, which need many models. A ridge of 0.01 keeps a model that always wins finite.

    Args:
        preferences: 1 where the model's answer is preferred, 0 where the reference's is, between for ties.
        differences: length of the model's answer less that of the reference's, in any unit.

    Raises:
        ValueError: there is no preference, or not one difference for each.
    """
    if not preferences or len(preferences) != len(differences):
        raise ValueError(f"{len(preferences)} preferences and {len(differences)} lengths: give one of each per answer")
    wins, lengths = np.asarray(preferences, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    spread = float(lengths.std()) or 1.0
    features = np.stack([np.ones_like(lengths), np.tanh(lengths / spread)], axis=1)  # [n, 2]
    weights = np.zeros(2)
    for _ in range(STEPS):
        expected = 1 / (1 + np.exp(-features @ weights))
        curvature = features.T @ (features * (expected * (1 - expected))[:, None]) + PRIOR * np.eye(2)
        step = np.linalg.solve(curvature, features.T @ (wins - expected) - PRIOR * weights)
        weights = weights + step
        if float(np.abs(step).max()) < CLOSE:
            break
    deviation = float(np.sqrt(np.linalg.inv(curvature)[0, 0]))
    low, value, high = (_sigmoid(float(weights[0]) + z * deviation) for z in (-NORMAL_95, 0.0, NORMAL_95))
    return Estimate(value=value, stderr=value * (1 - value) * deviation, low=low, high=high, n=len(wins))


def _sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))
