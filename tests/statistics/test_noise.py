"""The noise floor is what replicates of the same thing rarely exceed."""

import numpy as np
import pytest

from earnest.statistics.noise import noise_floor, noise_floor_of_replicate, noise_floor_of_scores
from earnest.statistics.paired import Sums
from earnest.statistics.pairs import Pairs


def test_the_floor_by_hand() -> None:
    # t(0.975, 1 degree) = 12.7062; root mean square of one difference is itself
    assert noise_floor([0.01]) == pytest.approx(0.127062, abs=1e-6)
    # two replicates 0.02 apart: sd = 0.02/√2, so the floor is t · 0.02
    assert noise_floor_of_scores([0.5, 0.52]) == pytest.approx(12.7062 * 0.02, abs=1e-5)


def test_a_further_replicate_exceeds_the_floor_one_time_in_twenty() -> None:
    generator = np.random.default_rng(0)
    runs = generator.normal(0.7, 0.01, size=(4000, 6))
    beyond = [abs(run[4] - run[5]) > noise_floor_of_scores(list(run[:4])) for run in runs]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.012)
    differences = generator.normal(0, 0.01, size=(4000, 5))
    beyond = [abs(row[4]) > noise_floor(list(row[:4])) for row in differences]
    assert np.mean(beyond) == pytest.approx(0.05, abs=0.012)


def test_without_replicates_there_is_no_floor() -> None:
    with pytest.raises(ValueError, match="second seed"):
        noise_floor([])
    with pytest.raises(ValueError, match="at least two"):
        noise_floor_of_scores([0.5])


def test_a_replicate_moves_a_score_by_what_flips() -> None:
    """9 of 400 answers flip, 5 to right and 4 to wrong: up to 1.96 · 3 ÷ 400, whatever the difference itself."""
    before = [1.0] * 200 + [0.0] * 200
    after = [0.0] * 4 + [1.0] * 196 + [1.0] * 5 + [0.0] * 195
    floor = noise_floor_of_replicate(Pairs.of_scores(before, after))
    assert floor == pytest.approx(1.959964 * 3 / 400, abs=1e-8)
    assert noise_floor_of_replicate(Pairs.of_scores(before, before)) == 0


def test_a_perplexitys_floor_is_in_its_own_units() -> None:
    tokens = np.full(100, 10.0)
    nats = tokens * 2.0
    moved = nats + np.where(np.arange(100) % 2 == 0, 0.1, -0.1)
    pairs = Pairs(Sums(nats, tokens), Sums(moved, tokens), higher_is_better=False, scale="log")
    assert noise_floor_of_replicate(pairs) == pytest.approx(np.exp(2.0) * 1.959964 * 0.01 / 10, rel=1e-6)
