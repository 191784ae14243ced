"""SparseGPT: prune input by input and let those yet to come make up for it.

Frantar & Alistarh 2023, arXiv 2301.00774. With bits, the survivors are quantised in the same pass,
and one error is passed on for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from earnest.compression.columns import Scales, compensate, split_rows
from earnest.compression.hessian import Prepared, prepare
from earnest.compression.masks import share, smallest
from earnest.compression.matrices import Compressed, Matrix
from earnest.compression.quantiser import Quantiser, scale_dtype_for
from earnest.specs import NM, SparseGPT, Unstructured


def compress(matrices: Sequence[Matrix], statistic: Tensor, method: SparseGPT) -> list[Compressed]:
    """Prune Linears that read the same inputs.

    The score is w² / U_ii² on weights compensated so far. Unstructured, each block of `block_size` inputs of each
    matrix loses exactly floor(n · sparsity) of its n weights, ties to the earlier weight; the reference program
    compares with ≤ and so removes one more per block. The weights of inputs
    that were always zero go first; those that the pattern leaves are kept, where the reference program makes all zero.

    Args:
        matrices: Linears that read the same inputs; their rows are stacked, but thresholds stay per matrix.
        statistic: the Hessian of these inputs, [cols, cols].
        method: the pattern, the order, the damping and, for quantised survivors, the bits.

    Raises:
        UserError: the Hessian is not finite or not positive definite.
    """
    ready = prepare(statistic, damping=method.damping, act_order=method.act_order, name=matrices[0].name)
    dense = torch.cat([matrix.weight for matrix in matrices])  # [rows, cols]
    rows = [len(matrix.weight) for matrix in matrices]
    rounding = _Rounding(method, rows, dense.shape[1], _scales(method, dense, ready, matrices[0].dtype), ready)
    work = dense[:, ready.order].t().contiguous()  # [cols, rows]
    compensate(work, ready.upper, block_size(method), rounding)
    weight, mask = torch.empty_like(dense), torch.empty_like(dense, dtype=torch.bool)
    weight[:, ready.order], mask[:, ready.order] = work.t(), rounding.mask.t()
    return _split(weight, mask, rounding.scales, rows)


def block_size(method: SparseGPT) -> int:
    """Inputs per block: as asked, but whole N:M groups. For N:M the size changes no result."""
    if isinstance(method.pattern, NM):
        return max(method.block_size // method.pattern.m, 1) * method.pattern.m
    return method.block_size


def zeros(method: SparseGPT, rows: int, cols: int) -> int:
    """How many weights of a matrix [rows, cols] go: the share of each block of inputs, rounded down."""
    size, sparsity = block_size(method), method.pattern.sparsity
    return sum(share(rows * min(size, cols - start), sparsity) for start in range(0, cols, size))


def _scales(method: SparseGPT, dense: Tensor, ready: Prepared, dtype: torch.dtype) -> Scales | None:
    if method.bits is None:
        return None
    quantiser = Quantiser(method.bits, method.symmetric, scale_dtype_for(dtype))
    return Scales(quantiser, method.group_size, dense, ready.order, static=method.static_groups)


def _split(weight: Tensor, mask: Tensor, scales: Scales | None, rows: list[int]) -> list[Compressed]:
    masks = torch.split(mask, rows)
    if scales is None:
        return [Compressed(w, mask=m) for w, m in zip(torch.split(weight, rows), masks, strict=True)]
    quantised = split_rows(scales.quantised(), rows)
    return [Compressed(q.dequantised(), mask=m, quantised=q) for q, m in zip(quantised, masks, strict=True)]


class _Rounding:
    """Marked weights become zero; with scales, the others (and, exactly, the zeros) become levels."""

    def __init__(self, method: SparseGPT, rows: list[int], cols: int, scales: Scales | None, ready: Prepared) -> None:
        self.scales = scales
        self.mask = torch.empty(0, dtype=torch.bool)
        self._dead = ready.dead[ready.order]  # by position
        self._pattern, self._rows, self._cols = method.pattern, rows, cols

    def enter_block(self, start: int, block: Tensor, diagonal: Tensor) -> None:
        """Unstructured masks are fixed here, for each matrix over the whole block."""
        if start == 0:
            self.mask = torch.empty(self._cols, block.shape[1], dtype=torch.bool, device=block.device)
        self._start, self._block, self._diagonal = start, block, diagonal
        if isinstance(self._pattern, Unstructured):
            self.mask[start : start + len(block)] = self._block_mask(self._pattern.sparsity)

    def _scores(self, at: slice) -> Tensor:
        """w² / U_ii² of some inputs of the block, [inputs, rows]; 0 for those never seen."""
        scores = self._block[at].square() / self._diagonal[at, None].square()
        dead = self._dead[self._start : self._start + len(self._block)][at]
        return scores.masked_fill_(dead[:, None], 0.0)

    def _block_mask(self, sparsity: float) -> Tensor:
        scores = self._scores(slice(0, len(self._block)))
        masks = []
        for one in torch.split(scores, self._rows, dim=1):
            earlier_first = one.t().reshape(-1)  # by row, then by input
            masks.append(smallest(earlier_first, share(one.numel(), sparsity)).view(one.shape[1], -1).t())
        return torch.cat(masks, dim=1)

    def round(self, position: int, weights: Tensor, remaining: Tensor) -> Tensor:
        """The input's weights with the marked ones at zero, quantised where asked, [rows]."""
        if isinstance(self._pattern, NM) and position % self._pattern.m == 0:
            self._mark_group(position, self._pattern)
        kept = weights.masked_fill(self.mask[position], 0.0)
        return kept if self.scales is None else self.scales.round(position, kept, remaining)

    def _mark_group(self, position: int, pattern: NM) -> None:
        """An N:M group is fixed at its first input, by weights compensated so far."""
        at = slice(position - self._start, position - self._start + pattern.m)
        scores = self._scores(at)
        self.mask[position : position + pattern.m] = smallest(scores.t(), pattern.m - pattern.n).t()
