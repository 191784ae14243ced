"""Which domains lose most: every domain and stratum of a task against dense, on the same samples."""

from __future__ import annotations

from collections.abc import Sequence

from earnest.domains.answers import GROUPINGS, Answers
from earnest.losses import GroupChange
from earnest.statistics import gaps
from earnest.statistics.association import uneven
from earnest.statistics.pairs import Pairs
from earnest.statistics.versus import p_of_no_change


def changes(dense: Answers, subject: Answers) -> list[GroupChange]:
    """The headline's difference in each group, with a paired bootstrap and a paired test; those that lost most first.

    Right or wrong scores are tested by McNemar's exact test, others by flipping signs. `adjusted` is still `p`.
    """
    ids = dense.shared_with_parts(subject)
    found = [
        _change(grouping, name, members, dense, subject)
        for grouping in GROUPINGS
        for name, members in dense.groups(ids, grouping).items()
    ]
    better = 1.0 if dense.scores.higher_is_better else -1.0
    return sorted(found, key=lambda change: (GROUPINGS.index(change.grouping), better * (change.relative or 0.0)))


def unevenness(dense: Answers, subject: Answers) -> dict[str, float]:
    """The p-value of groups that lose alike, per grouping; of what dense had right where right and wrong exist."""
    ids = dense.could_lose(subject)
    lost = dense.lost(subject, ids)
    names = {grouping: [getattr(dense.samples[name], grouping) for name in ids] for grouping in GROUPINGS}
    found = {grouping: uneven(lost, groups) for grouping, groups in names.items() if all(groups)}
    return {grouping: p for grouping, p in found.items() if p is not None}


def _change(grouping: str, name: str, ids: Sequence[str], dense: Answers, subject: Answers) -> GroupChange:
    before, after = dense.headline(ids), subject.headline(ids)
    p = _p(ids, dense, subject)
    return GroupChange(
        grouping=grouping,  # type: ignore[arg-type]
        name=name,
        dense=before.value,
        subject=after.value,
        difference=gaps.difference(before, after),
        p=p,
        adjusted=p,
    )


def _p(ids: Sequence[str], dense: Answers, subject: Answers) -> float:
    scale = "log" if dense.headline(ids).exponential else "linear"
    pairs = Pairs(dense.headline(ids).sums, subject.headline(ids).sums, scale=scale)  # type: ignore[arg-type]
    return p_of_no_change([pairs])[0]
