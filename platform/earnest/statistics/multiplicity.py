"""Many tests at once: p-values adjusted so that a family of claims keeps the error rate that one claim has.

Adjusted values come back in the order asked and never above 1; a claim holds where its adjusted value is at most the
error rate.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from earnest.statistics.intervals import Floats


def bonferroni(p: Sequence[float]) -> list[float]:
    """The family-wise error rate, whatever the dependence: p times the number of tests."""
    return _in_unit(_checked(p) * len(p))


def holm(p: Sequence[float]) -> list[float]:
    """The family-wise error rate, whatever the dependence, stepping down (Holm 1979): never weaker than Bonferroni."""
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    steps = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    return _in_unit(_back(steps, order))


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """The false discovery rate for independent or positively dependent tests (Benjamini & Hochberg 1995)."""
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    ranked = values[order] * len(values) / np.arange(1, len(values) + 1)
    steps = np.minimum.accumulate(ranked[::-1])[::-1]
    return _in_unit(_back(steps, order))


def benjamini_yekutieli(p: Sequence[float]) -> list[float]:
    """The false discovery rate under any dependence (Benjamini & Yekutieli 2001)."""
    penalty = (1 / np.arange(1, len(p) + 1)).sum()
    values = _checked(p)
    order = np.argsort(values, kind="stable")
    ranked = values[order] * len(values) * penalty / np.arange(1, len(values) + 1)
    return _in_unit(_back(np.minimum.accumulate(ranked[::-1])[::-1], order))


def _checked(p: Sequence[float]) -> Floats:
    values = np.asarray(p, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must lie in 0..1, and not all of {list(p)} do")
    return values


def _back(steps: Floats, order: NDArray[np.int64]) -> Floats:
    """What was computed in sorted order, in the order asked."""
    found = np.empty_like(steps)
    found[order] = steps
    return found


def _in_unit(values: Floats) -> list[float]:
    return [float(value) for value in np.minimum(values, 1.0)]
