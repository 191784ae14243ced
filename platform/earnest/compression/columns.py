"""The loop that SparseGPT and GPTQ share: round one input after the other, and let those yet to come make up for it.

For input i with U from `hessian.prepare`: error = (w_i − rounded_i) / U_ii, and every later weight of the row gives
way by error · U_ij (arXiv 2210.17323, algorithm 1). Within a block of inputs this happens at once, beyond it once per
block. Rows never interact, so matrices that read the same inputs are stacked. The loop works on the transposed weight:
one input's weights lie side by side.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from earnest.compression.quantiser import Quantised, Quantiser


class Rounding(Protocol):
    """What becomes of one input's weights; SparseGPT and GPTQ differ only here."""

    def enter_block(self, start: int, block: Tensor, diagonal: Tensor) -> None:
        """A block of inputs begins at position `start`: block [inputs, rows], diagonal [inputs] of U.

        `block` is the loop's working copy: it changes from input to input.
        """

    def round(self, position: int, weights: Tensor, remaining: Tensor) -> Tensor:
        """The rounded weights [rows] of the input at `position`.

        `weights` [rows] are compensated for all inputs before; `remaining` [inputs from position on, rows] only for
        the blocks before.
        """


def compensate(weight: Tensor, upper: Tensor, block_size: int, rounding: Rounding) -> None:
    """Round all inputs in place.

    Args:
        weight: float32 [cols, rows], contiguous, in visiting order.
        upper: U, float32 [cols, cols].
        block_size: inputs per block.
        rounding: decides each input's rounded weights.
    """
    cols = len(weight)
    for start in range(0, cols, block_size):
        stop = min(start + block_size, cols)
        errors = _round_block(weight, upper[start:stop, start:stop], start, stop, rounding)  # [inputs, rows]
        weight[stop:].addmm_(upper[start:stop, stop:].t(), errors, alpha=-1.0)


def _round_block(weight: Tensor, upper: Tensor, start: int, stop: int, rounding: Rounding) -> Tensor:
    block = weight[start:stop].clone()  # [inputs, rows]
    errors = torch.empty_like(block)
    diagonal = upper.diagonal()
    rounding.enter_block(start, block, diagonal)
    rows = zip(block.unbind(), errors.unbind(), diagonal.unbind(), strict=True)
    for i, (weights, error, pivot) in enumerate(rows):
        rounded = rounding.round(start + i, weights, weight[start + i :])
        torch.sub(weights, rounded, out=error).div_(pivot)
        block[i + 1 :].addr_(upper[i, i + 1 :], error, alpha=-1.0)
        weights.copy_(rounded)
    weight[start:stop] = block
    return errors


class Scales:
    """The scale and zero point of each visited input, chosen on the way or beforehand, and the codes made with them.

    Groups on the way (the default) are runs of `group_size` inputs in visiting order; their scales come from the
    weights as they stand when the group's first input is reached, compensated for the blocks before. Static groups
    are runs in the original order and their scales come from the weights before the loop. One group per row
    (group_size −1) takes the dense row. All three as in GPTQ's reference program.
    """

    def __init__(self, quantiser: Quantiser, group_size: int, dense: Tensor, order: Tensor, *, static: bool) -> None:
        """Begin with the dense weight [rows, cols], in the original order."""
        rows, cols = dense.shape
        self._quantiser, self._group_size = quantiser, group_size
        self._fixed = static or group_size == -1
        size = cols if group_size == -1 else group_size
        if self._fixed:
            scale, zero = quantiser.fit(dense.view(rows, -1, size))  # [rows, groups]
            self._scale, self._zero = scale.t().contiguous(), zero.t().contiguous()
        else:
            self._scale = torch.empty(cols // size, rows, device=dense.device)
            self._zero = torch.empty_like(self._scale)
        groups = torch.arange(cols, device=dense.device)
        self._visited = (order if self._fixed else groups) // size  # group by position
        self._group_at = self._visited.tolist()
        self._order, self._size = order, size
        self._codes = torch.empty(cols, rows, device=dense.device)

    def round(self, position: int, weights: Tensor, remaining: Tensor) -> Tensor:
        """Quantise and dequantise one input's weights [rows] and remember their codes."""
        group = self._group_at[position]
        scale, zero = self._scale[group], self._zero[group]
        if not self._fixed and position % self._size == 0:
            fitted = self._quantiser.fit(remaining[: self._size].t())
            scale.copy_(fitted[0])
            zero.copy_(fitted[1])
        codes = self._quantiser.encode(weights, scale, zero)
        self._codes[position] = codes
        return codes.sub_(zero).mul_(scale)

    def quantised(self) -> Quantised:
        """All codes in the original order of inputs."""
        group_of = torch.empty_like(self._visited)
        group_of[self._order] = self._visited
        codes = torch.empty_like(self._codes, dtype=torch.uint8)
        codes[self._order] = self._codes.to(torch.uint8)
        return Quantised(
            self._quantiser.bits,
            self._quantiser.symmetric,
            self._group_size,
            codes.t(),
            self._scale.t(),
            self._zero.t(),
            group_of,
        )


def split_rows(stacked: Quantised, rows: list[int]) -> list[Quantised]:
    """The codes of stacked matrices, one by one."""
    parts = zip(
        torch.split(stacked.codes, rows), torch.split(stacked.scale, rows), torch.split(stacked.zero, rows), strict=True
    )
    return [
        Quantised(
            stacked.bits,
            stacked.symmetric,
            stacked.group_size,
            codes.contiguous(),
            scale.contiguous(),
            zero.contiguous(),
            stacked.group_of,
        )
        for codes, scale, zero in parts
    ]
