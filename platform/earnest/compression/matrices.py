"""What goes into a compression method and what comes out: the weights of Linears, [rows = outputs, cols = inputs]."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earnest.compression.quantiser import Quantised


@dataclass(frozen=True)
class Matrix:
    """A dense weight: its name in the state dict, its float32 values [rows, cols], the dtype it is stored in."""

    name: str
    weight: Tensor
    dtype: torch.dtype


@dataclass(frozen=True)
class Compressed:
    """What a method made of a matrix.

    `weight` is float32 [rows, cols]; `mask` marks what was pruned, where anything was; `quantised` holds the codes
    that the weight was made from, where there are any.
    """

    weight: Tensor
    mask: Tensor | None = None
    quantised: Quantised | None = None


def pruned(weight: Tensor, mask: Tensor) -> Compressed:
    """The weight with the marked positions at zero and all others untouched."""
    return Compressed(weight.masked_fill(mask, 0.0), mask=mask)
