"""Tokens -> the text that they add to a prompt: all of it minus the prompt's, whole at once or as it grows.

What a token reads as depends on what stands before it: decoders of SentencePiece's kind eat the space that a text
begins with, and the bytes of a character may be several tokens. So nothing is decoded without some of what stands
before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

BROKEN = "\ufffd"
_LEAST = 8
_PARTS = 3
"""So many bytes of a character may have come without its last one."""


@dataclass(frozen=True)
class Anchor:
    """The end of a prompt, behind which tokens are decoded, and how many characters of that are the prompt's own."""

    ids: tuple[int, ...] = ()
    length: int = 0


def anchor_of(tokenizer: Any, prompt: Sequence[int]) -> Anchor:
    """The last few tokens of a prompt that are text, or more of them where these begin within a character."""
    special = special_ids(tokenizer)
    plain, count = [token for token in prompt if token not in special], _LEAST
    while BROKEN in (text := decoded(tokenizer, plain[-count:])) and count < len(plain):
        count *= 2
    return Anchor(tuple(plain[-count:]), len(text.rstrip(BROKEN)))


def text_behind(tokenizer: Any, anchor: Anchor, ids: Sequence[int]) -> str:
    """What `ids` add to the text that they follow; a character that they leave unfinished is one U+FFFD."""
    text = decoded(tokenizer, (*anchor.ids, *ids))
    if BROKEN not in text:
        return text[anchor.length :]
    growing = GrowingText(tokenizer, anchor)
    growing.grow(ids)
    return growing.text + growing.rest()


def answer_of(text: str) -> str:
    """A chat's answer without the single space that parts it from the turn before; an indent stays."""
    return text[1:] if text[:1] == " " and not text[1:2].isspace() else text


class GrowingText:
    """The text of tokens that come after a prompt, as far as no later token can change it.

    `text` is that much. It is the same however many tokens come at once.
    """

    def __init__(self, tokenizer: Any, anchor: Anchor) -> None:
        self._tokenizer, self._special = tokenizer, special_ids(tokenizer)
        self._window = list(anchor.ids)  # what is decoded; of its text the first `known` characters are told
        self._known = anchor.length
        self._read = 0
        self.text = ""

    def grow(self, ids: Sequence[int]) -> None:
        """Take in what is new of `ids`, which are all tokens so far."""
        new = [token for token in ids[self._read :] if token not in self._special]
        self._read = len(ids)
        if new and BROKEN not in decoded(self._tokenizer, (*self._window, *new)):
            self._take(new)
        else:
            for token in new:  # what bytes read as depends on how many are looked at
                self._take([token])

    def rest(self) -> str:
        """What stands behind the certain text where no more tokens come."""
        text = decoded(self._tokenizer, self._window)
        if len(text) <= self._known:
            return ""
        for missing in range(1, min(_PARTS, len(self._window)) + 1):
            head = decoded(self._tokenizer, self._window[:-missing])
            if len(head) >= self._known and not head.endswith(BROKEN):
                return head[self._known :] + BROKEN
        return text[self._known :]

    def _take(self, new: list[int]) -> None:
        self._window += new
        text = decoded(self._tokenizer, self._window)
        certain = text.rstrip(BROKEN)
        self.text += certain[self._known :]
        self._known = max(self._known, len(certain))
        if len(certain) == len(text):
            self._shorten()

    def _shorten(self) -> None:
        """Keep the last character's tokens as the window, whatever came along with them."""
        for count in range(1, len(self._window)):
            text = decoded(self._tokenizer, self._window[-count:])
            if BROKEN not in text:
                self._window, self._known = self._window[-count:], len(text)
                return


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of tokens before which nothing stands, special ones left out."""
    text: str = tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


@lru_cache(maxsize=16)
def special_ids(tokenizer: Any) -> frozenset[int]:
    """The tokens that are no text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(getattr(tokenizer, "all_special_ids", ())) | {i for i, one in added.items() if one.special}
