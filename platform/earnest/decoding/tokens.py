"""Single tokens as log-probabilities show them: their text, and the bytes that it is made of."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from earnest.decoding.detokenizing import BROKEN, GrowingText, anchor_of


class TokenTexts:
    """A tokenizer's tokens, one by one.

    A token is decoded behind another one and that one's text taken off, because many decoders eat the space that a
    text begins with.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._anchor = tokenizer("a", add_special_tokens=False)["input_ids"][-1]
        self._anchored = len(self.alone(self._anchor))
        self.text = lru_cache(maxsize=1 << 16)(self._text)
        self.raw = lru_cache(maxsize=1 << 16)(self._raw)

    def name(self, token: int) -> str:
        """The text, or where it is a part of a character, its bytes as OpenAI writes them."""
        raw = self.raw(token)
        if BROKEN in self.text(token) and raw is not None:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        return self.text(token)

    def growing(self, begun: bool) -> GrowingText:
        """A text to count characters in as tokens come; `begun` tells that something stands before them."""
        return GrowingText(self._tokenizer, anchor_of(self._tokenizer, [self._anchor] if begun else []))

    def alone(self, *ids: int) -> str:
        """The text of tokens that nothing stands before."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _text(self, token: int) -> str:
        return self.alone(self._anchor, token)[self._anchored :]

    def _raw(self, token: int) -> tuple[int, ...] | None:
        """The bytes; None where the tokenizer does not tell those of a part of a character."""
        text = self.text(token)
        if BROKEN not in text:
            return tuple(text.encode())
        piece = str(self._tokenizer.convert_ids_to_tokens(token))
        if piece.startswith("<0x") and piece.endswith(">"):  # SentencePiece's byte fallback
            return (int(piece[3:-1], 16),)
        if all(character in BYTE_OF for character in piece):  # GPT-2's byte-level alphabet
            return tuple(BYTE_OF[character] for character in piece)
        return None


def _byte_level_alphabet() -> dict[str, int]:
    """The byte that each character of byte-level pieces stands for: printable ones themselves, others from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_OF = _byte_level_alphabet()


@lru_cache(maxsize=4)
def token_texts(tokenizer: Any) -> TokenTexts:
    """A tokenizer's tokens, remembered."""
    return TokenTexts(tokenizer)
