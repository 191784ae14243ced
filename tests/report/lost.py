"""Where the cells of `plausible` lost: each domain by its own score, by rarity, and in the last block."""

from __future__ import annotations

from collections.abc import Sequence

from earnest.losses import BlockShare, GroupChange, Loss, Losses, Reason
from earnest.records import CellRecord, Estimate


def losses(cells: Sequence[CellRecord], task: str = "closed_book") -> Losses:
    """The losses of all compressed cells in one task; wanda's at 50% block by block."""
    dense = cells[0]
    found = [
        Loss(
            cell=one.key,
            task=task,
            uneven={"domain": 0.21, "stratum": 0.0001},
            groups=tuple(sorted(_groups(dense, one, task), key=lambda group: (group.grouping, group.difference.value))),
            reasons=(
                Reason(
                    name="rarity of the fact", over="samples", p=1e-6, adjusted=1e-4,
                    effect=Estimate(value=0.124, low=0.096, high=0.153, n=274),
                ),
                Reason(
                    name="unseen in calibration", over="samples", p=0.5,
                    effect=Estimate(value=-0.004, low=-0.03, high=0.02, n=274),
                ),
                Reason(name="length of the answer", over="samples"),
                Reason(
                    name="different answers", over="domains", p=0.3,
                    effect=Estimate(value=-0.4, low=-1.0, high=0.7, n=6),
                ),
            ),
            blocks=_blocks(one, task) if one.label == "wanda 50%" else (),
        )
        for one in cells
        if one.family != "dense" and task in one.scores
    ]  # fmt: skip
    return Losses("planted", lambda: found)


def _groups(dense: CellRecord, one: CellRecord, task: str) -> list[GroupChange]:
    return [
        GroupChange(
            grouping=grouping, name=name, dense=before.value, subject=after.value, p=0.2,  # type: ignore[arg-type]
            difference=Estimate(value=after.value - before.value, low=-0.3, high=0.1, n=before.n),
            adjusted=0.001 if after.value < 0.9 * before.value else 0.4,
        )
        for grouping in ("domain", "stratum")
        for name, before in dense.scores[task].groups[grouping].items()
        for after in [one.scores[task].groups[grouping][name]]
    ]  # fmt: skip


def _blocks(one: CellRecord, task: str) -> tuple[BlockShare, ...]:
    shares = [None, *(Estimate(value=v, low=v - 0.1, high=v + 0.1, n=300) for v in (-0.02, 0.2, 0.5))]
    domains = one.scores[task].groups["domain"]
    return tuple(
        BlockShare(block=i, score=one.scores[task].main, won_back=share, domains=dict.fromkeys(domains, share))
        for i, share in enumerate(shares)
    )
