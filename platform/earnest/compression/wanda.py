"""Wanda: the smallest |weight| × input norm of each row become zero (Sun et al. 2023, arXiv 2306.11695)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from earnest.compression.hessian import not_finite
from earnest.compression.masks import share, smallest, smallest_in_groups
from earnest.compression.matrices import Compressed, Matrix, pruned
from earnest.specs import NM, Wanda


def compress(matrices: Sequence[Matrix], statistic: Tensor, method: Wanda) -> list[Compressed]:
    """Set the lowest scores of each row to zero; surviving weights are untouched.

    Args:
        matrices: Linears that read the same inputs.
        statistic: squared norms of these inputs, [cols].
        method: the pattern. Unstructured, every row loses floor(cols · sparsity) weights, ties to the earlier one.

    Raises:
        UserError: the inputs were not finite.
    """
    norms = statistic.sqrt()  # [cols]
    if not bool(norms.isfinite().all()):
        raise not_finite(matrices[0].name)
    return [pruned(matrix.weight, _mask(matrix.weight.abs() * norms, method)) for matrix in matrices]


def _mask(scores: Tensor, method: Wanda) -> Tensor:
    if isinstance(method.pattern, NM):
        return smallest_in_groups(scores, method.pattern)
    return smallest(scores, share(scores.shape[1], method.pattern.sparsity))


def zeros(method: Wanda, rows: int, cols: int) -> int:
    """How many weights of a matrix [rows, cols] go: floor(cols · sparsity) of every row."""
    return rows * share(cols, method.pattern.sparsity)
