"""How a model may be read, proved at load: texts in company, behind a shared beginning, must get what each gets alone.

Models differ in how they count positions: by what they are told, by the slots of a cache, by the mask. So ways of
reading are tried, the fastest first, on texts whose lengths lie on both sides of the model's windows and of its rope's
switches, and logits are compared with those of the text read whole and alone. A window too long to be read here is
narrowed for the trial. What cannot be tried is not trusted: then only equal texts are read at once.

The head works on each position by itself, so of a large vocabulary a sample of tokens is compared: the root mean square
over some thousands of them is that over all, up to a few percent, and a fault exceeds rounding by orders of magnitude.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from earnest.decoding.kv_cache import keeps_keys_and_values, layer_kinds, layer_windows
from earnest.decoding.reading import WAYS, Way
from earnest.decoding.rope import forget_lengths, rope_switches
from earnest.models.proofs import CANNOT_RUN

LEAST = 9
"""The shortest length around which texts are tried."""
NARROW = 5
"""How far layers see while their windows are proved on a short text."""
MOST_OPERATIONS = 2e10
"""A fraction of a second on a CPU: longer texts are not tried."""
FARTHEST = {torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}
"""Of the logits' root mean square: how far, by the same measure, two ways of rounding one arithmetic may lie apart."""
SAID = {
    "grouped": "counts positions by slots; only texts of equal length are read at once: slower, and exact",
    "alone": "mixes texts that are read at once; each is read alone: slower, and exact",
    "whole": "keeps no past that can be shared; texts are read whole at every token: slower, and exact",
}

_known: WeakKeyDictionary[Any, Way] = WeakKeyDictionary()


class Trial(Protocol):
    """A forward pass to be tried; see `forward.CausalForward`."""

    model: Any
    body: Callable[..., Tensor]

    def extend(self, tokens: Sequence[Sequence[int]], past: Any, keep: bool = True) -> tuple[Tensor, Any]:
        """Read tokens behind a past."""

    def sampled_logits(self, hidden: Tensor) -> Tensor:
        """Logits of hidden states, of a sample of the vocabulary."""


def way_for(model: Any, forward_by: Callable[[Way], Trial]) -> Way:
    """The fastest way to read a model in which no text's logits depend on its company; found once for each model."""
    if model not in _known:
        _known[model] = way = _found(model, forward_by)
        for said in _said(model, way):
            logging.getLogger(__name__).warning("%s %s", type(model).__name__, said)
    return _known[model]


def _said(model: Any, way: Way) -> Iterator[str]:
    """What is slower for being exact."""
    if way in SAID:
        yield SAID[way]
    switch = rope_switches(model).first
    longest = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if switch is not None and switch < (longest or 0):
        yield f"turns texts beyond {switch} tokens otherwise; these share no beginnings: slower, and exact"


def _found(model: Any, forward_by: Callable[[Way], Trial]) -> Way:
    lengths, all_tried = _lengths(model)
    ways: tuple[Way, ...] = ("whole",)
    if layer_kinds(model) and keeps_keys_and_values(model):
        ways = WAYS[: WAYS.index("alone")] if all_tried else ("grouped", "whole")
    return next((way for way in ways if _agrees(model, way, partial(forward_by, way), lengths)), "alone")


def _lengths(model: Any) -> tuple[list[int], bool]:
    """The lengths around which texts are tried, and whether these are all where something may change."""
    config = model.config.get_text_config(decoder=True)
    weights = sum(parameter.numel() for parameter in model.base_model.parameters())
    affordable = MOST_OPERATIONS / (2 * weights * 6)
    named = {name: value for name, value in config.to_dict().items() if name.endswith(("window", "window_size"))}
    hidden = {value for name, value in named.items() if name != "sliding_window" and type(value) is int}
    wanted = {*hidden, *rope_switches(model).fixed, *filter(None, layer_kinds(model).values())}
    tried = {LEAST, *(max(LEAST, length) for length in wanted if length <= affordable)}
    return sorted(tried), all(max(LEAST, length) in tried for length in hidden)


def _agrees(model: Any, way: Way, forward: Callable[[], Trial], lengths: Sequence[int]) -> bool:
    alike = _whole_alike if way == "whole" else _alike
    try:
        if not all(alike(model, forward(), length) for length in lengths):
            return False
        if any(window not in lengths for window in filter(None, layer_kinds(model).values())):
            with _narrowed(model, LEAST):
                return alike(model, forward(), LEAST)
    except CANNOT_RUN:  # not made for such masks or caches
        return False
    return True


def holds_beyond_windows(model: Any, holds: Callable[[], bool]) -> bool:
    """Whether a proof on a short text holds beyond the layers' windows, too: with these so short that it leaves them.

    `holds` makes what it proves anew, of the model as it then is.
    """
    if not any(layer_windows(model)):
        return True
    with _narrowed(model, NARROW):
        return holds()


@contextmanager
def _narrowed(model: Any, window: int) -> Iterator[None]:
    """The model with sliding windows of another length."""
    holders: list[Any] = [holder for module in model.modules() for holder in (module, getattr(module, "config", None))]
    holders.append(model.config.get_text_config(decoder=True))
    wide = {id(one): one for one in holders if type(getattr(one, "sliding_window", None)) is int}
    kept = {key: one.sliding_window for key, one in wide.items()}
    try:
        for one in wide.values():
            one.sliding_window = window
        yield
    finally:
        for key, one in wide.items():
            one.sliding_window = kept[key]


@torch.inference_mode()
def _alike(model: Any, forward: Trial, length: int) -> bool:
    """Whether two texts, one beyond `length` and one not, get in company what each gets alone."""
    long, short, shared = *_texts(model, length), length - 3
    _, past = forward.extend([long[:shared]], None)
    past = past.rows([0, 0])
    hidden, past = forward.extend([long[shared:-1], short[shared:-1]], past)
    last, _ = forward.extend([long[-1:], short[-1:]], past)
    pairs, switched = [], rope_switches(model).first is not None
    wholes = [_alone(forward, text) for text in (long, short)]
    for row, (text, alone) in enumerate(zip((long, short), wholes, strict=True)):
        before = _alone(forward, text[:-1]) if switched else alone[:-1]
        pairs += [
            (hidden[row, : len(text) - 1 - shared], before[shared:]),
            (last[row, :1], alone[-1:]),
        ]
    return _close(forward, pairs) and _whole_alike(model, forward, length, wholes)


@torch.inference_mode()
def _whole_alike(model: Any, forward: Trial, length: int, wholes: Sequence[Tensor] = ()) -> bool:
    """Whether these texts get it, too, where they are read whole; `wholes` is what each gets alone, where known."""
    texts = _texts(model, length)
    found, _ = forward.extend(texts, None, keep=False)
    wanted = wholes or [_alone(forward, text) for text in texts]
    pairs = [(row[: len(text)], alone) for row, text, alone in zip(found, texts, wanted, strict=True)]
    return _close(forward, pairs)


def _texts(model: Any, length: int) -> tuple[list[int], list[int]]:
    """Two texts of random tokens, none of which means anything special to the model, that begin alike."""
    config = model.config.to_dict() | model.config.get_text_config(decoder=True).to_dict()
    special = {v for k, v in config.items() if k.endswith(("token_id", "token_index")) and type(v) is int}
    rows = model.get_input_embeddings().weight.shape[0]
    drawn = torch.randint(rows, (2 * length + 64,), generator=torch.Generator().manual_seed(0)).tolist()
    plain = [token for token in drawn if token not in special]
    return plain[: length + 4], [*plain[: length - 3], *plain[length + 4 : length + 6]]


def _alone(forward: Trial, text: Sequence[int]) -> Tensor:
    """Hidden states [tokens, size] of a text read whole and by itself, as if the model had read no other."""
    forget_lengths(forward.model)
    ids = torch.tensor([list(text)], device=next(forward.model.parameters()).device)
    return forward.body(input_ids=ids, use_cache=False)[0]


def _close(forward: Trial, pairs: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether hidden states give the same logits."""
    bound = FARTHEST.get(forward.model.dtype, 1e-4)
    return all(_distance(*map(forward.sampled_logits, pair)) <= bound for pair in pairs)


def _distance(found: Tensor, wanted: Tensor) -> float:
    known = wanted.isfinite()  # what is no number in the model's own logits cannot be compared
    error, scale = (part.where(known, 0.0).square().mean().sqrt() for part in (found - wanted, wanted))
    return float(error / scale.clamp(min=1e-30))
