"""An own forward pass for Llama-shaped decoders over preallocated keys and values.

It does transformers' arithmetic in transformers' order with the fewest calls, in a third of the time: query, key and
value in one product, gate and up in another, rotary tables looked up, and nothing decided per layer. Which models are
of that shape is `blocks.fits`; whether the logits are truly those of transformers is for `local` to prove. Rows of
different lengths are packed without padding; only attention sees them padded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from earnest.decoding.blocks import Block, Norm, fused

MOST_PACKED = 64
"""So many queries at most are folded into one key's head; more than that read repeated keys."""


@dataclass(frozen=True)
class Place:
    """Where the tokens of one step go and what they see; one entry per layer in the lists of views.

    `ids` and `positions` are of the tokens, row after row without padding; `rows` x `width` is their padded shape, and
    `padded` the index of each token in it, None where nothing is padded. `written` is what new keys and values are put
    into, at the positions of the rows that own the tokens where it holds many; `keys` and `values` are what is seen, by
    the rows `chosen` where it holds more than theirs.
    """

    ids: Tensor  # [tokens]
    positions: Tensor  # [tokens]
    turn: tuple[Tensor, Tensor]  # [tokens, 1, width], how the positions rotate queries and keys
    rows: int
    width: int
    padded: Tensor | None  # [tokens]
    written: Sequence[Tensor]
    owners: Tensor | None  # [tokens]
    keys: Sequence[Tensor]
    values: Sequence[Tensor]
    chosen: Tensor | None  # [rows]
    mask: Tensor | None  # [rows, 1, width, span], added to scores
    causal: bool


class LeanDecoder:
    """A Llama-shaped model with the keys and values of `rows` texts of at most `slots` tokens each.

    One slot more per row takes what padding writes in steps of a fixed shape; nobody attends to it.
    """

    kind = "lean"

    def __init__(self, model: Any, rows: int, slots: int) -> None:
        config, body, head = model.config, model.model, model.get_output_embeddings()
        self.rows, self.slots = rows, slots
        self.vocabulary = int(head.weight.shape[0])
        self._heads, self._kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._groups = self._heads // self._kv_heads
        self._width = int(body.layers[0].self_attn.head_dim)
        self._scale = self._width**-0.5
        self._blocks = [Block.of(layer, config.rms_norm_eps) for layer in body.layers]
        self._embeddings: Tensor = body.embed_tokens.weight.detach()
        self._norm, self._head = Norm(body.norm.weight, config.rms_norm_eps), fused(head)
        weight = self._embeddings
        self.device, self.dtype = weight.device, weight.dtype
        self._steps = torch.arange(slots + 1, device=self.device)
        self._cos, self._sin = self._rotary(body.rotary_emb)
        shape = (len(self._blocks), rows, 2 * self._kv_heads, slots + 1, self._width)
        self.store = torch.zeros(shape, dtype=self.dtype, device=self.device)

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        return self.store[:, 0].numel() * self.store.element_size()

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        lengths = [len(row) for row in tokens]
        if len(rows) == 1:
            ids = torch.tensor(tokens[0], device=self.device)
            hidden = self.hidden(self.one(rows[0], starts[0], ids))
            return self.logits(hidden[-1:] if last else hidden)[None]
        ids = torch.tensor(list(chain.from_iterable(tokens)), device=self.device)
        place = self.many(rows, starts, ids, lengths)
        hidden = self.hidden(place)
        if last:
            ends = torch.tensor(lengths, device=self.device).cumsum(0) - 1
            return self.logits(hidden[ends])[:, None]
        logits = self.logits(hidden)
        if place.padded is not None:
            whole = logits.new_zeros((place.rows * place.width, self.vocabulary))
            logits = whole.index_copy_(0, place.padded, logits)
        return logits.view(place.rows, place.width, -1)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""
        self.store[:, target, :, :count] = self.store[:, source, :, :count]

    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""
        self.store[:, row, :, start:] = 0

    def one(self, row: int, start: int, ids: Tensor) -> Place:
        """A step of one row: `ids` [tokens] from position `start` on. All of it is views, none of it an index."""
        width = len(ids)
        end = start + width
        own = self.store[:, row]
        positions = self._steps[start:end]
        seen = own[:, None, :, :end]
        causal = width > 1 and start == 0 and not self._packs(width)
        mask = None if width == 1 or causal else self._mask(positions[None], end)
        return Place(
            ids, positions, (self._cos[start:end], self._sin[start:end]), 1, width, None,
            own[:, :, start:end].unbind(0), None,
            seen[:, :, : self._kv_heads].unbind(0), seen[:, :, self._kv_heads :].unbind(0), None, mask, causal,
        )  # fmt: skip

    def many(self, rows: Sequence[int], starts: Sequence[int], ids: Tensor, lengths: Sequence[int]) -> Place:
        """A step of several rows of any lengths; `ids` [tokens] row after row."""
        width, span = max(lengths), max(start + length for start, length in zip(starts, lengths, strict=True))
        row, start, length = torch.tensor([rows, starts, lengths], device=self.device).unbind(0)
        positions = start[:, None] + self._steps[:width]  # [rows, width]
        place = self.fixed(ids, row, positions, span, block_of(rows))
        if min(lengths) == width:
            return place
        padded = (self._steps[:width] < length[:, None]).view(-1).nonzero()[:, 0]
        owners, positions = row.repeat_interleave(width)[padded], place.positions[padded]
        turn = self._cos[positions], self._sin[positions]
        return replace(place, positions=positions, turn=turn, owners=owners, padded=padded)

    def fixed(self, ids: Tensor, rows: Tensor, positions: Tensor, span: int, block: slice | None) -> Place:
        """A step that no value in a tensor changes the shape of, as CUDA graphs need it.

        `ids` [rows * width] go to `positions` [rows, width] of `rows` [rows], which are the `block` of the store or lie
        anywhere in it; tokens that mean nothing go to position `slots`. All positions to be seen lie before `span`.
        """
        (count, width), flat = positions.shape, positions.flatten()
        seen = (self.store if block is None else self.store[:, block])[:, :, :, :span]
        return Place(
            ids, flat, (self._cos[flat], self._sin[flat]), count, width, None,
            self.store.transpose(2, 3).unbind(0), rows.repeat_interleave(width),
            seen[:, :, : self._kv_heads].unbind(0), seen[:, :, self._kv_heads :].unbind(0),
            rows if block is None else None, self._mask(positions, span), False,
        )  # fmt: skip

    def hidden(self, place: Place) -> Tensor:
        """The last hidden states [tokens, hidden] of a step, whose keys and values are kept."""
        x = self._embeddings.index_select(0, place.ids)
        for number, block in enumerate(self._blocks):
            x = block.out(self._attend(block, number, block.before(x), place)).add_(x)
            gate, up = block.gate_up(block.between(x)).chunk(2, -1)
            x = block.down(F.silu(gate).mul_(up)).add_(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [positions, vocabulary] in float32 of hidden states [positions, hidden]."""
        return self._head(self._norm(hidden)).float()

    def _attend(self, block: Block, number: int, x: Tensor, place: Place) -> Tensor:
        z = block.qkv(x).view(len(x), -1, self._width)  # [tokens, heads + 2 * kv_heads, width]
        turned = z[:, : self._heads + self._kv_heads]
        if block.query is not None and block.key is not None:
            turned[:, : self._heads] = block.query(turned[:, : self._heads])
            turned[:, self._heads :] = block.key(turned[:, self._heads :])
        cos, sin = place.turn
        half = turned.roll(self._width // 2, -1).mul_(sin)
        turned.mul_(cos).add_(half)
        query, new = z[:, : self._heads], z[:, self._heads :]
        if place.owners is None:
            place.written[number].copy_(new.transpose(0, 1))
        else:
            place.written[number].index_put_((place.owners, place.positions), new)
        keys, values = place.keys[number], place.values[number]
        if place.chosen is not None:
            keys, values = keys.index_select(0, place.chosen), values.index_select(0, place.chosen)
        return self._attention(query, keys, values, place)

    def _attention(self, query: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
        """Attention of query [tokens, heads, width] over keys and values [rows, kv_heads, span, width]."""
        if place.padded is not None:
            whole = query.new_zeros((place.rows * place.width, *query.shape[1:]))
            query = whole.index_copy_(0, place.padded, query)
        if self._packs(place.width):
            return self._packed_attention(query, keys, values, place)
        query = query.view(place.rows, place.width, self._heads, self._width).transpose(1, 2)
        if self._groups > 1:
            keys, values = (part.repeat_interleave(self._groups, 1) for part in (keys, values))
        y = F.scaled_dot_product_attention(
            query, keys, values, attn_mask=place.mask, is_causal=place.causal, scale=self._scale
        )
        y = y.transpose(1, 2).reshape(place.rows * place.width, -1)
        return y if place.padded is None else y[place.padded]

    def _packs(self, width: int) -> bool:
        """Whether heads that share keys are folded into one head of more queries, so that no key is repeated."""
        return self._groups > 1 and self._groups * width <= MOST_PACKED

    def _packed_attention(self, query: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
        """The same with the queries [rows * width, heads, width] of a group of heads in the place of one head's."""
        shape = (place.rows, place.width, self._kv_heads, self._groups, self._width)
        query = query.view(shape).permute(0, 2, 3, 1, 4).flatten(2, 3)  # [rows, kv_heads, groups * width, width]
        y = F.scaled_dot_product_attention(query, keys, values, attn_mask=place.mask, scale=self._scale)
        y = y.view(place.rows, self._kv_heads, self._groups, place.width, self._width).permute(0, 3, 1, 2, 4)
        y = y.reshape(place.rows * place.width, -1)
        return y if place.padded is None else y[place.padded]

    def _mask(self, positions: Tensor, span: int) -> Tensor:
        """What is added to scores [rows, 1, width, span] so that positions [rows, width] see nothing behind them."""
        behind = self._steps[:span] > positions[:, None, :, None]
        if self._packs(positions.shape[1]):
            behind = behind.repeat(1, 1, self._groups, 1)
        return torch.zeros((), dtype=self.dtype, device=self.device).masked_fill(behind, -torch.inf)

    def _rotary(self, rotary: Any) -> tuple[Tensor, Tensor]:
        """Cosines and sines [slots + 1, 1, width] of all positions; the sines carry the sign of rotating by halves."""
        cos, sin = (table[0][:, None] for table in rotary(self._embeddings, self._steps[None]))
        sign = torch.ones(self._width, dtype=sin.dtype, device=sin.device)
        sign[: self._width // 2] = -1
        return cos.contiguous(), sin * sign


def block_of(rows: Sequence[int]) -> slice | None:
    """The stretch of the store that the rows fill in order, None where they do not."""
    first = rows[0]
    return slice(first, first + len(rows)) if list(rows) == list(range(first, first + len(rows))) else None
