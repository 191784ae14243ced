"""A running batch of a Llama-shaped model by our own pass, over preallocated keys and values, a row for each text.

The arithmetic is `lean_pass`; whether the logits are truly those of transformers is for `local` to prove.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from earnest.decoding.layout import Layout, Place, Sight
from earnest.decoding.lean_pass import LeanPass


class LeanDecoder:
    """A Llama-shaped model with the keys and values of `rows` texts of at most `slots` tokens each.

    One slot more per row takes what padding writes in steps of a fixed shape; nobody attends to it.
    """

    kind = "lean"

    def __init__(self, model: Any, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.forward = LeanPass(model, slots + 1)
        self.vocabulary = self.forward.vocabulary
        self.device, self.dtype = self.forward.device, self.forward.dtype
        self.hidden, self.logits = self.forward.hidden, self.forward.logits
        self.store = self.forward.store(rows, slots + 1)
        self._written = self.store.transpose(2, 3).unbind(0)

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        return self.store[:, 0].numel() * self.store.element_size()

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        if len(rows) == 1:
            ids = torch.tensor(tokens[0], device=self.device)
            hidden = self.hidden(self.one(rows[0], starts[0], ids))
            return self.logits(hidden[-1:] if last else hidden)
        hidden = self.hidden(self.many(rows, starts, tokens))
        if last:
            ends = torch.tensor([*accumulate(map(len, tokens))], device=self.device) - 1
            hidden = hidden.index_select(0, ends)
        return self.logits(hidden)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""
        self.store[:, target, :, :count] = self.store[:, source, :, :count]

    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""
        self.store[:, row, :, start:] = 0

    def one(self, row: int, start: int, ids: Tensor) -> Place:
        """A step of one row: `ids` [tokens] from position `start` on. All of it but a mask is views."""
        width, own = len(ids), self.store[:, row : row + 1]
        end = start + width
        positions, first = self.forward.steps[None, start:end], self.forward.first(start)
        keys, values = self.forward.seen(own[:, :, :, :end], first)
        causal = width > 1 and start == 0 and not self.forward.packs(width)
        sight = Sight(None if width == 1 or causal else self.forward.mask(positions, end), causal)
        return Place(
            ids, (self.forward.cos[start:end], self.forward.sin[start:end]), 1, width,
            written=own[:, :, :, start:end].unbind(0), keys=keys, values=values,
            sight=sight, near=self.forward.near(sight, positions, end, first),
        )  # fmt: skip

    def many(self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]]) -> Place:
        """A step of several rows of any lengths."""
        span = max(start + len(row) for start, row in zip(starts, tokens, strict=True))
        first = self.forward.first(min(starts))
        return self._place(Layout.of(tokens, rows, starts, self.device), first, span, block_of(rows))

    def fixed(self, ids: Tensor, rows: Tensor, positions: Tensor, span: int, block: slice | None) -> Place:
        """A step that no value in a tensor changes the shape of, as CUDA graphs need it.

        `ids` [rows * width] go to `positions` [rows, width] of `rows` [rows], which are the `block` of the store or lie
        anywhere in it; tokens that mean nothing go to position `slots`. All positions to be seen lie before `span`.
        """
        owners = rows.repeat_interleave(positions.shape[1])
        return self._place(Layout(ids, rows, owners, positions.flatten(), positions, None), 0, span, block)

    def _place(self, at: Layout, first: int, span: int, block: slice | None) -> Place:
        keys, values, chosen = self._seen(at.rows, first, span, block)
        sight = Sight(self.forward.mask(at.positions, span))
        return Place(
            at.ids, self._turn(at.slots), len(at.positions), at.positions.shape[1], padding=at.padding,
            written=self._written, owners=at.owners, slots=at.slots,
            keys=keys, values=values, chosen=chosen,
            sight=sight, near=self.forward.near(sight, at.positions, span, first),
        )  # fmt: skip

    def _seen(
        self, rows: Tensor, first: int, span: int, block: slice | None
    ) -> tuple[Sequence[Tensor], Sequence[Tensor], Tensor | None]:
        """Keys and values of each layer that hold those of `rows`, and which of them are theirs, None where all are."""
        if block is None:
            return *self.forward.seen(self.store[:, :, :, :span], first), rows
        return *self.forward.seen(self.store[:, block, :, :span], first), None

    def _turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward.cos.index_select(0, positions), self.forward.sin.index_select(0, positions)


def block_of(rows: Sequence[int]) -> slice | None:
    """The stretch of the store that the rows fill in order, None where they do not."""
    first = rows[0]
    return slice(first, first + len(rows)) if list(rows) == list(range(first, first + len(rows))) else None
