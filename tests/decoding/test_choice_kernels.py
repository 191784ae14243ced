"""What is compiled for a CPU decides as torch does, and says the same of what is not finite."""

import math

import pytest
import torch

from earnest.decoding import fusion
from earnest.decoding.fusion import adaptive_alphas
from earnest.decoding.noise import drawn, drawn_tempered, key_of, uniform

pytest.importorskip("numba")

PLACES = [(number, number % 7) for number in range(300)]


def waiting(width: int) -> torch.Tensor:
    """-log u of every place and token, by torch."""
    return -uniform(torch.tensor([key_of(*place) for place in PLACES]), width).log()


def logits(width: int, scale: float) -> torch.Tensor:
    return scale * torch.randn(len(PLACES), width, generator=torch.Generator().manual_seed(width))


@pytest.mark.parametrize("width", [1, 7, 1536])
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1.0, 30.0])
def test_a_token_is_drawn_by_the_largest_quotient_of_probability_and_exponential_noise(
    width: int, temperature: float
) -> None:
    given = logits(width, 3.0)
    probabilities = (given.double() / temperature).softmax(-1)
    expected = (probabilities / waiting(width)).argmax(-1).tolist()
    assert drawn(probabilities, PLACES) == expected
    assert drawn_tempered(given, [temperature] * len(PLACES), PLACES) == expected


def test_rows_of_different_temperatures_are_drawn_side_by_side() -> None:
    given, temperatures = logits(64, 2.0), [0.2 + 0.01 * number for number in range(len(PLACES))]
    alone = [
        drawn_tempered(row[None], [temperature], [place])[0]
        for row, temperature, place in zip(given, temperatures, PLACES, strict=True)
    ]
    assert drawn_tempered(given, temperatures, PLACES) == alone


def test_no_token_is_drawn_where_logits_are_not_finite_and_none_that_is_excluded() -> None:
    given = torch.tensor([[0.0, math.nan], [0.0, math.inf], [-math.inf, -math.inf], [-math.inf, -5.0]])
    assert drawn_tempered(given, [1.0] * 4, PLACES[:4]) == [-1, -1, -1, 1]


@pytest.mark.parametrize("pairs", [1, 3])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 200.0])
def test_adaptive_alphas_are_those_of_the_same_search_in_torch(
    pairs: int, scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(pairs)
    base, anti = (3 * torch.randn(5, 40, 500, generator=generator) for _ in range(2))
    experts = [anti + scale * torch.randn(5, 40, 500, generator=generator) for _ in range(pairs)]
    base[..., 3] = -torch.inf
    compiled = adaptive_alphas(base, experts, [anti] * pairs)
    monkeypatch.setattr(fusion, "choice_kernels", lambda _: None)
    torch.testing.assert_close(compiled, adaptive_alphas(base, experts, [anti] * pairs), atol=1e-6, rtol=0)
