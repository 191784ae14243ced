"""Who is next: the owner who holds least, so that nobody starves the others; an owner's requests keep their order."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Mapping
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue that serves the owner who holds least, and owners who hold the same in turn.

    >>> queue = FairQueue[int]()
    >>> for owner, number in (("a", 1), ("a", 2), ("b", 3)):
    ...     queue.put(owner, number)
    >>> [queue.get() for _ in range(3)]
    [1, 3, 2]
    """

    def __init__(self) -> None:
        self._lines: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def full(self, owner: str, limit: int) -> bool:
        """Whether an owner waits with as many as its share of `limit`, and everybody together with as many as that."""
        owners = len(self._lines.keys() | {owner})
        return len(self) >= limit and len(self._lines.get(owner, ())) >= max(1, limit // owners)

    def put(self, owner: str, item: T) -> None:
        """Let an item wait behind its owner's others."""
        self._lines.setdefault(owner, deque()).append(item)

    def put_back(self, owner: str, item: T) -> None:
        """Let an item wait that was next before, ahead of its owner's others."""
        self._lines.setdefault(owner, deque()).appendleft(item)

    def next(self, held: Mapping[str, int] | None = None) -> str:
        """Whose turn it is, by how much each owner holds. The queue is not empty."""
        held = held or {}
        return min(self._lines, key=lambda owner: held.get(owner, 0))

    def get(self, held: Mapping[str, int] | None = None) -> T:
        """The next item; its owner goes to the end of the line."""
        owner = self.next(held)
        line = self._lines.pop(owner)
        item = line.popleft()
        if line:
            self._lines[owner] = line
        return item

    def drop(self, owner: str, item: T) -> None:
        """Forget an item that waits."""
        line = self._lines[owner]
        line.remove(item)
        if not line:
            del self._lines[owner]


def overfull(held: Counter[str], needy: str) -> str | None:
    """Whose share is to shrink so that an owner who waits gets a place; None where all have as much, but for one.

    >>> overfull(Counter(a=5, b=2), "b"), overfull(Counter(a=3, b=2), "b")
    ('a', None)
    """
    ((owner, most),) = held.most_common(1) or [("", 0)]
    return owner if most > held[needy] + 1 else None
