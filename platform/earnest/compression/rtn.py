"""Round to nearest: each weight becomes its nearest level. The control of quantisation that uses no data."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from earnest.compression.matrices import Compressed, Matrix
from earnest.compression.quantiser import Quantised, Quantiser, plain_groups, scale_dtype_for
from earnest.specs import RTN


def compress(matrices: Sequence[Matrix], method: RTN) -> list[Compressed]:
    """Quantise each matrix group by group; no data is read."""
    return [_round(matrix, method) for matrix in matrices]


def _round(matrix: Matrix, method: RTN) -> Compressed:
    quantiser = Quantiser(method.bits, method.symmetric, scale_dtype_for(matrix.dtype))
    rows, cols = matrix.weight.shape
    size = cols if method.group_size == -1 else method.group_size
    groups = matrix.weight.view(rows, -1, size)  # [rows, groups, inputs]
    scale, zero = quantiser.fit(groups)
    codes = quantiser.encode(groups, scale[..., None], zero[..., None]).flatten(1).to(torch.uint8)
    group_of = plain_groups(cols, method.group_size, codes.device)
    quantised = Quantised(method.bits, method.symmetric, method.group_size, codes, scale, zero, group_of)
    return Compressed(quantised.dequantised(), quantised=quantised)
