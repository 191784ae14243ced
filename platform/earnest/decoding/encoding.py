"""Text -> the token ids of a prompt: what begins a text stands before it once, what ends it does not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any


def encode(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, with the tokens that the tokenizer puts before a text and without those behind it."""
    if not texts:
        return []
    begin = tokenizer.bos_token
    begun = [bool(begin) and text.startswith(begin) for text in texts]
    ids: list[list[int]] = [[] for _ in texts]
    for special in (True, False):
        chosen = [i for i, has_begin in enumerate(begun) if has_begin != special]
        if chosen:
            rows = tokenizer([texts[i] for i in chosen], add_special_tokens=special, verbose=False)["input_ids"]
            for i, row in zip(chosen, rows, strict=True):
                ids[i] = row
    closing = _closing_tokens(tokenizer)
    return [row[: len(row) - closing] for row in ids] if closing else ids


@lru_cache(maxsize=16)
def _closing_tokens(tokenizer: Any) -> int:
    """How many tokens the tokenizer puts behind a text by default: a prompt must stay open."""
    bare, whole = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")["input_ids"]
    extra = len(whole) - len(bare)
    return next(n for n in range(extra + 1) if whole[extra - n : len(whole) - n] == bare) if extra else 0
