"""GPTQ: quantise input by input and let those yet to come make up for it (Frantar et al. 2022, arXiv 2210.17323)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from earnest.compression.columns import Scales, compensate, split_rows
from earnest.compression.hessian import prepare
from earnest.compression.matrices import Compressed, Matrix
from earnest.compression.quantiser import Quantiser, scale_dtype_for
from earnest.specs import GPTQ


def compress(matrices: Sequence[Matrix], statistic: Tensor, method: GPTQ) -> list[Compressed]:
    """Quantise Linears that read the same inputs.

    Group scales are made where the reference program makes them (see `columns.Scales`). The weights of inputs that
    were always zero are rounded to nearest, where the reference program makes them zero. Symmetric
    ranges are the same for every row, unlike the reference's (see `Quantiser`).

    Args:
        matrices: Linears that read the same inputs; their rows are stacked, which changes no row.
        statistic: the Hessian of these inputs, [cols, cols].
        method: bits, groups, order and damping.

    Raises:
        UserError: the Hessian is not finite or not positive definite.
    """
    ready = prepare(statistic, damping=method.damping, act_order=method.act_order, name=matrices[0].name)
    dense = torch.cat([matrix.weight for matrix in matrices])  # [rows, cols]
    quantiser = Quantiser(method.bits, method.symmetric, scale_dtype_for(matrices[0].dtype))
    rounding = _Rounding(Scales(quantiser, method.group_size, dense, ready.order, static=method.static_groups))
    compensate(dense[:, ready.order].t().contiguous(), ready.upper, method.block_size, rounding)
    rows = [len(matrix.weight) for matrix in matrices]
    return [Compressed(q.dequantised(), quantised=q) for q in split_rows(rounding.scales.quantised(), rows)]


class _Rounding:
    """Every weight becomes a level of its group."""

    def __init__(self, scales: Scales) -> None:
        self.scales = scales

    def enter_block(self, start: int, block: Tensor, diagonal: Tensor) -> None:
        """Blocks do not matter to levels."""

    def round(self, position: int, weights: Tensor, remaining: Tensor) -> Tensor:
        """The nearest levels of the input's weights, [rows]."""
        return self.scales.round(position, weights, remaining)
