"""One forward pass of a causal language model over tokens that follow a shared past.

This is the only place that knows transformers' caches. Rows of different lengths are padded on the right; the holes
that padding leaves in the cache are masked, and every token carries its true position, so what a row gets does not
depend on its company. Batching, generation and scoring belong to others.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, Self

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

CPU_CACHE_BYTES = 2**29
GPU_CACHE_SHARE = 1 / 8
LEAST_BUDGET, MOST_BUDGET = 2_048, 65_536
_ROOM = 64
_PROBE = 7


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A cache layer that grows by blocks, so that one more token does not copy the whole past."""

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [rows, heads, new, width]; return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            self._store: tuple[Tensor, Tensor] | None = None
            return self.keys, self.values
        past, total = self.keys.shape[-2], self.keys.shape[-2] + key_states.shape[-2]
        if self._store is None or self._store[0].shape[-2] < total:
            self._store = _with_room(self.keys, total + _ROOM), _with_room(self.values, total + _ROOM)
        for store, new in zip(self._store, (key_states, value_states), strict=True):
            store[..., past:total, :] = new
        self.keys, self.values = (store[..., :total, :] for store in self._store)
        return self.keys, self.values

    def rows(self, index: Tensor) -> RoomyLayer:
        """A copy that holds the rows of `index` [rows]."""
        copy = RoomyLayer()
        copy.lazy_initialization(self.keys, self.values)
        copy.keys, copy.values = self.keys.index_select(0, index), self.values.index_select(0, index)
        copy._store = None
        return copy


def _with_room(past: Tensor, slots: int) -> Tensor:
    store = past.new_empty((*past.shape[:-2], slots, past.shape[-1]))
    store[..., : past.shape[-2], :] = past
    return store


@dataclass
class Past:
    """What a batch of rows has read: keys and values, which slots hold a token, and how many tokens each row has."""

    cache: DynamicCache
    mask: Tensor  # [rows, slots] bool
    lengths: Tensor  # [rows] int64

    @property
    def slots(self) -> int:
        """The width of the cache, holes included."""
        return int(self.mask.shape[1])

    def rows(self, index: Sequence[int]) -> Past:
        """A copy with the rows of `index`, in that order; a row may be taken many times."""
        chosen = torch.tensor(list(index), device=self.lengths.device)
        cache = DynamicCache()
        cache.layers = [layer.rows(chosen) for layer in self.cache.layers]
        return Past(cache, self.mask.index_select(0, chosen), self.lengths.index_select(0, chosen))


class Kept(Protocol):
    """What a batch of rows has read, as the forward pass that made it keeps it."""

    @property
    def slots(self) -> int:
        """What a row takes in memory, in tokens."""

    def rows(self, index: Sequence[int]) -> Self:
        """A copy with the rows of `index`, in that order; a row may be taken many times."""


class Forward(Protocol):
    """A forward pass over tokens that follow a past of its own making: `CausalForward`, or `packed.PackedForward`."""

    cached: bool
    tokens_forwarded: int

    @property
    def device(self) -> torch.device:
        """Where the model lies."""

    @property
    def shares(self) -> bool:
        """Whether rows of one parent are best read by themselves, because they then share its past."""

    def extend(self, tokens: Sequence[Sequence[int]], past: Any, keep: bool = True) -> tuple[Tensor, Any]:
        """As `CausalForward.extend`."""

    def logits(self, hidden: Tensor) -> Tensor:
        """As `CausalForward.logits`."""


class CausalForward:
    """Hidden states of new tokens after a past, and the output head on the positions that are needed.

    `cached` says whether the model's past can be kept: full attention in every layer. Without it `extend` takes no
    past, and callers run whole rows. `body` is the model up to its hidden states; where its logits are not its head on
    the last of these (a cap, a scale), a probe notices it and `body` is all of it.
    """

    shares = False

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cached = has_full_attention(model)
        self.tokens_forwarded = 0
        self._takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters
        self.body, self._head = _body_and_head(model)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @torch.inference_mode()
    def extend(
        self, tokens: Sequence[Sequence[int]], past: Past | None, keep: bool = True
    ) -> tuple[Tensor, Past | None]:
        """Read `tokens`, one sequence per row, after `past`.

        Returns:
            Hidden states [rows, longest, width] (right-padded rows hold nonsense behind their end), and the past that
            now holds the new tokens if `keep` (the given past must then not be used any more).
        """
        lengths = torch.tensor([len(row) for row in tokens])
        width = int(lengths.max())
        ids = _padded(tokens, width).to(self.device)  # [rows, width]
        self.tokens_forwarded += int(lengths.sum())
        lengths = lengths.to(self.device)
        if not keep and past is None:
            return self.body(input_ids=ids, use_cache=False), None  # causal: padding on the right needs no mask
        if not self.cached:
            raise ValueError("this model's past cannot be kept; run whole rows with past=None and keep=False")
        return self._with_past(ids, lengths, past)

    def _with_past(self, ids: Tensor, lengths: Tensor, past: Past | None) -> tuple[Tensor, Past]:
        steps = torch.arange(ids.shape[1], device=ids.device)
        real = steps < lengths[:, None]  # [rows, width]
        if past is None:
            cache = DynamicCache()
            cache.layer_class_to_replicate = RoomyLayer
            hidden = self.body(input_ids=ids, use_cache=True, past_key_values=cache)
            return hidden, Past(cache, real, lengths)
        mask = torch.cat([past.mask, real], dim=1)  # [rows, slots + width]
        positions = past.lengths[:, None] + steps.minimum(lengths[:, None] - 1)
        named = {"position_ids": positions} if self._takes_positions else {}
        hidden = self.body(
            input_ids=ids, use_cache=True, past_key_values=past.cache, attention_mask=mask.long(), **named
        )
        return hidden, Past(past.cache, mask, past.lengths + lengths)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [positions, vocabulary] in float32 of hidden states [positions, width]."""
        return self._head(hidden).float()


def _padded(tokens: Sequence[Sequence[int]], width: int) -> Tensor:
    flat = list(chain.from_iterable([*row, *[0] * (width - len(row))] for row in tokens))
    return torch.tensor(flat, dtype=torch.int64).view(len(tokens), width)


def has_full_attention(model: Any) -> bool:
    """Whether every layer attends to the whole past, so that keys and values can be kept, copied and masked."""
    config = model.config.get_text_config(decoder=True)
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and any(kind != "full_attention" for kind in kinds):
        return False
    if kinds is None and getattr(config, "sliding_window", None) is not None:
        return False
    return _keeps_keys_and_values(model)


@torch.inference_mode()
def _keeps_keys_and_values(model: Any) -> bool:
    """Whether a probe leaves keys and values of every token in an ordinary cache (state-space models do not)."""
    ids = torch.zeros((1, _PROBE), dtype=torch.int64, device=next(model.parameters()).device)
    past = getattr(model.base_model(input_ids=ids, use_cache=True), "past_key_values", None)
    layers = getattr(past, "layers", ())
    return bool(layers) and all(type(layer) is DynamicLayer and layer.get_seq_length() == _PROBE for layer in layers)


@torch.inference_mode()
def _body_and_head(model: Any) -> tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]:
    """The model up to its last hidden state, and its head; or all of it and nothing, where that is not the same."""
    ids = torch.arange(_PROBE, device=next(model.parameters()).device)[None]
    head = model.get_output_embeddings()
    split = head(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    whole = model(input_ids=ids, use_cache=False).logits
    if split.shape == whole.shape and torch.allclose(split.float(), whole.float(), rtol=1e-3, atol=1e-3):
        return (lambda **inputs: model.base_model(**inputs).last_hidden_state), head
    return (lambda **inputs: model(**inputs).logits), lambda logits: logits


def token_budget(model: Any) -> int:
    """How many tokens a batch may hold, padding and past included, by the memory for keys and values.

    Depends on the device's whole memory and not on what is free, so that two runs make the same batches.
    """
    config = model.config.get_text_config(decoder=True)
    weight = next(model.parameters())
    # Activations of one block beside the cache of all of them: some sixteen hidden states per token.
    values = 2 * config.num_hidden_layers * config.hidden_size + 16 * config.hidden_size
    memory = CPU_CACHE_BYTES
    if weight.is_cuda:
        memory = int(torch.cuda.get_device_properties(weight.device).total_memory * GPU_CACHE_SHARE)
    budget: int = memory // (values * weight.element_size())
    return max(LEAST_BUDGET, min(MOST_BUDGET, budget))
