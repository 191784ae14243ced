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
_KEPT = 8
_PARTS = 3
"""So many bytes of a character may have come without its last one."""


@dataclass(frozen=True)
class Anchor:
    """The end of a prompt, behind which tokens are decoded: what it reads as, and that without an unfinished end."""

    ids: tuple[int, ...] = ()
    text: str = ""
    certain: str = ""

    def length_in(self, whole: str) -> int:
        """How many characters of the prompt and what follows it are the prompt's.

        Marks that it ends with are its own unless a character that it began is finished behind it.
        """
        return len(self.text if whole.startswith(self.text) else self.certain)


def anchor_of(tokenizer: Any, prompt: Sequence[int]) -> Anchor:
    """The last few tokens of a prompt that are text, or more of them where these begin within a character."""
    special = special_ids(tokenizer)
    plain, count = [token for token in prompt if token not in special], _KEPT
    while BROKEN in (text := decoded(tokenizer, plain[-count:])) and count < len(plain):
        count *= 2
    kept = plain[-count:]
    heads = (decoded(tokenizer, kept[: len(kept) - missing]) for missing in range(min(_PARTS, len(kept)) + 1))
    head = next((head for head in heads if not head.endswith(BROKEN)), "")
    certain = text.rstrip(BROKEN) if text.startswith(head) else head  # a run of bytes may read as marks alone
    return Anchor(tuple(kept), text, certain)


def text_behind(tokenizer: Any, anchor: Anchor, ids: Sequence[int]) -> str:
    """What `ids` add to the text that they follow; bytes that they leave unfinished are U+FFFD."""
    whole = decoded(tokenizer, (*anchor.ids, *ids))
    if BROKEN not in whole:
        return whole[anchor.length_in(whole) :]
    growing = GrowingText(tokenizer, anchor)
    growing.grow(ids)
    return growing.text + growing.rest()


def answer_of(tokenizer: Any, text: str) -> str:
    """A chat's answer without the single space that a decoder eats where a text begins; an indent stays."""
    stray = text[:1] == " " and not text[1:2].isspace() and eats_space(tokenizer)
    return text[1:] if stray else text


class GrowingText:
    """The text of tokens that come after a prompt, as far as no later token can change it.

    `text` is that much. It is the same however many tokens come at once.
    """

    def __init__(self, tokenizer: Any, anchor: Anchor) -> None:
        self._tokenizer, self._special = tokenizer, special_ids(tokenizer)
        self._anchor: Anchor | None = anchor  # until something is certain behind it
        self._window = list(anchor.ids)  # what is decoded
        self._known = anchor.certain  # what of its text is told
        self._open = 0  # so many tokens came behind the last that ended with a character
        self._read = 0
        self.text = ""

    def grow(self, ids: Sequence[int]) -> None:
        """Take in what is new of `ids`, which are all tokens so far."""
        new = [token for token in ids[self._read :] if token not in self._special]
        self._read = len(ids)
        if not new:
            return
        text = decoded(self._tokenizer, (*self._window, *new))
        if len(new) == 1 or BROKEN not in text:
            self._take(new, text)
            return
        for token in new:  # what bytes read as depends on how many are looked at
            self._take([token], decoded(self._tokenizer, (*self._window, token)))

    def rest(self) -> str:
        """What stands behind the certain text where no more tokens come.

        Some decoders read a run of bytes that ends within a character as marks alone, the characters before it, too:
        these stay what they were, and the unfinished one is one mark.
        """
        text = decoded(self._tokenizer, self._window)
        if not self._open or text.startswith(self._known):
            return text[self._begin(text) :] if self._open else ""
        for missing in range(1, min(_PARTS, self._open) + 1):
            head = decoded(self._tokenizer, self._window[:-missing])
            if head.startswith(self._known) and not head.endswith(BROKEN):
                return head[self._begin(head) :] + BROKEN
        return text[self._begin(text) :]

    def _begin(self, text: str) -> int:
        """Where in the window's text begins what is not told yet."""
        return len(self._known) if self._anchor is None else self._anchor.length_in(text)

    def _take(self, new: list[int], text: str) -> None:
        """Take in tokens with which the window reads as `text`."""
        self._window += new
        self._open += len(new)
        certain = text.rstrip(BROKEN)
        if len(certain) > (begin := self._begin(text)):
            self.text += certain[begin:]
            self._known, self._anchor = certain, None
        if len(certain) == len(text):
            self._open = 0
            if len(self._window) > 2 * _KEPT:
                self._shorten()

    def _shorten(self) -> None:
        """Keep the last few tokens as the window, from the beginning of a character on."""
        for count in range(_KEPT, len(self._window)):
            text = decoded(self._tokenizer, self._window[-count:])
            if BROKEN not in text:
                self._window, self._known = self._window[-count:], text
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


@lru_cache(maxsize=16)
def eats_space(tokenizer: Any) -> bool:
    """Whether a decoder leaves out the space that a text begins with."""
    ids = tokenizer("a a", add_special_tokens=False)["input_ids"]
    whole = decoded(tokenizer, ids)
    spaced = (i for i in range(1, len(ids)) if whole[len(decoded(tokenizer, ids[:i])) :].startswith(" "))
    return any(not decoded(tokenizer, ids[i:]).startswith(" ") for i in spaced)
