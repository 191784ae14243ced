"""A lean decoder's short steps for narrow models on a CPU: what lies between the products is compiled (`kernels`).

Calling an operation costs a few microseconds whatever it does, and a step of a small model is hundreds of them. Here it
is eight calls a layer; nothing is padded, and no mask is made. Weights, keys and values are the lean decoder's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from itertools import accumulate, chain
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from earnest.decoding.blocks import Block
from earnest.decoding.lean import LeanDecoder

MOST_HIDDEN = 512
"""Wider models spend their time on products, and have every core do the rest; kernels run on one."""
MOST_SEEN = 16_384
"""So many scores of a head at most; attention that sees more is better done for many queries at once."""


def compiles(decoder: LeanDecoder) -> bool:
    """Whether kernels pay for a decoder, and what makes them is installed."""
    narrow = decoder.forward.embeddings.shape[1] <= MOST_HIDDEN
    fits = narrow and decoder.dtype is torch.float32 and decoder.device.type == "cpu"
    return fits and find_spec("numba") is not None


class Scratch:
    """Numbers [tokens, columns] that both products and kernels write."""

    def __init__(self, store: Tensor, tokens: int) -> None:
        """View the first tokens of `store` [most tokens, columns]."""
        self.tensor = store[:tokens]
        self.array = self.tensor.numpy()


@dataclass(frozen=True)
class Room:
    """Where the steps of so many tokens are done: [tokens, ...]."""

    x: Scratch  # hidden
    normed: Scratch  # hidden
    qkv: Scratch  # (heads + 2 * kv_heads) * width
    seen: Scratch  # heads * width
    more: Scratch  # hidden
    gate_up: Scratch  # 2 * intermediate
    gated: Scratch  # intermediate


class Rooms:
    """The room for any number of tokens. All share their memory, which grows with the longest step."""

    def __init__(self, block: Block) -> None:
        hidden, both = len(block.before.weight), len(block.gate_up.weight)
        self._columns = (hidden, hidden, len(block.qkv.weight), block.out.weight.shape[1], hidden, both, both // 2)
        self._stores: list[Tensor] = []
        self._rooms: dict[int, Room] = {}

    def of(self, tokens: int) -> Room:
        """Room for a step."""
        if not self._stores or len(self._stores[0]) < tokens:
            self._stores = [torch.empty(tokens, columns) for columns in self._columns]
            self._rooms = {}
        if tokens not in self._rooms:
            self._rooms[tokens] = Room(*(Scratch(store, tokens) for store in self._stores))
        return self._rooms[tokens]


class Layer:
    """One layer as the kernels see it: products, and arrays that share the tensors' memory."""

    def __init__(self, block: Block, after: Tensor, store: Tensor, window: int | None) -> None:
        """`after` is the weight of the norm behind the layer, `store` [rows, 2 * kv_heads, slots, width] its past."""
        self.block, self.window = block, window or store.shape[2]
        self.between, self.after, self.store = block.between.weight.numpy(), after.numpy(), store.numpy()
        none = torch.empty(0)
        norms = (none, none) if block.query is None or block.key is None else (block.query.weight, block.key.weight)
        self.query, self.key = (weight.numpy() for weight in norms)


class CompiledDecoder:
    """Reads short steps by `kernels`, and others by the lean decoder that it shares all with.

    Kernels do not look where they write: rows and positions must be there, which is `local`'s to see to.
    """

    kind = "lean"

    def __init__(self, decoder: LeanDecoder) -> None:
        self.plain = decoder
        self.vocabulary = decoder.vocabulary
        forward = decoder.forward
        self._head, self._table = forward.head, forward.embeddings.numpy()
        befores = [block.before.weight for block in forward.blocks]
        self._first = befores[0].numpy()
        afters = [*befores[1:], forward.norm.weight]
        windows = [forward.window if near else None for near in forward.windowed]
        parts = zip(forward.blocks, afters, decoder.store, windows, strict=True)
        self._layers = [Layer(*part) for part in parts]
        self._eps, self._scale = np.float32(forward.norm.eps.item()), np.float32(forward.scale)
        self._turn = forward.cos[:, 0].numpy(), forward.sin[:, 0].numpy()
        self._scores = np.empty(len(forward.steps), np.float32)
        intermediate = forward.blocks[0].down.weight.shape[1]
        self._bits = np.empty(max(len(self._scores), intermediate), np.int32)
        self._rooms = Rooms(forward.blocks[0])

    @cached_property
    def _kernels(self) -> ModuleType:
        """Loading their compiler takes half a second, which who compiles nothing need not pay."""
        from earnest.decoding import kernels

        return kernels

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        return self.plain.row_bytes

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        lengths = [*map(len, tokens)]
        if sum(new * (start + new) for start, new in zip(starts, lengths, strict=True)) > MOST_SEEN:
            return self.plain.read(rows, starts, tokens, last)
        slots = [*chain.from_iterable(range(start, start + new) for start, new in zip(starts, lengths, strict=True))]
        hidden = self._hidden(np.array([*chain.from_iterable(tokens)]), np.repeat(rows, lengths), np.array(slots))
        if last:
            hidden = hidden.index_select(0, torch.tensor([*accumulate(lengths)]) - 1)
        return self._head(hidden)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""
        self.plain.copy(source, target, count)

    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""
        self.plain.clear(row, start)

    def _hidden(self, ids: NDArray[np.int64], owners: NDArray[np.int64], slots: NDArray[np.int64]) -> Tensor:
        """The last hidden states, normed [tokens, hidden], of tokens that go to slots [tokens] of rows [tokens]."""
        kernels, eps, scale, bits, room = self._kernels, self._eps, self._scale, self._bits, self._rooms.of(len(ids))
        x, normed, more = room.x.array, room.normed.array, room.more.array
        kernels.embed(self._table, ids, self._first, eps, x, normed)
        for layer in self._layers:
            block = layer.block
            block.qkv(room.normed.tensor, room.qkv.tensor)
            kernels.attend(
                room.qkv.array, owners, slots, *self._turn, layer.query, layer.key, eps, scale,
                layer.window, layer.store, self._scores, bits, room.seen.array,
            )  # fmt: skip
            block.out(room.seen.tensor, room.more.tensor)
            kernels.add(x, more, layer.between, eps, normed)
            block.gate_up(room.normed.tensor, room.gate_up.tensor)
            kernels.gate(room.gate_up.array, bits, room.gated.array)
            block.down(room.gated.tensor, room.more.tensor)
            kernels.add(x, more, layer.after, eps, normed)
        return room.normed.tensor
