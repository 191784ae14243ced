"""Prompt look-up: what followed the last earlier occurrence of a text's last tokens may follow again.

The drafter of texts that no expert speaks in. It costs nothing but the width of the verification, and what it
proposes decides only how soon the right token is found.
"""

from __future__ import annotations

from collections.abc import Sequence

LENGTH = 3


class Lookup:
    """An index of a growing text by its runs of `LENGTH` tokens."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}

    def grow(self, tokens: Sequence[int]) -> None:
        """Append tokens; the run that ends the text is not indexed before something follows it."""
        for token in tokens:
            if len(self._text) >= LENGTH:
                self._after[tuple(self._text[-LENGTH:])] = len(self._text)
            self._text.append(token)

    def propose(self, count: int) -> tuple[int, ...]:
        """At most `count` tokens to follow the text; none where its end is new.

        >>> lookup = Lookup()
        >>> lookup.grow([1, 2, 3, 4, 5, 1, 2, 3])
        >>> lookup.propose(2)
        (4, 5)
        """
        begin = self._after.get(tuple(self._text[-LENGTH:]))
        return () if begin is None or count < 1 else tuple(self._text[begin : begin + count])
