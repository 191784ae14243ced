"""One forward pass of a causal language model over tokens that follow a shared past.

Rows of different lengths are read in company in whatever way leaves each what it gets alone (`independence`), and
behind pasts that `kv_cache` keeps. Batching, generation and scoring belong to others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, Self
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from earnest.decoding.independence import way_for
from earnest.decoding.kv_cache import KVCache
from earnest.decoding.reading import PastReader, Way
from earnest.decoding.rope import RopeSwitches, forget_lengths, rope_switches

CPU_CACHE_BYTES = 2**29
GPU_CACHE_SHARE = 1 / 8
LEAST_BUDGET, MOST_BUDGET = 2_048, 65_536
SAMPLE = 4_096
"""Of so many tokens the logits' root mean square is that of all of a vocabulary, within a few percent."""
_ROOM = 64
_PROBE = 7

_splits: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


@dataclass(frozen=True)
class Past:
    """What a batch of rows has read: keys and values, and how many tokens each row has."""

    cache: KVCache
    lengths: tuple[int, ...]

    @property
    def slots(self) -> int:
        """How many tokens the longest row has."""
        return max(self.lengths)

    def rows(self, index: Sequence[int]) -> Past:
        """A copy with the rows of `index`, in that order; a row may be taken many times."""
        lengths = tuple(self.lengths[row] for row in index)
        return Past(self.cache.taken(index, max(lengths)), lengths)


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
    switches: RopeSwitches
    way: Way
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

    `way` says how the model is read (`reading`), by a probe where it is not given. Where that keeps no past, `cached`
    is False: `extend` takes no past, and callers run whole rows. `body` is the model up to its hidden states; where its
    logits are not its head on the last of these (a cap, a scale), a probe notices it and `body` is all of it.
    """

    shares = False

    def __init__(self, model: Any, way: Way | None = None) -> None:
        self.model = model
        self.switches = rope_switches(model)
        self.tokens_forwarded = 0
        self.body, self._head = _body_and_head(model)
        self.way: Way = way or way_for(model, lambda way: CausalForward(model, way))
        self.cached = self.way not in ("whole", "alone")
        self._reader = PastReader(model, self.body, self.way, self.switches) if self.cached else None

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def reader(self) -> PastReader:
        """What reads behind a past. Raises ValueError where none is kept."""
        if self._reader is None:
            raise ValueError("this model's past cannot be kept; run whole rows with past=None and keep=False")
        return self._reader

    @torch.inference_mode()
    def extend(
        self, tokens: Sequence[Sequence[int]], past: Past | None, keep: bool = True
    ) -> tuple[Tensor, Past | None]:
        """Read `tokens`, one sequence per row, after `past`.

        Returns:
            Hidden states [rows, longest, width] (right-padded rows hold nonsense behind their end), and the past that
            now holds the new tokens if `keep` (the given past must then not be used any more).
        """
        self.tokens_forwarded += sum(map(len, tokens))
        if not keep and past is None:
            return self._whole(tokens), None
        before = past or Past(self.reader.cache(len(tokens), 0), (0,) * len(tokens))
        ends = tuple(start + len(row) for start, row in zip(before.lengths, tokens, strict=True))
        single = past is not None and max(map(len, tokens)) == 1
        if max(ends) > before.cache.slots:  # where texts grow by single tokens, they do not copy their past
            before.cache.grow(max(ends) + (_ROOM + max(ends) // 4 if single else 0))
        hidden = self.reader.read(before.cache, range(len(tokens)), before.lengths, tokens)
        return hidden, Past(before.cache, ends) if keep else None

    def _whole(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states [rows, longest, width] of whole texts; those that the rope turns alike are read at once."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, text in enumerate(tokens):
            groups[(*self.switches.side(len(text)), row if self.way == "alone" else 0)].append(row)
        if len(groups) == 1:
            return self._at_once(tokens)
        read = {
            row: one
            for some in groups.values()
            for row, one in zip(some, self._at_once([tokens[i] for i in some]), strict=True)
        }
        longest = max(map(len, tokens))
        return torch.stack([F.pad(read[row], (0, 0, 0, longest - len(read[row]))) for row in range(len(tokens))])

    def _at_once(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        if self.switches.growing is not None:
            forget_lengths(self.model)
        ids = _padded(tokens, max(map(len, tokens))).to(self.device)  # [rows, width]
        return self.body(input_ids=ids, use_cache=False)  # causal: padding on the right needs no mask

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [positions, vocabulary] in float32 of hidden states [positions, width]."""
        return self._head(hidden).float()

    @torch.inference_mode()
    def sampled_logits(self, hidden: Tensor) -> Tensor:
        """As `logits`; of a vocabulary larger than `SAMPLE` only tokens spread evenly, where the head is a product."""
        if type(self._head) is not nn.Linear:
            return self.logits(hidden)
        step = max(1, len(self._head.weight) // SAMPLE)
        bias = None if self._head.bias is None else self._head.bias[::step]
        return F.linear(hidden, self._head.weight[::step], bias).float()


def _padded(tokens: Sequence[Sequence[int]], width: int) -> Tensor:
    flat = list(chain.from_iterable([*row, *[0] * (width - len(row))] for row in tokens))
    return torch.tensor(flat, dtype=torch.int64).view(len(tokens), width)


def _body_and_head(model: Any) -> tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]:
    """The model up to its last hidden state, and its head; or all of it and nothing, where that is not the same."""
    if model not in _splits:
        _splits[model] = _is_head_on_body(model)
    if _splits[model]:
        return (lambda **inputs: model.base_model(**inputs).last_hidden_state), model.get_output_embeddings()
    return (lambda **inputs: model(**inputs).logits), lambda logits: logits


@torch.inference_mode()
def _is_head_on_body(model: Any) -> bool:
    """Whether logits are nothing but the head on the last hidden state: found once for each model."""
    ids = torch.arange(_PROBE, device=next(model.parameters()).device)[None]
    split = model.get_output_embeddings()(model.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    whole = model(input_ids=ids, use_cache=False).logits
    return split.shape == whole.shape and torch.allclose(split.float(), whole.float(), rtol=1e-3, atol=1e-3)


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
