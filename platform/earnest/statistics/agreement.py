"""Agreement of two judges beyond chance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


def cohen_kappa(one: Sequence[Hashable], other: Sequence[Hashable]) -> float | None:
    """Cohen's κ (1960) of two judges' categories for the same items: 1 is full agreement, 0 that of chance.

    None where there is no item, or where both judges put all in one category, so that chance explains everything.

    Raises:
        ValueError: the judges did not judge equally many items.
    """
    if len(one) != len(other):
        raise ValueError(f"{len(one)} and {len(other)} verdicts: kappa compares two judges on the same items")
    n = len(one)
    if n == 0:
        return None
    ones, others = Counter(one), Counter(other)
    chance = sum(ones[category] * others[category] for category in ones) / n**2
    observed = sum(a == b for a, b in zip(one, other, strict=True)) / n
    return None if chance == 1 else (observed - chance) / (1 - chance)
