"""Weights as integers: scales and zero points of a row or a group, codes, and the way back.

code = clamp(round(w / scale) + zero, 0, 2^bits − 1) and w' = scale · (code − zero) in float32, round half to even.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quantised:
    """A matrix [rows, cols] as codes.

    codes: uint8 [rows, cols]; scale, zero: float32 [rows, groups], zero holds whole numbers; group_of: int64 [cols],
    the group of each input.
    """

    bits: int
    symmetric: bool
    group_size: int
    codes: Tensor
    scale: Tensor
    zero: Tensor
    group_of: Tensor

    def dequantised(self) -> Tensor:
        """The weights that the codes stand for, float32 [rows, cols]."""
        zero = self.zero[:, self.group_of]
        return self.scale[:, self.group_of] * (self.codes.float() - zero)

    def cpu(self) -> Quantised:
        """The same on the CPU."""
        tensors = {name: getattr(self, name).cpu() for name in ("codes", "scale", "zero", "group_of")}
        return replace(self, **tensors)


@dataclass(frozen=True)
class Quantiser:
    """How weights become integers.

    Symmetric ranges are the same for every row: [−a, a] with a the largest magnitude, so scale = 2a / (2^bits − 1)
    and the zero point stands in the middle. The reference programs halve the range of a row without a negative weight
    and so clip everything above 0.47 a at 4 bits; that is not followed. Asymmetric ranges run from min(w, 0) to
    max(w, 0). A row of zeros gets the range [−1, 1].

    Scales are rounded to `scale_dtype` before any code is computed, so what is stored is what was used.
    """

    bits: int
    symmetric: bool
    scale_dtype: torch.dtype = torch.float32

    @property
    def top(self) -> int:
        """The largest code."""
        return (1 << self.bits) - 1

    def fit(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point over the last dimension: weight [..., inputs] -> two float32 [...]."""
        low, high = weight.amin(-1).clamp(max=0.0), weight.amax(-1).clamp(min=0.0)
        if self.symmetric:
            high = torch.maximum(-low, high)
            low = -high
        empty = (low == 0) & (high == 0)
        low, high = low.masked_fill(empty, -1.0), high.masked_fill(empty, 1.0)
        scale = self._as_stored((high - low) / self.top)
        if self.symmetric:
            return scale, torch.full_like(scale, (self.top + 1) / 2)
        return scale, torch.round(-low / scale).clamp(0, self.top)

    def _as_stored(self, scale: Tensor) -> Tensor:
        return scale.to(self.scale_dtype).float()

    def encode(self, weight: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        """Codes as float32 whole numbers; the three shapes broadcast."""
        return (torch.round(weight / scale) + zero).clamp_(0, self.top)


def scale_dtype_for(dtype: torch.dtype) -> torch.dtype:
    """In which dtype a model's scales are stored: bfloat16 beside bfloat16 weights, else float32.

    float16's exponent is too narrow: an 8-bit scale of small weights would fall among its subnormals.
    """
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def plain_groups(inputs: int, group_size: int, device: torch.device | None = None) -> Tensor:
    """The group of each input when groups are runs of neighbours, int64 [inputs]; −1 is one group per row."""
    columns = torch.arange(inputs, device=device)
    return torch.zeros_like(columns) if group_size == -1 else columns // group_size
