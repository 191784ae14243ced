"""Who is next: owners take turns, and each owner's requests keep their order, so nobody can starve the others."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """A queue that serves owners in turn.

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

    def waits(self, owner: str) -> bool:
        """Whether anything of an owner's is in the queue."""
        return owner in self._lines

    def put(self, owner: str, item: T) -> None:
        """Let an item wait behind its owner's others."""
        self._lines.setdefault(owner, deque()).append(item)

    def get(self) -> T:
        """The next item; its owner goes to the end of the line."""
        owner, line = self._lines.popitem(last=False)
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
