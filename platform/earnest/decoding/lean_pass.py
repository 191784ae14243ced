"""An own forward pass for Llama-shaped decoders: transformers' arithmetic in its order, with the fewest calls.

Query, key and value in one product, gate and up in another, rotary tables looked up, and nothing decided per layer: a
third of transformers' time per cached step on a CPU. Which models are of that shape is `blocks.fits`; who keeps keys
and values, and where, is for `lean` (rows of a running batch) and `packed` (a tree of segments) to say, in a `Place`.
Rows of different lengths are packed without padding; only attention sees them padded. Layers may see a window: they
then see fewer of the same keys, by a mask of their own (`Sight`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from earnest.decoding.blocks import Block, Norm, fused
from earnest.decoding.kv_cache import layer_windows
from earnest.decoding.layout import Place, Sight

TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.08, torch.float16: 0.02}
"""Of the largest logit: how far two ways of rounding the same arithmetic may lie apart."""
PIECE = 256
"""So many queries of a text that leaves the window see theirs at once: a mask for all would hide nearly all."""
MOST_PACKED = 64
"""So many queries at most are folded into one key's head; more than that read repeated keys."""

Parts = tuple[Tensor, Tensor, Tensor]
"""Queries, keys and values [rows, heads, tokens, width]."""


class LeanPass:
    """A Llama-shaped model's weights and what is done with them, for texts of at most `longest` tokens.

    `window` is how far the layers see, themselves included, for which `windowed` says so; None where no text is longer.
    """

    def __init__(self, model: Any, longest: int) -> None:
        config, body, head = model.config, model.model, model.get_output_embeddings()
        self.vocabulary = int(head.weight.shape[0])
        self.heads, self.kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self._groups = self.heads // self.kv_heads
        self.width = int(body.layers[0].self_attn.head_dim)
        self.scale = self.width**-0.5
        self.blocks = [Block.of(layer, config.rms_norm_eps) for layer in body.layers]
        self.embeddings: Tensor = body.embed_tokens.weight.detach()
        self.norm, self.head = Norm(body.norm.weight, config.rms_norm_eps), fused(head)
        self.device, self.dtype = self.embeddings.device, self.embeddings.dtype
        self.steps = torch.arange(longest, device=self.device)
        self.cos, self.sin = self._rotary(body.rotary_emb)
        windows = [None if window is None or window >= longest else window for window in layer_windows(model)]
        self.windowed = tuple(window is not None for window in windows)
        self.window = min(filter(None, windows), default=None)
        self._masks, self._near_masks = (self._bands(longest, window) for window in (None, self.window))

    def store(self, rows: int, slots: int) -> Tensor:
        """Room for keys and values, empty: [layers, rows, 2 * kv_heads, slots, width]."""
        shape = (len(self.blocks), rows, 2 * self.kv_heads, slots, self.width)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def seen(self, store: Tensor, first: int = 0) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
        """A store, or a stretch of it, as keys and values of each layer, those with a window from slot `first` on."""
        keys, values = store[:, :, : self.kv_heads].unbind(0), store[:, :, self.kv_heads :].unbind(0)
        return (self._from(first, keys), self._from(first, values)) if first else (keys, values)

    def _from(self, first: int, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        return [part[:, :, first:] if near else part for part, near in zip(parts, self.windowed, strict=True)]

    def hidden(self, place: Place) -> Tensor:
        """The last hidden states [tokens, hidden] of a step."""
        x = self.embeddings.index_select(0, place.ids)
        for number, block in enumerate(self.blocks):
            x = block.out(self._attend(block, number, block.before(x), place)).add_(x)
            gate, up = block.gate_up(block.between(x)).chunk(2, -1)
            x = block.down(F.silu(gate).mul_(up)).add_(x)
        return x

    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [positions, vocabulary] in float32 of hidden states [positions, hidden]."""
        return self.head(self.norm(hidden)).float()

    def packs(self, width: int) -> bool:
        """Whether heads that share keys are folded into one head of more queries, so that no key is repeated."""
        return self._groups > 1 and self._groups * width <= MOST_PACKED

    def mask(self, positions: Tensor, span: int) -> Tensor:
        """What is added to scores [rows, 1, width, span] so that positions [rows, width] see nothing behind them.

        Where heads are packed, it is there once for each that shares a key: [rows, 1, groups * width, span].
        """
        return self._mask(self._masks[:, :span], positions)

    def first(self, position: int) -> int:
        """The first slot that layers with a window see from a position."""
        return 0 if self.window is None else max(0, position - self.window + 1)

    def near(self, sight: Sight, positions: Tensor, span: int, first: int) -> Sight:
        """What layers with a window see of the slots from `first` to `span`, where others have this sight of all."""
        if self.window is None or span <= self.window:
            return sight
        if positions.shape[1] == 1 and sight.mask is None:
            return sight  # all rows see as far, and that begins with `first`
        if sight.causal and span > self.window + PIECE:
            return Sight(causal=True, pieces=True)
        return Sight(self._mask(self._near_masks[:, first:span], positions))

    def near_trunk(self, positions: Tensor, span: int, first: int) -> Tensor:
        """What hides slots `first` to `span` of a trunk from tokens at positions [tokens] of layers with a window."""
        near = self._near_masks[:, first:span].index_select(0, len(self._near_masks) - 1 - positions)
        return near.repeat(self._groups, 1)[None, None]

    def _mask(self, bands: Tensor, positions: Tensor) -> Tensor:
        rows, width = positions.shape
        places = positions.repeat(1, self._groups) if self.packs(width) else positions
        chosen = (len(bands) - 1 - places).view(-1)  # a short row's padding may lie beyond the longest text
        return bands.index_select(0, chosen).view(rows, 1, -1, bands.shape[1])

    def _bands(self, longest: int, window: int | None) -> Tensor:
        """Masks [2 * longest, longest]: row i shows slots before 2 * longest - i, as many as a window has.

        What lies before the window is hidden by the lowest number: where that is all, attention is a number, too.
        """
        seen = torch.zeros(3 * longest, dtype=self.dtype, device=self.device)
        seen[2 * longest :] = -torch.inf
        if window is not None:
            seen[: 2 * longest - window] = torch.finfo(self.dtype).min
        return seen.as_strided((2 * longest, longest), (1, 1))

    def _attend(self, block: Block, number: int, x: Tensor, place: Place) -> Tensor:
        z = block.qkv(x).view(len(x), -1, self.width)  # [tokens, heads + 2 * kv_heads, width]
        turned = z[:, : self.heads + self.kv_heads]
        if block.query is not None and block.key is not None:
            turned[:, : self.heads] = block.query(turned[:, : self.heads])
            turned[:, self.heads :] = block.key(turned[:, self.heads :])
        cos, sin = place.turn
        half = turned.roll(self.width // 2, -1).mul_(sin)
        turned.mul_(cos).add_(half)
        query, new = z[:, : self.heads], z[:, self.heads :]
        if place.written is not None:
            self._keep(new, place.written[number], place)
        if place.keys is None or place.values is None:
            keys, values = torch.split(self._by_row(new, place), self.kv_heads, 1)
        else:
            keys, values = place.keys[number], place.values[number]
        if place.chosen is not None:
            keys, values = keys.index_select(0, place.chosen), values.index_select(0, place.chosen)
        sight = place.near if self.windowed[number] else place.sight
        own = self._folded(query, place, sight)  # [rows, heads or kv_heads, width or groups * width, width of a head]
        if self._groups > 1 and own.shape[1] == self.heads:
            keys, values = (part.repeat_interleave(self._groups, 1) for part in (keys, values))
        if place.trunk is not None and place.trunk[0][number].shape[2]:  # none of it may be within the window
            return self._beside_trunk(query, own, keys, values, place, number)
        parts = [
            F.scaled_dot_product_attention(*part, attn_mask=seen.mask, is_causal=seen.causal, scale=self.scale)
            for part, seen in self._pieces((own, keys, values), sight)
        ]
        return self._by_token(_joined(parts), place).flatten(1)

    def _pieces(self, parts: Parts, sight: Sight) -> Iterator[tuple[Parts, Sight]]:
        """Queries, keys and values some at a time, and what is seen of these."""
        if not sight.pieces or self.window is None:
            yield parts, sight
            return
        query, keys, values = parts
        for begin in range(0, query.shape[2], PIECE):
            end, first = min(begin + PIECE, query.shape[2]), self.first(begin)
            rows = len(self._near_masks) - 1 - self.steps[begin:end]
            mask = self._near_masks[:, first:end].index_select(0, rows)[None, None]
            yield (query[:, :, begin:end], keys[:, :, first:end], values[:, :, first:end]), Sight(mask)

    def _keep(self, new: Tensor, written: Tensor, place: Place) -> None:
        """Put new keys and values [tokens, 2 * kv_heads, width] where they go."""
        if place.owners is None or place.slots is None:
            written.copy_(new.view(place.rows, place.width, -1, self.width).transpose(1, 2))
        else:
            written.index_put_((place.owners, place.slots), new)

    def _beside_trunk(
        self, query: Tensor, own: Tensor, keys: Tensor, values: Tensor, place: Place, number: int
    ) -> Tensor:
        """Attention over a row's own keys and over the trunk's, which all queries see at once, joined by their mass.

        Softmax over both is each one's softmax, weighed by its share of the sum of exponentials.
        """
        assert place.trunk is not None
        sight = place.near if self.windowed[number] else place.sight
        pieces = [_attention(*part, seen, self.scale) for part, seen in self._pieces((own, keys, values), sight)]
        mine, mass = (self._by_token(_joined(parts), place) for parts in zip(*pieces, strict=True))
        grouped = query.view(-1, self.kv_heads, self._groups, self.width).permute(1, 2, 0, 3)
        folded = grouped.reshape(1, self.kv_heads, -1, self.width)  # [1, kv_heads, groups * tokens, width]
        trunk = Sight(sight.trunk)
        shared, weight = (
            part.reshape(self.heads, len(query), -1).transpose(0, 1)
            for part in _attention(folded, place.trunk[0][number], place.trunk[1][number], trunk, self.scale)
        )
        share = torch.sigmoid(mass - weight)  # [tokens, heads, 1]
        return torch.lerp(shared.float(), mine.float(), share).to(query.dtype).flatten(1)

    def _folded(self, query: Tensor, place: Place, sight: Sight) -> Tensor:
        """Queries [tokens, heads, width] row by row; heads that share keys in the place of one where that pays."""
        rows = self._by_row(query, place)
        if sight.causal or not self.packs(place.width):
            return rows
        return rows.reshape(place.rows, self.kv_heads, -1, self.width)

    def _by_row(self, tokens: Tensor, place: Place) -> Tensor:
        """[tokens, heads, width] as [rows, heads, longest, width]."""
        tokens = tokens if place.padding is None else place.padding.spread(tokens)
        return tokens.view(place.rows, place.width, -1, self.width).transpose(1, 2)

    def _by_token(self, rows: Tensor, place: Place) -> Tensor:
        """[rows, heads, longest, width] or folded, as [tokens, heads, width]."""
        tokens = rows.reshape(place.rows, self.heads, place.width, -1).transpose(1, 2).flatten(0, 1)
        return tokens if place.padding is None else place.padding.joined(tokens)

    def _rotary(self, rotary: Any) -> tuple[Tensor, Tensor]:
        """Cosines and sines [longest, 1, width] of all positions; the sines carry the sign of rotating by halves."""
        cos, sin = (table[0][:, None] for table in rotary(self.embeddings, self.steps[None]))
        sign = torch.ones(self.width, dtype=sin.dtype, device=sin.device)
        sign[: self.width // 2] = -1
        return cos.contiguous(), sin * sign


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Pieces [rows, heads, queries, ...] of one attention."""
    return parts[0] if len(parts) == 1 else torch.cat([*parts], 2)


def _attention(query: Tensor, keys: Tensor, values: Tensor, sight: Sight, scale: float) -> tuple[Tensor, Tensor]:
    """Attention [rows, heads, queries, width] and its log-sum-exp [rows, heads, queries, 1]."""
    y, mass = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, keys, values, 0.0, sight.causal, attn_mask=sight.mask, scale=scale
    )
    return y, mass[..., None]
