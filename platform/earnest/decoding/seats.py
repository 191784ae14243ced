"""Who sits where: the rows of a running batch, and what each member has read in them.

A seat is the same row number in every member. A seat that falls free keeps what was read in it until another text
needs the room: a text that begins as an earlier one did goes on where they part. That is the prefix cache; it costs
no memory of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

from earnest.decoding.members import Member

LEAST_COPIED = 16


class Seats:
    """The rows of some members, taken and given back together.

    `known(member, seat)` are the tokens whose keys and values lie in a member's row, from its beginning.
    """

    def __init__(self, members: Mapping[str, Member]) -> None:
        self._members = members
        self.count = min(member.rows for member in members.values())
        self._known: dict[str, list[list[int]]] = {name: [[] for _ in range(self.count)] for name in members}
        self._clock = count()
        self._freed: dict[int, int] = {seat: next(self._clock) for seat in range(self.count)}

    @property
    def free(self) -> int:
        """How many seats are free."""
        return len(self._freed)

    @property
    def row_bytes(self) -> int:
        """What one seat's pasts take in all members together."""
        return sum(member.row_bytes for member in self._members.values())

    def known(self, member: str, seat: int) -> list[int]:
        """What a member has read in a seat; the caller appends what it lets it read and cuts what it refuses."""
        return self._known[member][seat]

    def places(self, member: str, seats: Sequence[int]) -> tuple[list[int], list[int]]:
        """Seats as a member's rows, and how much each of them holds: where reading goes on."""
        return list(seats), [len(self._known[member][seat]) for seat in seats]

    def take(self, member: str, tokens: Sequence[int]) -> int:
        """A free seat: the one in which `member` has read most of how `tokens` begin, the longest free among equals."""
        known = self._known[member]
        seat = max(self._freed, key=lambda seat: (shared(known[seat], tokens), -self._freed[seat]))
        del self._freed[seat]
        return seat

    def leave(self, seat: int) -> None:
        """Give a seat back; what was read in it stays until somebody else sits there."""
        self._freed[seat] = next(self._clock)

    def most_shared(self, member: str, tokens: Sequence[int]) -> int:
        """How many tokens of a text's beginning some row of a member holds."""
        return max(shared(known, tokens) for known in self._known[member])

    def begin(self, member: str, seat: int, tokens: Sequence[int]) -> int:
        """Make the most of what was read before: how many of `tokens` a member's row holds from now on.

        What lies in the row itself is kept, what another row holds is copied where that is worth it. The last token is
        always left to be read, because its logits are needed.
        """
        known, most = self._known[member], len(tokens) - 1
        own = min(shared(known[seat], tokens), most)
        best = max(range(self.count), key=lambda other: shared(known[other], tokens))
        theirs = min(shared(known[best], tokens), most)
        if theirs >= own + LEAST_COPIED:
            self._members[member].copy(best, seat, theirs)
            own = theirs
        known[seat] = list(tokens[:own])
        return own


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common.

    >>> shared([1, 2, 3], [1, 2, 4, 5])
    2
    """
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
