"""Whether a mean lies above 0, for values with a known lower bound: no normal theory, honest at small n.

Ten samples on which two subjects agree say little about rare losses, though their variance is 0. Gaffke's test puts
one more observation at the worst value there is, spreads random weights (flat Dirichlet) over all of them, and asks
how often the weighted mean is not above 0. For right and wrong it is the exact binomial test (Clopper & Pearson).

Gaffke, "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable",
Mathematical Methods of Statistics 14, 2005; Phan, Thomas & Learned-Miller, arXiv 2106.03163. Its level is a
conjecture that no simulation has broken, ours included.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_NORMAL = NormalDist()
_NEAR = 1e-4


def p_above_zero(values: Floats, least: float) -> float:
    """The p-value of "mean ≤ 0" against "mean > 0", for values that are never below `least` (itself below 0).

    A flat Dirichlet weight is an exponential variable over the sum of all, so the question is how often a sum of
    scaled exponentials is at most 0; equal values add up to one gamma variable. A saddlepoint approximation answers
    it (Lugannani & Rice 1980), good to a few percent of p itself far into the tail.

    Raises:
        ValueError: `least` is not below 0, or a value lies below it.
    """
    if least >= 0 or (len(values) and values.min() < least - 1e-9):
        raise ValueError(f"bounded mean: the lower bound {least} must be below 0 and below every value")
    sizes, counts = np.unique(np.append(values, least), return_counts=True)
    return p_of_weights(sizes, counts.astype(np.float64))


def p_of_weights(sizes: Floats, counts: Floats) -> float:
    """How often Σ size × gamma(count) is at most 0. `sizes` ascend from below 0; counts need not be whole."""
    if sizes[-1] <= 0:
        return 1.0
    return tail_at(sizes, counts, _saddlepoint(sizes, counts))


def tail_at(sizes: Floats, counts: Floats, tilt: float) -> float:
    """The same where the saddlepoint `tilt` is known."""
    denominators = 1 - tilt * sizes
    drop = float((counts * np.log(denominators)).sum())  # minus the cumulant generating function at the tilt
    curvature = float((counts * (sizes / denominators) ** 2).sum())
    w = math.copysign(math.sqrt(2 * max(drop, 0.0)), tilt)
    if abs(w) < _NEAR:
        skew = 2 * float((counts * sizes**3).sum()) / math.pow(float((counts * sizes**2).sum()), 1.5)
        return _NORMAL.cdf(w) + skew / (6 * math.sqrt(2 * math.pi))
    p = _NORMAL.cdf(w) + _NORMAL.pdf(w) * (1 / w - 1 / (tilt * math.sqrt(curvature)))
    return min(1.0, max(0.0, p))


def _saddlepoint(sizes: Floats, counts: Floats) -> float:
    """Where the derivative of the cumulant generating function, Σ count·size ÷ (1 − t·size), is 0."""
    from scipy.optimize import brentq

    def slope(tilt: float) -> float:
        return float((counts * sizes / (1 - tilt * sizes)).sum())

    low, high = 1 / float(sizes[0]), 1 / float(sizes[-1])
    return float(brentq(slope, low * (1 - 1e-12), high * (1 - 1e-12), xtol=1e-14))
