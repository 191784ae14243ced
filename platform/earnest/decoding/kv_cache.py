"""Keys and values of many texts by their positions, as transformers' layers write and see them.

The only place that knows transformers' caches. Every layer keeps every token, because a refused proposal and a shared
beginning need what a ring of a window's length would have overwritten; a layer with a sliding window shows no more than
the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, get_layer_types_and_kwargs

WINDOW_OF = {"full_attention": None, "sliding_attention": "sliding_window"}
_PROBE = 7


@dataclass(frozen=True)
class Reading:
    """One pass: its rows, where their tokens go, and which of their slots are seen.

    Slot i of what a layer shows is position i of every row, or where that is given, `shown`. Tokens that only fill up
    a row go to the slot behind the last, which nobody sees. Where no row is filled up and all begin at one position,
    `start` is that one.
    """

    rows: Tensor  # [rows]
    block: slice | None  # the rows where they lie side by side
    positions: Tensor  # [rows, width]
    span: int
    earliest: int  # the first new token's position, of the row that has read least
    start: int | None = None
    shown: Tensor | None = None  # [rows, span]

    @property
    def width(self) -> int:
        """How many tokens each row gets."""
        return int(self.positions.shape[1])

    def first(self, window: int | None) -> int:
        """The first slot that a layer with this window shows."""
        if window is None:
            return 0
        earliest = self.earliest if self.shown is None else self.span - self.width
        return max(0, earliest - window + 1)

    def write(self, store: Tensor, new: Tensor) -> None:
        """Put new keys or values [rows, heads, width, size] where they go in a store of all rows'."""
        if self.start is not None and self.block is not None:
            store[self.block, :, self.start : self.start + self.width] = new
        else:
            store.transpose(1, 2).index_put_((self.rows[:, None], self.positions), new.transpose(1, 2))

    def seen(self, store: Tensor, window: int | None) -> Tensor:
        """What the rows see [rows, heads, span - first, size]."""
        begin = self.first(window)
        if self.shown is not None:
            return store[self.rows[:, None], :, self.shown[:, begin:].clamp(min=0)].transpose(1, 2)
        some = store[:, :, begin : self.span]
        return some.index_select(0, self.rows) if self.block is None else some[self.block]


class KVLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values of all rows; it shows the model those of the pass at hand."""

    def __init__(self, cache: KVCache, window: int | None) -> None:
        super().__init__()
        self._cache, self.window = cache, window
        self.is_sliding = window is not None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for every row, by the first keys and values [rows, heads, width, size]."""
        super().lazy_initialization(key_states, value_states)
        rows, slots = self._cache.rows, self._cache.slots + 1
        self.keys, self.values = (
            new.new_zeros((rows, new.shape[1], slots, new.shape[3])) for new in (key_states, value_states)
        )

    def hold(self, keys: Tensor, values: Tensor) -> None:
        """Take over the keys and values of all rows [rows, heads, slots + 1, size]."""
        if not self.is_initialized:
            super().lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep keys and values [rows, heads, width, size]; return all that the rows at hand may see."""
        reading = self._cache.reading
        if reading is None:
            raise ValueError("a cache is written in a pass; say which before the model runs")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            reading.write(store, new)
        return reading.seen(self.keys, self.window), reading.seen(self.values, self.window)

    def get_seq_length(self) -> int:
        """How many slots lie before the tokens of this pass."""
        reading = self._cache.reading
        return 0 if reading is None else reading.span - reading.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many slots are shown, and which is the first."""
        reading = self._cache.reading
        if reading is None:
            return query_length, 0
        first = reading.first(self.window)
        return reading.span - first, first


@dataclass
class ReadText:
    """What a row has read, and on which side of the rope's switches (`rope.RopeSwitches.side`)."""

    tokens: list[int]
    side: tuple[int, int] = (0, 0)

    def beginning(self, count: int | None = None) -> ReadText:
        """A copy of its first `count` tokens, read as they were."""
        return ReadText(self.tokens[:count], self.side)


class KVCache:
    """The pasts of `rows` texts of at most `slots` tokens each.

    Args:
        windows: of each layer, how far it sees, itself included; None for all.
        texts: what the rows have read, where it may have to be read again, and None where not.
    """

    def __init__(self, windows: Sequence[int | None], rows: int, slots: int, texts: list[ReadText] | None) -> None:
        self.windows, self.rows, self.slots, self.texts = tuple(windows), rows, slots, texts
        self.reading: Reading | None = None
        self.layers = DynamicCache()
        self.layers.layers = [KVLayer(self, window) for window in windows]

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        return sum(store[0].numel() * store.element_size() for store in self._stores())

    def _stores(self) -> list[Tensor]:
        kept = [layer for layer in self.layers.layers if layer.is_initialized]
        return [store for layer in kept for store in (layer.keys, layer.values)]

    def taken(self, index: Sequence[int], count: int) -> KVCache:
        """A copy with the first `count` tokens of the rows of `index`, in that order; a row may be taken many times."""
        texts = None if self.texts is None else [self.texts[row].beginning() for row in index]
        made = KVCache(self.windows, len(index), count, texts)
        for layer, source in zip(made.layers.layers, self.layers.layers, strict=True):
            if source.is_initialized:
                chosen = torch.tensor(list(index), device=source.keys.device)
                parts = [
                    _with_spare(part[:, :, :count].index_select(0, chosen), 1) for part in (source.keys, source.values)
                ]
                layer.hold(*parts)
        return made

    def grow(self, slots: int) -> None:
        """Have room for `slots` tokens of each row."""
        if slots <= self.slots:
            return
        for layer in self.layers.layers:
            if layer.is_initialized:
                layer.hold(*(_with_spare(part, slots - self.slots) for part in (layer.keys, layer.values)))
        self.slots = slots

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`."""
        for store in self._stores():
            store[target, :, :count] = store[source, :, :count]
        if self.texts is not None:
            self.texts[target] = self.texts[source].beginning(count)

    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""
        for store in self._stores():
            store[row, :, start:] = 0


def _with_spare(store: Tensor, more: int) -> Tensor:
    """A store [rows, heads, slots, size] with `more` empty slots behind."""
    made = store.new_zeros((*store.shape[:2], store.shape[2] + more, store.shape[3]))
    made[:, :, : store.shape[2]] = store
    return made


def layer_kinds(model: Any) -> dict[str, int | None]:
    """How far each kind of a model's layers sees, by the kind's name; {} where one attends otherwise."""
    kinds, settings = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))
    if not WINDOW_OF.keys() >= set(kinds):
        return {}
    return {kind: setting.get(WINDOW_OF[kind]) for kind, setting in zip(kinds, settings, strict=True)}


def layer_windows(model: Any) -> tuple[int | None, ...]:
    """Of each layer of such a model, how far it sees."""
    kinds, _ = get_layer_types_and_kwargs(model.config.get_text_config(decoder=True))
    windows = layer_kinds(model)
    return tuple(windows[kind] for kind in kinds)


@torch.inference_mode()
def keeps_keys_and_values(model: Any) -> bool:
    """Whether a probe leaves keys and values of every token in ordinary caches (state-space models do not)."""
    ids = torch.zeros((1, _PROBE), dtype=torch.int64, device=next(model.parameters()).device)
    past = getattr(model.base_model(input_ids=ids, use_cache=True), "past_key_values", None)
    layers = getattr(past, "layers", ())
    plain = (DynamicLayer, DynamicSlidingWindowLayer)
    return bool(layers) and all(type(layer) in plain and layer.get_seq_length() == _PROBE for layer in layers)
