"""Where a compressed model lost what it knew, as typed records: by domain, by reason, by decoder block.

The room `domains` finds them, the report shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from earnest.records import Estimate, Record

SHOWN = 0.05  # a difference or an association is shown where its adjusted p-value is at most this


class GroupChange(Record):
    """One domain or stratum of a task against the dense model, on the same samples.

    `difference` is subject − dense of the headline; `p` is of a two-sided paired test, `adjusted` the same over all
    cells and groups of the task (Benjamini & Hochberg 1995).
    """

    grouping: Literal["domain", "stratum"]
    name: str
    dense: float
    subject: float
    difference: Estimate
    p: float
    adjusted: float

    @property
    def shown(self) -> bool:
        """Whether there is a difference beyond chance."""
        return self.adjusted <= SHOWN

    @property
    def relative(self) -> float | None:
        """The difference as a share of dense; None where dense scored 0."""
        return self.difference.value / self.dense if self.dense else None


class Reason(Record):
    """How far one reason goes with what a cell forgot in a task.

    Over `samples`: how much more of them was lost, as a share, per standard deviation of the reason, with the other
    reasons held equal. Over `domains`: the rank correlation of the domains' losses with the reason. `effect` is None
    where that cannot be measured; `adjusted` is the p-value over all cells and reasons of the task (Holm 1979).
    """

    name: str
    over: Literal["samples", "domains"]
    effect: Estimate | None = None
    p: float = 1.0
    adjusted: float = 1.0

    @property
    def shown(self) -> bool:
        """Whether there is an association beyond chance."""
        return self.effect is not None and self.adjusted <= SHOWN


class BlockShare(Record):
    """What comes back when one decoder block is put back to dense.

    `score` is the headline then; `won_back` is (restored − compressed) ÷ (dense − compressed), and `domains` the same
    within each domain. A share is None where dense is not shown to be better.
    """

    block: int
    score: Estimate
    won_back: Estimate | None
    domains: dict[str, Estimate | None]


class Loss(Record):
    """One task of one compressed cell: its groups, those that lost most first, its reasons, its blocks in order.

    `uneven` is, per grouping, the p-value of groups that all lose alike (Kruskal & Wallis 1952), over all cells of the
    task (Holm 1979): only where it is small does one domain lose more than another.
    """

    cell: str
    task: str
    groups: tuple[GroupChange, ...] = ()
    uneven: dict[str, float] = Field(default_factory=dict)
    reasons: tuple[Reason, ...] = ()
    blocks: tuple[BlockShare, ...] = ()


@dataclass(frozen=True)
class Losses:
    """Losses that are found when they are asked for; `digest` names all that decides them."""

    digest: str
    find: Callable[[], Sequence[Loss]]
