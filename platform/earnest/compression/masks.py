"""Which weights go: exactly so many of the smallest scores, ties to the earlier weight; unstructured and N:M."""

from __future__ import annotations

from decimal import Decimal

import torch
from torch import Tensor

from earnest.specs import NM, Unstructured


def share(count: int, sparsity: float) -> int:
    """How many of `count` weights a sparsity removes: floor(count · sparsity), of the decimal number as written.

    >>> share(100, 0.29)  # the product of floats is 28.999999999999996
    29
    """
    return int(count * Decimal(repr(sparsity)))


def smallest(scores: Tensor, count: int) -> Tensor:
    """Mark the `count` smallest along the last dimension; among equals the earlier ones.

    Args:
        scores: [..., n], without NaN.
        count: 0..n.

    Returns:
        bool [..., n], with exactly `count` marks along the last dimension.
    """
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    threshold = scores.kthvalue(count, dim=-1, keepdim=True).values  # [..., 1]
    below, ties = scores < threshold, scores == threshold
    room = count - below.sum(-1, keepdim=True)
    return below | (ties & (ties.cumsum(-1) <= room))


def smallest_in_matrix(scores: Tensor, sparsity: float) -> Tensor:
    """Mark the sparsity's share of the smallest of a whole matrix [rows, cols]."""
    return smallest(scores.reshape(-1), share(scores.numel(), sparsity)).view_as(scores)


def smallest_in_groups(scores: Tensor, pattern: NM) -> Tensor:
    """Mark all but the `n` largest of every `m` consecutive inputs; scores [rows, cols], m divides cols."""
    groups = scores.reshape(len(scores), -1, pattern.m)  # [rows, groups, m]
    return smallest(groups, pattern.m - pattern.n).flatten(-2)


def nm_zeros(pattern: NM, rows: int, cols: int) -> int:
    """How many weights of a matrix [rows, cols] an N:M pattern removes; m divides cols."""
    return rows * cols // pattern.m * (pattern.m - pattern.n)


def matrix_mask(scores: Tensor, pattern: Unstructured | NM) -> Tensor:
    """The mask of a method that compares the weights of one matrix with each other, [rows, cols]."""
    if isinstance(pattern, NM):
        return smallest_in_groups(scores, pattern)
    return smallest_in_matrix(scores, pattern.sparsity)
