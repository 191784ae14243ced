"""A sparse matrix as one bit per weight and the values of those that are not zero, in row-major order."""

from __future__ import annotations

import torch
from torch import Tensor

from earnest.compression.packing import pack, unpack


def sparse(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A weight [rows, cols] as its bitmask, uint8 [ceil(rows · cols / 8)], and its values that are not zero, [kept]."""
    kept = weight != 0
    return pack(kept, 1), weight[kept]


def dense(bitmask: Tensor, values: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The matrix that `sparse` took apart.

    Raises:
        ValueError: the bitmask does not mark as many weights as there are values.
    """
    kept = positions(bitmask, shape)
    if int(kept.sum()) != len(values):
        raise ValueError(f"the bitmask marks {int(kept.sum())} weights but there are {len(values)} values")
    weight = torch.zeros(shape, dtype=values.dtype)
    weight[kept] = values
    return weight


def positions(bitmask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Which weights a bitmask marks, bool of the shape."""
    return unpack(bitmask, 1, int(torch.Size(shape).numel())).bool().view(shape)
