"""pass@k: the chance that at least one of k samples passes."""

from __future__ import annotations

import math


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The unbiased estimate 1 − C(n − c, k) ÷ C(n, k) from `passed` of `samples` (Chen et al. 2021, eq. 1).

    Raises:
        ValueError: `passed` is not in 0..samples, or `k` not in 1..samples.
    """
    if not (0 <= passed <= samples and 1 <= k <= samples):
        raise ValueError(f"pass@{k} of {passed} in {samples}: passed must lie in 0..samples and k in 1..samples")
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)
