"""Random pruning: the control that any method must beat. Seeded by the matrix's name, so the order of work is free."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch

from earnest.compression.masks import matrix_mask, share
from earnest.compression.matrices import Compressed, Matrix, pruned
from earnest.specs import Random


def compress(matrices: Sequence[Matrix], method: Random) -> list[Compressed]:
    """Set a random share of each matrix to zero, exactly as many as the pattern asks; no data is read."""
    return [_prune(matrix, method) for matrix in matrices]


def _prune(matrix: Matrix, method: Random) -> Compressed:
    seed = int.from_bytes(hashlib.sha256(f"{method.seed} {matrix.name}".encode()).digest()[:8], "little", signed=True)
    generator = torch.Generator().manual_seed(seed)  # on the CPU, so that every device draws the same
    scores = torch.rand(matrix.weight.shape, generator=generator)
    return pruned(matrix.weight, matrix_mask(scores, method.pattern).to(matrix.weight.device))


def zeros(method: Random, rows: int, cols: int) -> int:
    """How many weights of a matrix [rows, cols] go: floor(rows · cols · sparsity)."""
    return share(rows * cols, method.pattern.sparsity)
