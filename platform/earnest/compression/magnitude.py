"""Magnitude pruning: the smallest weights of each matrix become zero. The control that uses no data."""

from __future__ import annotations

from collections.abc import Sequence

from earnest.compression.masks import matrix_mask, share
from earnest.compression.matrices import Compressed, Matrix, pruned
from earnest.specs import Magnitude


def compress(matrices: Sequence[Matrix], method: Magnitude) -> list[Compressed]:
    """Set the smallest |w| of each matrix to zero; surviving weights are untouched.

    Follows Han et al. 2015, per matrix. Exactly floor(n · sparsity) weights go and ties fall to the earlier weight;
    the reference program compares with ≤ and so removes one weight more, and all ties.
    """
    return [pruned(matrix.weight, matrix_mask(matrix.weight.abs(), method.pattern)) for matrix in matrices]


def zeros(method: Magnitude, rows: int, cols: int) -> int:
    """How many weights of a matrix [rows, cols] go: floor(rows · cols · sparsity)."""
    return share(rows * cols, method.pattern.sparsity)
