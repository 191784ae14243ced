"""Reading tokens behind a past with any transformers model whose keys and values can be kept, in one of three ways.

`masked`: slots are positions, and every token gets its position and a mask of ours; rows of any lengths in one pass.
`aligned`: rows end at one slot, as transformers pads them for generation, for models that count positions by slots or
by the mask. `grouped`: as that, but only rows that have read and read as many tokens at once, so that nothing is
padded; it is right wherever a past can be kept. Which of them a model allows is for `independence` to prove.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Literal

import torch
from torch import Tensor

from earnest.decoding.kv_cache import KVCache, Reading, ReadText, layer_kinds, layer_windows
from earnest.decoding.rope import NO_SWITCHES, RopeSwitches, forget_lengths

Way = Literal["masked", "aligned", "grouped", "whole", "alone"]
"""How a model is read; `whole` keeps no past, and `alone` reads one text at a time."""
WAYS: tuple[Way, ...] = ("masked", "aligned", "grouped", "whole", "alone")
"""The fastest first."""


class PastReader:
    """A model's body with what it takes, reading behind pasts.

    Args:
        model: keeps keys and values, with layers that see all or a window.
        body: the model up to its hidden states.
        way: one of those that keep a past.
        switches: where its rope changes with the text's length.
    """

    def __init__(self, model: Any, body: Callable[..., Tensor], way: Way, switches: RopeSwitches = NO_SWITCHES) -> None:
        self._model, self._body, self._way, self._switches = model, body, way, switches
        self._kinds, self._windows = layer_kinds(model), layer_windows(model)
        self._builds_causal = getattr(model.config, "_attn_implementation", "") == "sdpa"
        self._takes_positions = "position_ids" in inspect.signature(model.base_model.forward).parameters

    def cache(self, rows: int, slots: int) -> KVCache:
        """Room for `rows` texts of at most `slots` tokens."""
        texts = None if self._switches.first is None else [ReadText([]) for _ in range(rows)]
        return KVCache(self._windows, rows, slots, texts)

    @torch.inference_mode()
    def read(
        self, cache: KVCache, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> Tensor:
        """Hidden states [rows, longest, size] of new tokens of some rows; behind a shorter row's end is nonsense."""
        whole = self._from_where_it_holds(cache, rows, starts, tokens) if cache.texts is not None else None
        begins, news = whole or (starts, tokens)
        groups = self._groups(begins, news)
        if len(groups) == 1 and whole is None:
            return self._pass(cache, rows, begins, news)
        longest = max(map(len, tokens))
        read: dict[int, Tensor] = {}
        for group in groups:
            found = self._pass(cache, [rows[i] for i in group], [begins[i] for i in group], [news[i] for i in group])
            for i, row in zip(group, found, strict=True):
                read[i] = row[len(news[i]) - len(tokens[i]) : len(news[i])]
        hidden = read[0].new_zeros((len(rows), longest, read[0].shape[-1]))
        for i, row in read.items():
            hidden[i, : len(row)] = row
        return hidden

    def _from_where_it_holds(
        self, cache: KVCache, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[Sequence[int]]]:
        """What is to be read of each row: all of it where its past was read on another side of a switch."""
        assert cache.texts is not None
        begins, news = [], []
        for row, start, new in zip(rows, starts, tokens, strict=True):
            text, side = cache.texts[row], self._switches.side(start + len(new))
            text.tokens[start:] = new
            again = start > 0 and text.side != side
            text.side = side
            begins.append(0 if again else start)
            news.append(list(text.tokens) if again else new)
        return begins, news

    def _groups(self, starts: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[list[int]]:
        """Which rows are read at once."""
        if self._way != "grouped" and self._switches.first is None:
            return [[*range(len(starts))]]
        groups: dict[Any, list[int]] = defaultdict(list)
        for i, (start, new) in enumerate(zip(starts, tokens, strict=True)):
            alike = (start, len(new)) if self._way == "grouped" else ()
            groups[(*self._switches.side(start + len(new)), *alike)].append(i)
        return list(groups.values())

    def _pass(
        self, cache: KVCache, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> Tensor:
        if self._switches.growing is not None:
            forget_lengths(self._model)
        one = self._masked if self._way == "masked" else self._aligned
        return one(cache, rows, starts, tokens)

    def _masked(
        self, cache: KVCache, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> Tensor:
        device = next(self._model.parameters()).device
        lengths, width = [*map(len, tokens)], max(map(len, tokens))
        padded = chain.from_iterable([*row, *[0] * (width - len(row))] for row in tokens)
        ids = torch.tensor(list(padded), device=device).view(len(rows), width)
        steps = torch.arange(width, device=device)
        slots = positions = torch.tensor(starts, device=device)[:, None] + steps
        even = min(lengths) == width
        if not even:
            short = steps >= torch.tensor(lengths, device=device)[:, None]
            slots = positions.masked_fill(short, cache.slots)
            positions = positions.where(~short, positions[:, :1])  # a filled up row's own first token, seen by itself
        span = max(start + length for start, length in zip(starts, lengths, strict=True))
        start = starts[0] if even and min(starts) == max(starts) else None
        cache.reading = Reading(torch.tensor(rows, device=device), _block(rows), slots, span, min(starts), start)
        mask = self._masks(cache.reading, positions, begun=max(starts) > 0)
        named = {"position_ids": positions} if self._takes_positions else {}
        return self._body(input_ids=ids, use_cache=True, past_key_values=cache.layers, attention_mask=mask, **named)

    def _masks(self, reading: Reading, positions: Tensor, begun: bool) -> Any:
        """The mask for all layers, or one for each kind of them; None where attention itself knows what is seen.

        It does for one token behind equal pasts, and where nothing is read yet and it may leave the mask to its kernel.
        """
        several = len(set(self._kinds.values())) > 1
        single = reading.start is not None and reading.width == 1
        causal = not begun and (self._builds_causal or not several)

        def mask(window: int | None) -> Tensor | None:
            known = single or (causal and reading.span <= (window or reading.span))
            return None if known else self._mask(reading, positions, window)

        masks = {kind: mask(window) for kind, window in self._kinds.items()}
        return masks if several else next(iter(masks.values()))

    def _mask(self, reading: Reading, positions: Tensor, window: int | None) -> Tensor:
        """What is added to scores [rows, 1, width, slots shown] of tokens at `positions` [rows, width]."""
        seen = torch.arange(reading.first(window), reading.span, device=positions.device)
        behind = positions[:, None, :, None] - seen  # how far back each slot lies
        hidden = behind < 0 if window is None else (behind < 0) | (behind >= window)
        dtype = self._model.dtype
        return torch.zeros((), dtype=dtype, device=positions.device).masked_fill(hidden, torch.finfo(dtype).min)

    def _aligned(
        self, cache: KVCache, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]]
    ) -> Tensor:
        device = next(self._model.parameters()).device
        width = max(map(len, tokens))
        ends = [start + len(row) for start, row in zip(starts, tokens, strict=True)]
        span, even = max(ends), min(ends) == max(ends) and min(starts) == max(starts)
        ids = torch.tensor([[*[0] * (width - len(row)), *row] for row in tokens], device=device)
        shown = torch.arange(span, device=device) - (span - torch.tensor(ends, device=device))[:, None]
        positions = shown[:, span - width :].clamp(min=0)
        counts = torch.tensor([*map(len, tokens)], device=device)[:, None]
        real = torch.arange(width, device=device) >= width - counts
        cache.reading = Reading(
            torch.tensor(rows, device=device), _block(rows), positions.where(real, cache.slots), span, min(starts),
            starts[0] if even else None, None if even else shown,
        )  # fmt: skip
        named = {"position_ids": positions} if self._takes_positions else {}
        hidden = self._body(
            input_ids=ids, use_cache=True, past_key_values=cache.layers,
            attention_mask=None if even else (shown >= 0).long(), **named,
        )  # fmt: skip
        if even:
            return hidden
        turned = (torch.arange(width, device=device) + width - counts).clamp(max=width - 1)  # the first token first
        return hidden.gather(1, turned[:, :, None].expand(-1, -1, hidden.shape[-1]))


def _block(rows: Sequence[int]) -> slice | None:
    first = rows[0]
    return slice(first, first + len(rows)) if list(rows) == list(range(first, first + len(rows))) else None
