"""Looking up what may follow: what followed a text's last tokens before may follow them again.

It costs nothing but the width of a reading, and what it proposes decides only how soon the right token is found. It
proposes for texts that no expert speaks in (`Lookup`), and to an expert what that may propose (`Phrases`, `drafting`).
"""

from __future__ import annotations

from collections.abc import Sequence

LENGTH = 3
LENGTHS = (3, 2, 1)
MOST_RUNS = 1 << 16


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


class Phrases:
    """What came last after runs of `LENGTHS` tokens, in one text or in many.

    The `most` runs learnt last are known, and about twice as many at most.
    """

    def __init__(self, most: int = MOST_RUNS) -> None:
        self._most = most
        self._after: dict[tuple[int, ...], int] = {}
        self._older: dict[tuple[int, ...], int] = {}

    def learn(self, text: Sequence[int], begin: int) -> None:
        """Learn what each token of a text from `begin` on came after."""
        for end in range(max(1, begin), len(text)):
            for length in LENGTHS:
                if length <= end:
                    self._after[tuple(text[end - length : end])] = text[end]
            if len(self._after) > self._most:
                self._after, self._older = {}, self._after

    def after(self, text: Sequence[int]) -> int | None:
        """What came after a text's last tokens, by the longest run of them that is known."""
        for length in LENGTHS:
            run = tuple(text[-length:])
            found = self._after.get(run)
            if found is None:
                found = self._older.get(run)
            if found is not None:
                return found
        return None


def follow(text: Sequence[int], books: Sequence[Phrases], count: int) -> tuple[int, ...]:
    """At most `count` tokens to follow a text; the first book that knows how it goes on says so.

    >>> book = Phrases()
    >>> book.learn([1, 2, 3, 4, 5], 0)
    >>> follow([9, 1, 2], [book], 2), follow([5], [book], 2)
    ((3, 4), ())
    """
    tail = list(text[-max(LENGTHS) :])
    begin = len(tail)
    for _ in range(count):
        for book in books:
            token = book.after(tail)
            if token is not None:
                tail.append(token)
                break
        else:
            break
    return tuple(tail[begin:])
