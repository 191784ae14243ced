"""The text of a growing row, piece by piece: never a part of a character, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from earnest.decoding.detokenizing import Anchor, GrowingText, answer_of


class TextStream:
    """What of one row's text may be shown.

    Args:
        tokenizer: what decodes.
        stops: what ends the text, and is not shown.
        anchor: the end of the prompt that the row continues.
        answer: whether it answers in a chat (`detokenizing.answer_of`).
    """

    def __init__(
        self, tokenizer: Any, stops: Sequence[str], anchor: Anchor | None = None, answer: bool = False
    ) -> None:
        self._tokenizer, self._growing = tokenizer, GrowingText(tokenizer, anchor or Anchor())
        self._stops, self._answer = tuple(stops), answer
        self._text = ""
        self._shown = 0

    def grow(self, ids: Sequence[int]) -> str:
        """What may be shown now that the row has all of `ids`."""
        self._growing.grow(ids)
        text = self._growing.text
        self._text = answer_of(self._tokenizer, text) if self._answer else text
        return self._show(len(self._text) - self._held_back())

    def finish(self, text: str) -> str:
        """The rest, now that the row has ended with `text`, its stop string taken off."""
        self._text = text
        return self._show(len(text))

    def _show(self, until: int) -> str:
        piece = self._text[self._shown : until]
        self._shown = max(self._shown, until)
        return piece

    def _held_back(self) -> int:
        """How many characters at the end may belong to a stop string."""
        return max((self._begun(stop) for stop in self._stops), default=0)

    def _begun(self, stop: str) -> int:
        tail = self._text[-(len(stop) - 1) :] if len(stop) > 1 else ""
        return next((len(tail) - i for i in range(len(tail)) if stop.startswith(tail[i:])), 0)
