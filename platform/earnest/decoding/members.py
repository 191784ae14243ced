"""What a running batch needs of each of its models: rows with a past each, read and drafted by number.

A member holds `rows` texts of at most `slots` tokens at a time. Where a row's past ends is the caller's to know: every
call says at which position each row goes on, and what lay behind is forgotten by being overwritten. So a refused draft
costs nothing, and a row may be taken over by another text that begins alike. A member may lie in this process or in
another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from earnest.decoding.sampling import Sampling

T_co = TypeVar("T_co", covariant=True)


class Pending(Protocol[T_co]):
    """Something under way; members in other processes work while the caller goes on."""

    def result(self) -> T_co:
        """Wait for it. Raises MemberLostError where the member is gone."""


class MemberLostError(RuntimeError):
    """A member's process is gone, and with it the pasts of its rows."""


@dataclass(frozen=True)
class Wanted:
    """How one row's tokens are proposed: at most `count`, under the row's own settings.

    `written` is the continuation so far, its last token unread; `prompt` is only looked at by penalties. No further
    step is made where the next token, with all before it, is right with a chance below `least_chance`. The last
    `unsure` tokens written are this member's own proposals, and what it would write behind them: whether they are right
    is not known yet. Nothing is proposed from the first of the tokens in `ends` on: the text would end there.
    """

    count: int
    sampling: Sampling
    prompt: tuple[int, ...]
    written: tuple[int, ...]
    least_chance: float = 0.0
    unsure: int = 0
    ends: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Drafted:
    """Proposed tokens per row, and the drafting member's logits after the last unread token and after each proposal.

    `logits` [proposals + rows, vocabulary], float32, row after row. `steps` is how often the member was run, and
    `following` what it would write behind each row's proposals, NO_TOKEN where that is nothing.
    """

    tokens: tuple[tuple[int, ...], ...]
    logits: Tensor
    steps: int
    following: tuple[int, ...]


class Member(Protocol):
    """One model of a running batch."""

    @property
    def name(self) -> str:
        """How requests call it."""

    @property
    def elsewhere(self) -> bool:
        """Whether it works on what it was asked while the caller does something else."""

    @property
    def vocabulary(self) -> int:
        """How wide its logits are, padding rows of the head included."""

    @property
    def rows(self) -> int:
        """How many texts it holds at a time."""

    @property
    def slots(self) -> int:
        """How many tokens each of them has room for."""

    @property
    def row_bytes(self) -> int:
        """What one row's past takes in memory."""

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Pending[Tensor]:
        """Read tokens into rows.

        Args:
            rows: numbers of rows, each once.
            starts: how much of each row's past holds; reading goes on behind it.
            tokens: at least one token per row; starts + tokens within `slots`.
            last: only the logits after each row's last token are needed.

        Returns:
            Logits [tokens, vocabulary] in float32 after each token, row after row, or [rows, vocabulary] with `last`;
            on the CPU or the member's device.
        """

    def draft(self, rows: Sequence[int], starts: Sequence[int], wanted: Sequence[Wanted]) -> Pending[Drafted]:
        """Read each row's last written token, propose, and read the proposals too: `starts` as in `read`."""

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""


def stretches(lengths: Iterable[int]) -> Iterator[slice]:
    """Where each row's own lie in logits row after row.

    >>> [*stretches([2, 0, 3])]
    [slice(0, 2, None), slice(2, 2, None), slice(2, 5, None)]
    """
    return (slice(*ends) for ends in pairwise(accumulate(lengths, initial=0)))


def picked(logits: Tensor, places: Sequence[int]) -> Tensor:
    """Logits [some, vocabulary] at these places; the very same tensor where all are picked in order, a view at ends."""
    first, count = (places[0], len(places)) if places else (0, 0)
    if count and places[-1] - first == count - 1 and [*places] == [*range(first, first + count)]:
        return logits if count == logits.shape[0] else logits.narrow(0, first, count)
    return logits.index_select(0, torch.tensor(places, dtype=torch.int64, device=logits.device))
