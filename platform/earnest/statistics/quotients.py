"""Limits of a quotient of two means over the same units, as the share of a gap that was closed (Fieller 1954).

A quotient λ is left out where the mean of above − λ · below is shown not to be 0. No normal theory where scores have
bounds; and where no λ however far is left out, there are no limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from earnest.statistics.bounded import p_above_zero
from earnest.statistics.limits import TAIL, Floats, unit_limits

FARTHEST = 1e4
_STEP, _HALVINGS = 0.05, 24

Rejected = Callable[[float, int], bool]


def quotient_limits(value: float, rejected: Rejected) -> tuple[float | None, float | None]:
    """Both limits around `value`, each None where nothing is rejected on its side.

    `rejected` is asked of a λ below (−1) or above (+1) the value.
    """
    low, high = (_outward(value, side, rejected) for side in (-1, 1))
    return low, high


def of_scores(start: Floats, reached: Floats, goal: Floats) -> Rejected:
    """(reached − start) ÷ (goal − start) of means of scores within 0..1 [n]: by the test for values with bounds."""
    sign = math.copysign(1.0, float((goal - start).mean()))

    def rejected(share: float, side: int) -> bool:
        """The three weigh 1, −share and share − 1 in the contrast; its bound is the sum of the negative ones."""
        direction = -sign * side
        weights = [direction, -direction * share, direction * (share - 1)]
        values = weights[0] * reached + weights[1] * goal + weights[2] * start
        return p_above_zero(values, sum(min(0.0, weight) for weight in weights)) <= TAIL

    return rejected


def of_units(above: Floats, below: Floats, effective: float) -> Rejected:
    """Mean(above) ÷ mean(below) of units without bounds [n]."""

    def rejected(share: float, _: int) -> bool:
        limits = unit_limits(above - share * below, effective)
        return limits is not None and not limits[0] <= 0 <= limits[1]

    return rejected


def _outward(value: float, side: int, rejected: Rejected) -> float | None:
    """The first λ that is rejected on one side of the value: steps grow threefold, and then are halved."""
    near, step = value, _STEP
    while not rejected(value + side * step, side):
        near, step = value + side * step, 3 * step
        if step > FARTHEST:
            return None
    far = value + side * step
    for _ in range(_HALVINGS):
        middle = (near + far) / 2
        if rejected(middle, side):
            far = middle
        else:
            near = middle
    return far
