"""Noise belongs to a seed, a position and a token, and draws as the distribution says."""

import pytest
import torch
from scipy.stats import chisquare, kstest

from earnest.decoding.noise import drawn, uniform
from earnest.decoding.sampling import Sampling, processed


@pytest.mark.parametrize("along", ["positions", "seeds"])
def test_draws_follow_the_processed_distribution(along: str) -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.05, 0.05]]).log()
    probabilities = processed(logits, Sampling(temperature=0.8, top_p=0.93), [((), ())])
    count = 20_000
    places = [(7, i) if along == "positions" else (i, 7) for i in range(count)]
    observed = torch.bincount(torch.tensor(drawn(probabilities.expand(count, -1), places)), minlength=5)
    kept = probabilities[0] > 0
    assert int(observed[~kept].sum()) == 0
    assert int(kept.sum()) == 3
    assert chisquare(observed[kept].numpy(), (probabilities[0][kept] * count).numpy()).pvalue > 1e-3


def test_a_place_draws_the_same_token_whatever_is_drawn_beside_it() -> None:
    probabilities = torch.rand(4, 500, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    places = [(3, 0), (3, 1), (4, 0), (3, 2)]
    together = drawn(probabilities, places)
    assert together == [drawn(probabilities[i : i + 1], [place])[0] for i, place in enumerate(places)]


def test_close_distributions_mostly_draw_the_same_token() -> None:
    """Two distributions at total variation d agree with probability (1 - d) / (1 + d) at least."""
    one = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    other = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    places = [(0, i) for i in range(20_000)]
    pairs = zip(drawn(one.expand(20_000, -1), places), drawn(other.expand(20_000, -1), places), strict=True)
    assert sum(a == b for a, b in pairs) / 20_000 > 0.9 / 1.1 - 0.01


def test_numbers_are_uniform_over_tokens_and_over_places_and_hang_on_neither_neighbour() -> None:
    keys = torch.randint(-(2**62), 2**62, (64,), generator=torch.Generator().manual_seed(0))
    numbers = uniform(keys, 4096)
    assert kstest(numbers.flatten().numpy(), "uniform").pvalue > 1e-3
    for shifted in (numbers.roll(1, 0), numbers.roll(1, 1)):
        assert abs(float(torch.corrcoef(torch.stack([numbers.flatten(), shifted.flatten()]))[0, 1])) < 0.01


def test_a_token_without_mass_is_never_drawn() -> None:
    probabilities = torch.zeros(1000, 6, dtype=torch.float64)
    probabilities[:, 4] = 1e-300
    assert set(drawn(probabilities, [(i, 0) for i in range(1000)])) == {4}
