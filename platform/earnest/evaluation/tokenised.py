"""Texts that were tokenised before: a worker asks the same prompts of every checkpoint, and tokenises them once.

Whose tokens they are is decided by the tokenizer's content and not by the object, because every checkpoint brings one
of its own. What is remembered is bounded, and what came first stays: a sweep asks in the same order again and again.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from earnest.decoding.encoding import encode

MOST_TOKENS = 2**24

_known: dict[bytes, array[int]] = {}
_kept = 0


def tokenised(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, as `encode` gives them."""
    content = _content(tokenizer)
    if content is None:
        return encode(tokenizer, texts)
    keys = [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, key=content).digest() for text in texts
    ]
    new = {key: text for key, text in zip(keys, texts, strict=True) if key not in _known}
    fresh = dict(zip(new, encode(tokenizer, list(new.values())), strict=True))
    _remember(fresh)
    return [fresh[key] if key in fresh else list(_known[key]) for key in keys]


def forget() -> None:
    """Remember nothing, as a process that has just begun."""
    global _kept
    _known.clear()
    _kept = 0


def _remember(fresh: dict[bytes, list[int]]) -> None:
    global _kept
    for key, ids in fresh.items():
        if _kept + len(ids) > MOST_TOKENS:
            return
        _known[key] = array("i", ids)
        _kept += len(ids)


@lru_cache(maxsize=4)
def _content(tokenizer: Any) -> bytes | None:
    """What decides a tokenizer's ids, as a digest; None where that cannot be seen."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    beside = (type(tokenizer).__name__, tokenizer.bos_token, getattr(tokenizer, "split_special_tokens", None))
    return hashlib.sha256(backend.to_str().encode() + repr(beside).encode()).digest()
