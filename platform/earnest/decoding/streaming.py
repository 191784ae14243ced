"""The text of a growing row, piece by piece: never a part of a character, and never a part of a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"


class TextStream:
    """What of one row's text may be shown.

    A tokenizer's text of some tokens depends on those before, so tokens are decoded behind a window of earlier ones
    whose own text is known and taken off.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stops = tuple(stops)
        self._begin = self._end = 0  # tokens [begin, end) are the window
        self._window = ""
        self._text = ""
        self._shown = 0

    def grow(self, ids: Sequence[int]) -> str:
        """What may be shown now that the row has all of `ids`."""
        text = self._decode(ids[self._begin :])
        if not text.endswith(_BROKEN):
            self._text += text[len(self._window) :]
            self._begin, self._end = self._end, len(ids)
            self._window = self._decode(ids[self._begin : self._end])
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

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
