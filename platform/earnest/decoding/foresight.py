"""Drafts of one text that are asked for before anybody waits for them.

A member elsewhere has nothing to do while others verify what it proposed. Meanwhile it goes on as though all of that
were right, and what it would write behind it, too: as in PEARL (Liu et al. 2024, arXiv 2408.11850), drafting and
verifying overlap. Where it comes true, the next draft is there already. Where it does not, that draft is forgotten, and
the member goes on from what is right, while the text is still being told what that is.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from earnest.decoding.members import Drafted, Member, Pending, Wanted
from earnest.decoding.sampling import NO_TOKEN
from earnest.decoding.seats import Seats
from earnest.decoding.texts import Text

LONGEST = 8192
"""Longer texts, prompt included, are not drafted ahead: a question must get through beside an answer not yet heard."""


@dataclass(frozen=True)
class Hope:
    """What a member was asked for, should the text go on with `ids`; `sure`: it was certain to, when it was asked."""

    text: Text
    ids: tuple[int, ...]
    pending: Pending[Drafted]
    sure: bool
    asked: float


@dataclass(frozen=True)
class Foreseen:
    """A draft, and how many seconds went by since it was asked for; None where it was before anything was sure."""

    drafted: Drafted
    seconds: float | None


class Foresight:
    """What members elsewhere draft before it is wanted.

    Behind one of the tokens that are `ends` nothing is drafted.
    """

    def __init__(self, members: Mapping[str, Member], seats: Seats, ends: frozenset[int]) -> None:
        self._members, self._seats, self._ends = members, seats, ends
        self._hopes: dict[str, Hope] = {}

    def hope(self, name: str, text: Text, drafted: Drafted, most: int, least_chance: float) -> None:
        """Have a member go on behind its draft of one text, with at most `most` tokens. Raises MemberLostError."""
        proposed = drafted.tokens[0]
        self._ask(name, text, (*proposed, drafted.following[0]), len(proposed) + 1, most, least_chance)

    def know(self, name: str, text: Text, right: tuple[int, ...], most: int, least_chance: float) -> None:
        """Have a member go on behind what turned out right, unless it hoped for just that. Raises MemberLostError."""
        hope = self._hopes.get(name)
        if hope is None or hope.text is not text or hope.ids != (*text.row.ids, *right):
            self._ask(name, text, right, 0, most, least_chance)

    def take(self, name: str, texts: Collection[Text]) -> Foreseen | None:
        """The draft of a text that went on as it was hoped; None where there is none, or others are wanted, too.

        Raises:
            MemberLostError: the member is gone.
        """
        hope = self._hopes.pop(name, None)
        if hope is None or [*texts] != [hope.text] or hope.ids != tuple(hope.text.row.ids):
            return None
        drafted = hope.pending.result()
        return Foreseen(drafted, time.perf_counter() - hope.asked if hope.sure else None)

    @property
    def open(self) -> bool:
        """Whether an answer may be on its way."""
        return bool(self._hopes)

    def forget(self, but: Collection[Text] = ()) -> None:
        """Wait for all that is drafted ahead of other texts than these; nobody wants it. Raises MemberLostError."""
        for name in [name for name, hope in self._hopes.items() if hope.text not in but]:
            self._hopes.pop(name).pending.result()

    def _ask(self, name: str, text: Text, fresh: tuple[int, ...], unsure: int, most: int, least_chance: float) -> None:
        """Ask for a draft behind `fresh` tokens, of which the last is unread."""
        count = min(most, text.left - len(fresh) - 1)
        ids = (*text.row.ids, *fresh)
        over = count < 1 or fresh[-1] == NO_TOKEN or not self._ends.isdisjoint(fresh)
        if over or len(text.row.start) + len(ids) > LONGEST:
            return
        rows, (start,) = self._seats.places(name, [text.seat])
        wanted = Wanted(count, text.request.sampling, text.row.start, ids, least_chance, unsure)
        pending = self._members[name].draft(rows, [start + len(fresh)], [wanted])
        self._hopes[name] = Hope(text, ids, pending, not unsure, time.perf_counter())
