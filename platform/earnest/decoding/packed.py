"""The own pass as scoring and batched generation read by it: rows that follow a past, which may be a shared trunk.

It stands beside `forward.CausalForward` and does what that does. Rows are packed without padding; a past's keys and
values lie by position, without holes; and what all rows of a batch begin with is one row that all attend to, copied to
nobody (`Branch`). `forward_for` proves by a probe that a model's logits are transformers' own, and else takes those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from earnest.decoding.blocks import fits
from earnest.decoding.forward import CausalForward, Forward
from earnest.decoding.independence import holds_beyond_windows
from earnest.decoding.layout import ALL, Layout, Place, Sight
from earnest.decoding.lean_pass import TOLERANCE, LeanPass
from earnest.decoding.reading import Way
from earnest.decoding.rope import NO_SWITCHES

LEAST_TRUNK = 16
"""So long at least is what rows share, before attending to it apart is cheaper than a copy of it for each."""
CPU_READING = 1_024
"""So many tokens are read at once on a CPU."""
ROOM = 64
_PROBE = 24


@dataclass(frozen=True)
class Branch:
    """What a batch of rows has read: a trunk that is the same for all, and what each has read behind it."""

    trunk: Tensor | None  # [layers, 1, 2 * kv_heads, tokens, width]
    store: Tensor | None  # [layers, rows, 2 * kv_heads, slots, width]
    lengths: tuple[int, ...]

    @property
    def shared(self) -> int:
        """How many tokens the trunk has."""
        return 0 if self.trunk is None else int(self.trunk.shape[3])

    @property
    def slots(self) -> int:
        """What a row's own part takes in memory, in tokens."""
        return max(self.lengths)

    def rows(self, index: Sequence[int]) -> Branch:
        """The rows of `index`, in that order; a row may be taken many times."""
        lengths = tuple(self.lengths[row] for row in index)
        if self.store is None or not max(lengths):
            return Branch(self.trunk, None, lengths)
        if len(index) > 1 and len(set(index)) == 1 and self._may_be_trunk(lengths[0]):
            return self.as_trunk(index[0], len(index))
        chosen = torch.tensor(list(index), device=self.store.device)
        return Branch(self.trunk, self.store[:, :, :, : max(lengths)].index_select(1, chosen), lengths)

    def part(self, rows: slice, store: Tensor | None) -> Branch:
        """A stretch of rows, which keep what they read in their stretch of a store for all."""
        return Branch(self.trunk, None if store is None else store[:, rows], self.lengths[rows])

    def _may_be_trunk(self, length: int) -> bool:
        return self.store is not None and self.store.device.type == "cpu" and self.shared + length >= LEAST_TRUNK

    def as_trunk(self, row: int, count: int) -> Branch:
        """One row as the trunk of `count` rows that have read nothing else."""
        assert self.store is not None
        own = self.store[:, row : row + 1, :, : self.lengths[row]]
        return Branch(own if self.trunk is None else torch.cat([self.trunk, own], 3), None, (0,) * count)


class PackedForward:
    """Hidden states of new tokens after a past, as `CausalForward` gives them, by our own pass."""

    cached = True
    switches = NO_SWITCHES
    way: Way = "masked"

    def __init__(self, model: Any, longest: int) -> None:
        self._pass = LeanPass(model, longest)
        self.device = self._pass.device
        self.tokens_forwarded = 0

    @property
    def shares(self) -> bool:
        """Whether rows of one parent are best read by themselves, because they then share a trunk."""
        return bool(self.device.type == "cpu")

    @torch.inference_mode()
    def extend(
        self, tokens: Sequence[Sequence[int]], past: Branch | None, keep: bool = True
    ) -> tuple[Tensor, Branch | None]:
        """Read `tokens`, one sequence per row, after `past`; see `CausalForward.extend`."""
        lengths = [len(row) for row in tokens]
        self.tokens_forwarded += sum(lengths)
        before = past or Branch(None, None, (0,) * len(lengths))
        pieces = self._pieces(lengths)
        if len(pieces) == 1:
            hidden, after = self._read(tokens, before, keep)
            return hidden, after if keep else None
        ends = tuple(start + length for start, length in zip(before.lengths, lengths, strict=True))
        store = self._store(before, len(lengths), max(ends), max(lengths)) if keep or before.slots else None
        read = [self._read(tokens[rows], before.part(rows, store), keep)[0] for rows in pieces]
        padded = [F.pad(part, (0, 0, 0, max(lengths) - part.shape[1])) for part in read]
        return torch.cat(padded), Branch(before.trunk, store, ends) if keep else None

    def _pieces(self, lengths: list[int]) -> list[slice]:
        """Stretches of rows that are read at once: on a CPU what fits its caches is faster, elsewhere all."""
        cuts, read = [0], 0
        for row, length in enumerate(lengths):
            if read and read + length > CPU_READING and self.shares:
                cuts, read = [*cuts, row], 0
            read += length
        return [slice(begin, end) for begin, end in pairwise([*cuts, len(lengths)])]

    def _read(self, tokens: Sequence[Sequence[int]], before: Branch, keep: bool) -> tuple[Tensor, Branch]:
        """Hidden states [rows, longest, width] of some rows, and what these have read."""
        place, after = self._placed(tokens, before, keep)
        hidden = self._pass.hidden(place)
        hidden = hidden if place.padding is None else place.padding.spread(hidden)
        return hidden.view(place.rows, place.width, -1), after

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [positions, vocabulary] in float32 of hidden states [positions, width]."""
        return self._pass.logits(hidden)

    def _placed(self, tokens: Sequence[Sequence[int]], before: Branch, keep: bool) -> tuple[Place, Branch]:
        """Where the tokens of each row go: behind what it has read."""
        at = Layout.of(tokens, range(len(tokens)), before.lengths, self.device)
        (rows, width), padding = at.positions.shape, at.padding
        ends = tuple(start + len(row) for start, row in zip(before.lengths, tokens, strict=True))
        turn = self._pass.cos[at.slots + before.shared], self._pass.sin[at.slots + before.shared]
        span, first = max(ends), self._pass.first(min(before.lengths))
        own = at.positions[:1] if min(before.lengths) == max(before.lengths) else at.positions  # [rows or 1, width]
        sight = self._sight(own, before, span)
        near = self._pass.near(sight, own, span, first)
        place = Place(at.ids, turn, rows, width, padding, sight=sight, near=near)
        if before.trunk is not None:
            place = self._behind_trunk(place, before, at.slots + before.shared)
        store = self._store(before, rows, span, width) if keep or before.slots else None
        if store is None:
            return place, before
        after = Branch(before.trunk, store, ends)
        if before.slots:
            keys, values = self._pass.seen(store[:, :, :, :span], first)
            place = replace(place, keys=keys, values=values)
        if padding is None and not before.slots:
            return replace(place, written=store[:, :, :, :width].unbind(0)), after
        return replace(place, written=store.transpose(2, 3).unbind(0), owners=at.owners, slots=at.slots), after

    def _sight(self, own: Tensor, before: Branch, span: int) -> Sight:
        """What new tokens at `own` [rows, width], or [1, width] for all, see of what their rows have read."""
        if not before.slots:
            return Sight(causal=own.shape[1] > 1)
        return ALL if own.numel() == 1 else Sight(self._pass.mask(own, span))

    def _behind_trunk(self, place: Place, before: Branch, positions: Tensor) -> Place:
        """A place whose tokens, at these positions [tokens] of their texts, see the trunk, too."""
        assert before.trunk is not None
        first = min(before.shared, self._pass.first(before.shared + min(before.lengths)))
        trunk = self._pass.seen(before.trunk, first)
        window, longest = self._pass.window, before.shared + place.width + max(before.lengths)
        if window is None or longest <= window:
            return replace(place, trunk=trunk)
        hidden = self._pass.near_trunk(positions, before.shared, first)
        return replace(place, trunk=trunk, near=replace(place.near, trunk=hidden))

    def _store(self, before: Branch, rows: int, span: int, width: int) -> Tensor:
        """Room for the past and `span` tokens of each row; where texts grow by single tokens, they do not copy it."""
        if before.store is not None and before.store.shape[3] >= span:
            return before.store
        store = self._pass.store(rows, span + (ROOM + span // 4 if width == 1 else 0))
        if before.store is not None:
            store[:, :, :, : before.slots] = before.store[:, :, :, : before.slots]
        return store


def forward_for(model: Any, longest: int) -> Forward:
    """The fastest forward pass whose logits are the model's own, by a probe, for texts of `longest` tokens at most."""
    if fits(model):
        packed = PackedForward(model, longest)
        agrees = _agrees(packed, model, min(longest, _PROBE))
        if agrees and holds_beyond_windows(model, lambda: _agrees(PackedForward(model, _PROBE), model, _PROBE)):
            packed.tokens_forwarded = 0
            return packed
    return CausalForward(model)


@torch.inference_mode()
def _agrees(packed: PackedForward, model: Any, width: int) -> bool:
    """Whether texts read in pieces, without and behind a trunk, get the logits that the model gives them whole."""
    vocabulary, half = len(model.get_input_embeddings().weight), width // 2
    texts = torch.randint(vocabulary, (3, width), generator=torch.Generator().manual_seed(0))
    texts[:, :half] = texts[0, :half]
    wanted = model(input_ids=texts.to(model.device), use_cache=False).logits.float()
    known = wanted.isfinite()  # what is no number in the model's own logits cannot be compared
    bound = TOLERANCE[model.dtype] * wanted.where(known, 0.0).abs().max()
    rows = texts.tolist()
    found = [_read(packed, rows, Branch(None, None, (0, 0, 0)), 0)]
    if packed.shares and half:
        _, trunk = packed.extend([rows[0][:half]], None)
        assert trunk is not None
        found.append(_read(packed, rows, trunk.as_trunk(0, 3), half))
    errors = (packed.logits(one.flatten(0, 1)).view(3, -1, vocabulary) - wanted[:, -one.shape[1] :] for one in found)
    return all(bool(error.where(known[:, -error.shape[1] :], 0.0).abs().max() <= bound) for error in errors)


def _read(packed: PackedForward, rows: list[list[int]], past: Branch, start: int) -> Tensor:
    """The hidden states [rows, tokens, width] of rows from `start` on, read in two pieces that differ in length."""
    cuts = [min(start + 1 + number, len(row)) for number, row in enumerate(rows)]
    first, after = packed.extend([row[start:cut] for row, cut in zip(rows, cuts, strict=True)], past)
    rest, _ = packed.extend([row[cut:] for row, cut in zip(rows, cuts, strict=True)], after)
    return torch.stack(
        [
            torch.cat([one[: cut - start], other[: len(row) - cut]])
            for one, other, cut, row in zip(first, rest, cuts, rows, strict=True)
        ]
    )
