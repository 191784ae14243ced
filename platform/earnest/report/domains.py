"""Where it was lost: the map of domains and strata, what goes with the loss, and the blocks that it comes back with.

Draws and words what `earnest.losses` records; nothing is computed here but what stands where.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from earnest.losses import SHOWN, BlockShare, GroupChange, Loss, Reason
from earnest.palette import ink
from earnest.records import CellRecord
from earnest.report.ink import MUTED, PAPER, TEXT, title
from earnest.report.intervals import signed_interval
from earnest.report.survey import CONTROLS, Survey, figure_text, percent_change, spoken

MAX_DOMAINS = 12  # of many domains the map and the first table show those that lost most
DEEP = 0.72  # from here on a square is so dark that its text is light


@dataclass(frozen=True)
class Domains:
    """The losses of a survey's cells, and the questions that the report asks of them."""

    survey: Survey
    losses: Sequence[Loss] = field(default_factory=tuple)

    @cached_property
    def by_cell(self) -> dict[tuple[str, str], Loss]:
        """Each loss by the key of its cell and its task."""
        return {(loss.cell, loss.task): loss for loss in self.losses}

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks in which a fluent cell has groups, that with the largest losses first."""
        found = [task for task in self.survey.tasks if self.cells(task)]
        return sorted(found, key=lambda task: (task != self.survey.most_lost, self.survey.tasks.index(task)))

    def cells(self, task: str) -> list[CellRecord]:
        """The cells that have groups in a task, in the sweep's order."""
        fluent = (cell for cell in self.survey.compressed if task in cell.scores and cell.scores[task].means_something)
        return [cell for cell in fluent if self.groups(cell, task)]

    def groups(self, cell: CellRecord, task: str) -> tuple[GroupChange, ...]:
        """A cell's groups, those that lost most first."""
        loss = self.by_cell.get((cell.key, task))
        return loss.groups if loss else ()

    def columns(self, task: str) -> list[tuple[str, str]]:
        """(grouping, name) of every group, domains before strata, those that lost most over all cells first."""
        sums: dict[tuple[str, str], list[float]] = {}
        for cell in self.cells(task):
            for group in self.groups(cell, task):
                sums.setdefault((group.grouping, group.name), []).append(group.relative or 0.0)
        better = 1.0 if self.survey.higher_is_better(task) else -1.0
        return sorted(sums, key=lambda key: (key[0], better * sum(sums[key]) / len(sums[key])))

    def focus(self, task: str) -> CellRecord | None:
        """The cell whose domains are told in numbers: where a perplexity still claims nothing, or the most lost."""
        blind = self.survey.blind_spot
        if blind is not None and blind[2] == task and self.groups(blind[0], task):
            return blind[0]
        known = [cell for cell in self.cells(task) if cell.method not in CONTROLS] or self.cells(task)
        return max(known, key=lambda cell: self.survey.loss(cell, task) or 0.0, default=None)

    def localised(self) -> Iterator[tuple[CellRecord, Loss]]:
        """The cells and tasks that were evaluated block by block."""
        cells = {cell.key: cell for cell in self.survey.cells}
        return ((cells[loss.cell], loss) for loss in self.losses if loss.blocks and loss.cell in cells)


# --- words ----------------------------------------------------------------------------------------------------------


def domain_sections(domains: Domains) -> list[dict[str, Any]]:
    """What the page says of each task: the groups of one cell in numbers, and every cell's reasons."""
    return [_section(domains, task) for task in domains.tasks]


def _section(domains: Domains, task: str) -> dict[str, Any]:
    focus = domains.focus(task)
    groups = domains.groups(focus, task) if focus else ()
    of_domains, of_strata = ([one for one in groups if one.grouping == name] for name in ("domain", "stratum"))
    return {
        "task": task,
        "focus": "" if focus is None else focus.label + (f", seed {focus.seed}" if focus.seed else ""),
        "groups": [_group_row(one, domains.survey, task) for one in (*of_domains[:MAX_DOMAINS], *of_strata)],
        "others": [_group_row(one, domains.survey, task) for one in of_domains[MAX_DOMAINS:]],
        "uneven": _uneven(domains.by_cell[focus.key, task]) if focus else [],
        "reasons": [table for over in ("samples", "domains") if (table := _reasons(domains, task, over))],
    }


def _uneven(loss: Loss) -> list[str]:
    """Whether the groups differ in what they lost, one sentence per grouping."""
    plural, verdicts = {"domain": "domains", "stratum": "strata"}, {True: "shown", False: "not decided"}
    return [
        f"That {plural[grouping]} lose unequally is {verdicts[p <= SHOWN]} (adjusted p {_p_text(p)})."
        for grouping, p in loss.uneven.items()
    ]


def _group_row(group: GroupChange, survey: Survey, task: str) -> dict[str, Any]:
    headline = survey.headline(task)
    worse = group.difference.value < 0 if survey.higher_is_better(task) else group.difference.value > 0
    return {
        "grouping": group.grouping,
        "name": group.name.replace("_", " "),
        "n": group.difference.n,
        "dense": figure_text(group.dense, headline),
        "subject": figure_text(group.subject, headline),
        "relative": percent_change(group.relative),
        "difference": signed_interval(group.difference, headline),
        "p": _p_text(group.adjusted),
        "verdict": ("falls" if worse else "rises") if group.shown else "not decided",
    }


def _reasons(domains: Domains, task: str, over: str) -> dict[str, Any] | None:
    """Every cell's reasons, one column each; reasons that no cell has measured are named apart."""
    rows = [
        (cell, [reason for reason in loss.reasons if reason.over == over])
        for cell in domains.cells(task)
        if (loss := domains.by_cell[cell.key, task]).reasons
    ]
    names = list(dict.fromkeys(reason.name for _, reasons in rows for reason in reasons))
    measured = [
        name for name in names if any(one.name == name and one.effect for _, reasons in rows for one in reasons)
    ]
    if not measured:
        return None
    return {
        "over": over,
        "names": measured,
        "absent": [name for name in names if name not in measured],
        "rows": [
            {
                "method": cell.method,
                "label": cell.label + (f", seed {cell.seed}" if cell.seed else ""),
                "n": max((one.effect.n for one in reasons if one.effect), default=0),
                "cells": [_reason_cell(next(one for one in reasons if one.name == name)) for name in measured],
            }
            for cell, reasons in rows
        ],
    }


def _reason_cell(reason: Reason) -> dict[str, Any]:
    if reason.effect is None:
        return {"text": "–", "shown": False}
    value, low, high = reason.effect.value, reason.effect.low, reason.effect.high
    if reason.over == "samples":
        return {"text": _interval(value, low, high), "shown": reason.shown}
    spread = "" if low is None or high is None else f" [{low:+.2f}, {high:+.2f}]"
    return {"text": f"{value:+.2f}{spread}".replace("-", "−"), "shown": reason.shown}


def _interval(value: float, low: float | None, high: float | None) -> str:
    """A share in points with its interval, as in "+12.4 [9.6, 15.3]"."""
    spread = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * value:+.1f}{spread}".replace("-", "−")


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


# --- the map --------------------------------------------------------------------------------------------------------


def domains_figure(domains: Domains, task: str) -> Figure:
    """A map of relative changes: one row per cell, one column per domain and stratum; framed where shown."""
    every, cells = domains.columns(task), domains.cells(task)
    columns = [*_of("domain", every)[:MAX_DOMAINS], *_of("stratum", every)[:MAX_DOMAINS]]
    gap = next((at for at, (grouping, _) in enumerate(columns) if grouping == "stratum"), len(columns))
    places = {key: at + (0.35 if at >= gap and gap else 0.0) for at, key in enumerate(columns)}
    figure = Figure(figsize=(2.1 + 0.62 * max(len(columns), 5), 1.5 + 0.23 * len(cells)), layout="constrained")
    axes = figure.add_subplot()
    better = 1.0 if domains.survey.higher_is_better(task) else -1.0
    for row, cell in enumerate(cells):
        for group in domains.groups(cell, task):
            place = places.get((group.grouping, group.name))
            if place is not None and group.relative is not None:
                text = percent_change(group.relative)
                _square(axes, row, place, -better * group.relative, text, framed=group.shown)
    names = [name.replace("_", " ") for _, name in columns]
    _frame(axes, [*places.values()], names, [cell.label for cell in cells])
    for label, cell in zip(axes.get_yticklabels(), cells, strict=True):
        label.set_color(ink(cell.method).light)
    left_out = len(every) - len(columns)
    below = f"{left_out} that lost less are left out" if left_out else ""
    title(axes, f"{spoken(task).capitalize()}: change against dense", below)
    return figure


def _of(grouping: str, columns: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    return [column for column in columns if column[0] == grouping]


def _square(axes: Axes, row: int, place: float, lost: float, text: str, *, framed: bool) -> None:
    """One square: the more is lost, the deeper its colour."""
    lost = min(max(lost, 0.0), 1.0)
    fill = ink("gptq").light
    axes.add_patch(
        mpl.patches.Rectangle(
            (place + 0.03, row + 0.05), 0.94, 0.9, facecolor=fill, alpha=0.04 + 0.86 * lost, linewidth=0
        )
    )
    if framed:
        axes.add_patch(
            mpl.patches.Rectangle((place + 0.05, row + 0.08), 0.9, 0.84, fill=False, edgecolor=fill, linewidth=0.9)
        )
    axes.text(
        place + 0.5, row + 0.52, text, ha="center", va="center", fontsize=7.5,
        color=PAPER.light if lost >= DEEP else TEXT.light if framed else MUTED.light,
    )  # fmt: skip


def _frame(axes: Axes, places: Sequence[float], names: Sequence[str], rows: Sequence[str]) -> None:
    slanted = len(names) > 5 or max(map(len, names), default=0) > 9
    axes.set_xlim(0, max(places, default=0) + 1)
    axes.set_ylim(len(rows), 0)
    axes.grid(visible=False)
    axes.xaxis.tick_top()
    axes.set_xticks(
        [place + 0.5 for place in places], names, rotation=35 if slanted else 0, ha="left" if slanted else "center"
    )
    axes.set_yticks([row + 0.5 for row in range(len(rows))], rows)
    axes.tick_params(length=0)
    axes.spines["bottom"].set_visible(False)


# --- block by block -------------------------------------------------------------------------------------------------


def blocks_figure(cell: CellRecord, loss: Loss) -> Figure:
    """What one block alone wins back: a bar per block with its interval, and below it the same in each domain."""
    domains = [group.name for group in loss.groups if group.grouping == "domain"][:MAX_DOMAINS]
    rows = 0.24 * len(domains)
    figure = Figure(figsize=(5.2, 2.7 + rows), layout="constrained")
    if not domains:
        _bars(figure.add_subplot(), cell, loss)
        return figure
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[2.2, max(rows, 0.4)])
    _bars(upper, cell, loss)
    for row, name in enumerate(domains):
        for share in loss.blocks:
            won = share.domains.get(name)
            if won is not None:
                _square(lower, row, share.block - 0.5, won.value, _share_text(won.value), framed=(won.low or 0.0) > 0)
    lower.set_ylim(len(domains), 0)
    lower.set_yticks([row + 0.5 for row in range(len(domains))], [name.replace("_", " ") for name in domains])
    lower.grid(visible=False)
    lower.tick_params(length=0, labelbottom=False)
    lower.spines["bottom"].set_visible(False)
    return figure


def _bars(axes: Axes, cell: CellRecord, loss: Loss) -> None:
    colour = ink(cell.method).light
    shown = [share for share in loss.blocks if share.won_back is not None]
    values = [_won(share) for share in shown]
    spreads = [
        [max(value - low, 0.0) for value, low, _ in values],
        [max(high - value, 0.0) for value, _, high in values],
    ]
    axes.bar([share.block for share in shown], [value for value, _, _ in values], width=0.62, color=colour, zorder=2)
    axes.errorbar(
        [share.block for share in shown], [value for value, _, _ in values], yerr=spreads, fmt="none",
        ecolor=TEXT.light, elinewidth=1.0, zorder=3,
    )  # fmt: skip
    axes.axhline(0.0, color=MUTED.light, linewidth=0.8, zorder=1)
    axes.set_xticks([share.block for share in loss.blocks], [str(share.block) for share in loss.blocks])
    axes.set_xlim(-0.5, len(loss.blocks) - 0.5)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(labelbottom=True)
    axes.set_xlabel("decoder block, from 0 at the input")
    title(axes, f"{cell.label}, {spoken(loss.task)}", "share of the loss that one block at dense weights wins back")


def _won(share: BlockShare) -> tuple[float, float, float]:
    assert share.won_back is not None
    value = share.won_back.value
    low, high = share.won_back.low, share.won_back.high
    return value, value if low is None else low, value if high is None else high


def _share_text(value: float) -> str:
    return f"{100 * value:.0f}%".replace("-", "−")
