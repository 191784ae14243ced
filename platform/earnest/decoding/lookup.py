"""Looking up what may follow: what followed a text's last tokens before may follow them again.

It costs nothing but the width of a reading, and what it proposes decides only how soon the right token is found. It
proposes for texts that no expert speaks in (`Lookup`), and to an expert what that may propose (`Phrases`, `drafting`).
"""

from __future__ import annotations

from collections.abc import Sequence

LENGTH = 3
MOST_RUNS = 1 << 16
BITS = 20
"""Of a token in the number of a run; two runs of a larger vocabulary may share one, which makes a guess worse."""

After = tuple[dict[int, int], dict[int, int], dict[int, int]]
"""What came after runs of one, two and three tokens."""
Table = tuple[int, dict[int, int]]
"""The length of runs, less one, and what came after them."""


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
    """What came last after runs of up to three tokens, in one text or in many.

    The `most` runs learnt last are known, and about twice as many at most.
    """

    def __init__(self, most: int = MOST_RUNS) -> None:
        self._most = most
        self._after: After = ({}, {}, {})
        self._older: After = ({}, {}, {})
        self._tables: list[Table] = []

    def learn(self, text: Sequence[int], begin: int, end: int | None = None) -> None:
        """Learn what each token of a text from `begin` on came after, up to `end`."""
        begin = max(1, begin)
        one, two, three = self._after
        last, pair, run = _ends(text[max(0, begin - LENGTH) : begin])
        new = not one
        for token in text[begin:end]:
            one[last] = two[pair] = three[run] = token
            last, pair, run = token + 1, last << BITS | token + 1, pair << BITS | token + 1
            if len(one) + len(two) + len(three) > self._most:
                self._older = self._after
                self._after = one, two, three = {}, {}, {}
                new = True
        if new:
            every = [(n, known[n]) for n in reversed(range(LENGTH)) for known in (self._after, self._older)]
            self._tables = [(n, table) for n, table in every if table]

    @property
    def tables(self) -> list[Table]:
        """Where to look for what follows, the longest runs first."""
        return self._tables


def follow(text: Sequence[int], tables: Sequence[Table], count: int) -> tuple[int, ...]:
    """At most `count` tokens to follow a text; the first table that knows how it goes on says so.

    >>> book = Phrases()
    >>> book.learn([1, 2, 3, 4, 5], 0)
    >>> follow([9, 1, 2], book.tables, 2), follow([5], book.tables, 2)
    ((3, 4), ())
    """
    ends = _ends(text[-LENGTH:])
    found: list[int] = []
    while len(found) < count:
        for n, table in tables:
            token = table.get(ends[n])
            if token is not None:
                break
        else:
            break
        found.append(token)
        last, pair, _ = ends
        ends = token + 1, last << BITS | token + 1, pair << BITS | token + 1
    return tuple(found)


def _ends(text: Sequence[int]) -> tuple[int, int, int]:
    """The runs of one, two and three tokens that end a text, each as a number, which a dictionary finds sooner."""
    last, pair, run = 0, 0, 0  # nothing stands before a text
    for token in text:
        last, pair, run = token + 1, last << BITS | token + 1, pair << BITS | token + 1
    return last, pair, run
