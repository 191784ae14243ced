"""Which decoder block a loss lies in: how much of it comes back with that block alone at its dense weights."""

from __future__ import annotations

from collections.abc import Sequence

from earnest.domains.answers import Answers
from earnest.losses import BlockShare
from earnest.records import Estimate
from earnest.statistics import gaps


def block_share(block: int, dense: Answers, subject: Answers, restored: Answers) -> BlockShare:
    """The share of the loss that one block gives back, in all and by domain, on the samples that all three answered.

    Shares of several blocks need not add up to one: what one block lost, another may hide.
    """
    ids = dense.shared(subject, restored)
    return BlockShare(
        block=block,
        score=restored.scores.main,
        won_back=_won_back(ids, dense, subject, restored),
        domains={
            name: _won_back(members, dense, subject, restored)
            for name, members in dense.groups(dense.shared_with_parts(subject, restored), "domain").items()
        },
    )


def _won_back(ids: Sequence[str], dense: Answers, subject: Answers, restored: Answers) -> Estimate | None:
    if not ids:
        return None
    start, reached, goal = (each.headline(ids) for each in (subject, restored, dense))
    better = goal.value > start.value if dense.scores.higher_is_better else goal.value < start.value
    return gaps.share_closed(start, reached, goal) if better else None
