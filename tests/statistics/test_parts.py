"""Parts of a ratio are estimated as each alone would be."""

import numpy as np
import pytest

from earnest.statistics.intervals import ratio_estimate
from earnest.statistics.parts import ratio_estimates, times_drawn


def test_each_part_is_what_it_is_alone() -> None:
    draw = np.random.default_rng(1)
    below = draw.integers(0, 5, size=(40, 3)).astype(np.float64)
    above = below * draw.random((40, 3))
    for i, found in enumerate(ratio_estimates(above, below)):
        alone = ratio_estimate(above[:, i], below[:, i], share=False)
        assert found.n == (below[:, i] > 0).sum()
        for name in ("value", "stderr", "low", "high"):
            assert getattr(found, name) == pytest.approx(getattr(alone, name), abs=1e-12)


def test_draws_without_a_rare_part_say_nothing_of_it() -> None:
    above, below = np.zeros((30, 1)), np.zeros((30, 1))
    above[:2, 0], below[:2, 0] = (3.0, 4.0), 1.0
    (found,) = ratio_estimates(above, below)
    assert (found.value, found.low, found.high, found.n) == (3.5, None, None, 2)


def test_draws_are_counted() -> None:
    assert times_drawn(np.array([[0, 0, 2], [1, 2, 1]])).tolist() == [[2, 0, 1], [0, 2, 1]]
