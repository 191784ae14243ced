"""Scales, zero points and codes, by hand where the arithmetic is short."""

import pytest
import torch

from earnest.compression.quantiser import Quantiser


def test_a_symmetric_range_by_hand() -> None:
    """At 2 bits with a = 3: scale 6/3, zero 2; +3 is round(1.5) + 2 = 4, clamped to 3; 1 is round(0.5) + 2 = 2."""
    weight = torch.tensor([[3.0, -3.0, 1.0, 1.5]])
    quantiser = Quantiser(2, symmetric=True)
    scale, zero = quantiser.fit(weight)
    assert (scale.tolist(), zero.tolist()) == ([2.0], [2.0])
    assert quantiser.encode(weight, scale[:, None], zero[:, None]).tolist() == [[3.0, 0.0, 2.0, 3.0]]


def test_an_asymmetric_range_by_hand() -> None:
    """From −0.5 to 2.5 in 3 steps of 1: the zero point is round(0.5) = 0 (half to even)."""
    weight = torch.tensor([[2.5, -0.5, 1.0, 0.0]])
    quantiser = Quantiser(2, symmetric=False)
    scale, zero = quantiser.fit(weight)
    assert (scale.tolist(), zero.tolist()) == ([1.0], [0.0])
    assert quantiser.encode(weight, scale[:, None], zero[:, None]).tolist() == [[2.0, 0.0, 1.0, 0.0]]


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_is_always_a_level(symmetric: bool) -> None:
    weight = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    quantiser = Quantiser(3, symmetric)
    scale, zero = quantiser.fit(weight)
    codes = quantiser.encode(torch.zeros_like(weight), scale[:, None], zero[:, None])
    assert torch.equal(codes, zero[:, None].expand_as(codes).contiguous())


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_row_of_zeros_stays_zero(symmetric: bool) -> None:
    quantiser = Quantiser(4, symmetric)
    scale, zero = quantiser.fit(torch.zeros(1, 8))
    assert float(scale) > 0
    assert torch.equal(quantiser.encode(torch.zeros(1, 8), scale[:, None], zero[:, None]) - zero, torch.zeros(1, 8))


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16])
def test_codes_and_zero_points_fit_their_bits(bits: int, symmetric: bool, scales: torch.dtype) -> None:
    """Also where all weights are negative and a rounded scale would push the zero point past the largest code."""
    weight = torch.randn(256, 32, generator=torch.Generator().manual_seed(bits))
    weight[:128] = -weight[:128].abs()
    quantiser = Quantiser(bits, symmetric, scales)
    scale, zero = quantiser.fit(weight)
    codes = quantiser.encode(weight, scale[:, None], zero[:, None])
    for whole in (codes, zero):
        assert torch.equal(whole, whole.round())
        assert float(whole.min()) >= 0
        assert float(whole.max()) <= 2**bits - 1


def test_scales_are_rounded_before_they_are_used() -> None:
    scale, _ = Quantiser(4, symmetric=False, scale_dtype=torch.bfloat16).fit(torch.randn(64, 32))
    assert torch.equal(scale, scale.bfloat16().float())


def test_no_weight_within_the_range_moves_by_more_than_half_a_step() -> None:
    weight = torch.randn(32, 64, generator=torch.Generator().manual_seed(3))
    quantiser = Quantiser(5, symmetric=False)
    scale, zero = (value[:, None] for value in quantiser.fit(weight))
    error = scale * (quantiser.encode(weight, scale, zero) - zero) - weight
    inner = (weight > weight.amin(1, keepdim=True) + scale) & (weight < weight.amax(1, keepdim=True) - scale)
    assert (error.abs() <= 0.5001 * scale)[inner].all()
