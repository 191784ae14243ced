"""Rows of tokens -> a forest of segments, in which what many rows begin with stands once.

The few-shot block of a subject becomes the root of its questions, a question the root of its options.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SHORTEST_PREFIX = 16

Tokens = tuple[int, ...]


@dataclass
class Segment:
    """Tokens that follow those of the parent: `start` is the position of the first, `ends` the rows that end here."""

    tokens: Tokens
    start: int
    ends: list[int] = field(default_factory=list)
    children: list[Segment] = field(default_factory=list)

    @property
    def stop(self) -> int:
        """The position behind the last token."""
        return self.start + len(self.tokens)


def forest(
    rows: Sequence[Tokens], shortest: int = SHORTEST_PREFIX, among: Iterable[int] | None = None
) -> list[Segment]:
    """Segments whose paths from root to end spell `rows`, which must differ from one another and not be empty.

    Only rows `among` these are spelt, by default all. A prefix is shared where at least two rows have at least
    `shortest` tokens in common beyond their parent's.
    """
    order = sorted(range(len(rows)) if among is None else among, key=rows.__getitem__)
    common = [0, *(_common(rows[a], rows[b]) for a, b in pairwise(order))]
    if not order:
        return []

    def grow(low: int, high: int, start: int) -> list[Segment]:
        cuts = [low, *(i for i in range(low + 1, high) if common[i] < start + shortest), high]
        return [tree(a, b, start) for a, b in pairwise(cuts) if a < b]

    def tree(low: int, high: int, start: int) -> Segment:
        first = order[low]
        if high - low == 1:
            return Segment(rows[first][start:], start, [first])
        stop = min(common[low + 1 : high])
        ends = [first] if len(rows[first]) == stop else []  # it is a prefix of the others and sorts before them
        return Segment(rows[first][start:stop], start, ends, grow(low + len(ends), high, stop))

    return grow(0, len(order), 0)


def _common(a: Tokens, b: Tokens) -> int:
    """How many tokens two rows begin with in common."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if a[:middle] == b[:middle] else (low, middle - 1)
    return low
