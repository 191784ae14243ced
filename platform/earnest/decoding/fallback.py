"""Rows with a past for any causal language model, through transformers: what serves where `lean` does not fit.

Where the model keeps ordinary keys and values, its cache's layers write into our own store and the batch is read in one
pass. Where it does not (sliding windows, state spaces, positions that depend on the mask), texts are read anew.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from earnest.decoding.forward import CausalForward, has_full_attention


def stores(model: Any) -> bool:
    """Whether a model keeps ordinary keys and values, and takes positions and a mask of scores as they are given."""
    counts_the_mask = getattr(model.config, "alibi", False)
    named = inspect.signature(model.base_model.forward).parameters
    return "position_ids" in named and not counts_the_mask and has_full_attention(model)


@dataclass
class Place:
    """Where the tokens of one pass go: rows [rows], their positions [rows, width], and how many slots are seen."""

    rows: Tensor
    positions: Tensor
    span: int


class StoredLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that keeps all rows of all texts, and shows the model those of the place at hand."""

    def __init__(self, rows: int, slots: int) -> None:
        super().__init__()
        self._shape = (rows, slots + 1)  # padding writes to the last slot, which nobody sees
        self.place: Place | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make room for every row, by the first keys and values [rows, heads, width, head_dim]."""
        super().lazy_initialization(key_states, value_states)
        rows, slots = self._shape
        self.keys, self.values = (
            new.new_zeros((rows, new.shape[1], slots, new.shape[3])) for new in (key_states, value_states)
        )

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Keep keys and values [rows, heads, width, head_dim]; return all that the rows at hand may see."""
        if self.place is None:
            raise ValueError("a stored layer is written at a place; set it before the model runs")
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        at = (self.place.rows[:, None], self.place.positions)
        for store, new in ((self.keys, key_states), (self.values, value_states)):
            store.transpose(1, 2).index_put_(at, new.transpose(1, 2))
        keys, values = (store[:, :, : self.place.span] for store in (self.keys, self.values))
        return keys.index_select(0, self.place.rows), values.index_select(0, self.place.rows)

    def get_seq_length(self) -> int:
        """Nothing that the model could count on: it is told its positions and its mask."""
        return 0


class StoredDecoder:
    """Any model with ordinary keys and values, with the pasts of `rows` texts of at most `slots` tokens each."""

    kind = "transformers"

    def __init__(self, model: Any, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.forward = CausalForward(model)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._cache = DynamicCache()
        depth = model.config.get_text_config(decoder=True).num_hidden_layers
        self._cache.layers = [StoredLayer(rows, slots) for _ in range(depth)]
        self.read([0], [0], [[0]])

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        stores = [store for layer in self._cache.layers for store in (layer.keys, layer.values)]
        return sum(store[0].numel() * store.element_size() for store in stores)

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        device = self.forward.device
        ids, lengths = _padded(tokens, device)
        begins = torch.tensor(starts, device=device)[:, None]
        steps = torch.arange(ids.shape[1], device=device)
        real = steps < lengths[:, None]
        place = Place(torch.tensor(rows, device=device), (begins + steps).where(real, self.slots), 0)
        place.span = int((begins[:, 0] + lengths).max())
        for layer in self._cache.layers:
            layer.place = place
        positions = begins + steps.minimum(lengths[:, None] - 1)
        mask = _causal(place.positions, place.span, self.forward.model.dtype)
        hidden = self.forward.body(
            input_ids=ids, use_cache=True, past_key_values=self._cache, attention_mask=mask, position_ids=positions
        )
        return _headed(self.forward, hidden, lengths, last)

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""
        for layer in self._cache.layers:
            for store in (layer.keys, layer.values):
                store[target, :, :count] = store[source, :, :count]

    @torch.inference_mode()
    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""
        for layer in self._cache.layers:
            for store in (layer.keys, layer.values):
                store[row, :, start:] = 0


class RereadDecoder:
    """Any model at all, with the tokens of `rows` texts: every call reads them from the first token on."""

    kind = "transformers"
    row_bytes = 0

    def __init__(self, model: Any, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.forward = CausalForward(model)
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._texts: list[list[int]] = [[] for _ in range(rows)]

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        for row, start, new in zip(rows, starts, tokens, strict=True):
            self._texts[row] = [*self._texts[row][:start], *new]
        hidden, _ = self.forward.extend([self._texts[row] for row in rows], None, keep=False)
        lengths = torch.tensor([len(new) for new in tokens], device=hidden.device)
        begins = torch.tensor(starts, device=hidden.device)[:, None]
        steps = torch.arange(int(lengths.max()), device=hidden.device).minimum(lengths[:, None] - 1)
        behind = hidden.gather(1, (begins + steps)[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return _headed(self.forward, behind, lengths, last)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`."""
        self._texts[target] = self._texts[source][:count]

    def clear(self, row: int, start: int) -> None:
        """Nothing is kept that could be wiped but tokens, which are overwritten."""


def _padded(tokens: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens [rows, longest], padded on the right, and lengths [rows]."""
    lengths = torch.tensor([len(row) for row in tokens], device=device)
    width = int(lengths.max())
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens], device=device), lengths


def _causal(positions: Tensor, span: int, dtype: torch.dtype) -> Tensor:
    """What is added to scores [rows, 1, width, span] so that positions [rows, width] see nothing behind them."""
    behind = torch.arange(span, device=positions.device) > positions[:, None, :, None]
    return torch.zeros((), dtype=dtype, device=positions.device).masked_fill(behind, torch.finfo(dtype).min)


def _headed(forward: CausalForward, hidden: Tensor, lengths: Tensor, last: bool) -> Tensor:
    """Logits of the hidden states [rows, width, hidden] of rows of `lengths`, or of each row's last one."""
    steps = torch.arange(hidden.shape[1], device=hidden.device)
    return forward.logits(hidden[steps == lengths[:, None] - 1 if last else steps < lengths[:, None]])
