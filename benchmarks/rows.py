"""What every benchmark prints and writes: rows of work, ours, peer, ratio, unit, n and spread."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured piece of work; `ratio` above 1 means that ours is faster, None without a peer.

    It is peer ÷ ours where the unit is of time, and ours ÷ peer where it is a rate (".../s"). Where both were measured
    as often, it is the median over repetitions: of works that take turns, a machine slow for a while slows both.

    `allowed` is what the models' own steps alone would take, or the rate that they would give, and `reached` the median
    share of it that ours has. `spread` is (slowest − fastest) ÷ median of ours, over `n` repetitions.
    """

    work: str
    ours: float
    peer: float | None
    ratio: float | None
    unit: str
    n: int
    spread: float
    allowed: float | None = None
    reached: float | None = None


def seconds(work: Callable[[], object], repeat: int) -> list[float]:
    """Wall seconds of each of `repeat` runs, after one that is not counted."""
    work()
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return taken


def row(
    work: str,
    ours: Sequence[float],
    peer: Sequence[float] | None = None,
    unit: str = "s",
    allowed: Sequence[float] | None = None,
) -> Row:
    """A row from repeated measurements: medians, the median ratio, and the spread of ours."""
    mine = statistics.median(ours)
    theirs = None if peer is None else statistics.median(peer)
    ratio = None if peer is None else _faster(ours, peer, unit)
    spread = (max(ours) - min(ours)) / mine if mine else 0.0
    reached = None if allowed is None else _faster(ours, allowed, unit)
    return Row(
        work,
        mine,
        theirs,
        ratio,
        unit,
        len(ours),
        spread,
        None if allowed is None else statistics.median(allowed),
        reached,
    )


def _faster(ours: Sequence[float], other: Sequence[float], unit: str) -> float:
    return _ratio(ours, other) if unit.endswith("/s") else _ratio(other, ours)


def _ratio(upper: Sequence[float], lower: Sequence[float]) -> float:
    if len(upper) != len(lower):
        return statistics.median(upper) / statistics.median(lower)
    return statistics.median(above / below for above, below in zip(upper, lower, strict=True))


def report(rows: Sequence[Row], title: str, peer: str, file: Path | None) -> None:
    """Print the table and, if asked, write the rows as JSON."""
    bounded = any(one.allowed is not None for one in rows)
    columns = ["work", "ours", peer, "ratio", "unit", "n", "spread", *(["allowed", "reached"] if bounded else [])]
    table = Table(*columns, title=title, title_justify="left", box=None)
    for one in rows:
        shown = "" if one.peer is None else f"{one.peer:.4f}"
        ratio = "" if one.ratio is None else f"{one.ratio:.2f}"
        bound = [] if one.allowed is None or one.reached is None else [f"{one.allowed:.4f}", f"{one.reached:.2f}"]
        table.add_row(one.work, f"{one.ours:.4f}", shown, ratio, one.unit, str(one.n), f"{one.spread:.0%}", *bound)
    Console(width=110).print(table)
    if file is not None:
        file.write_text(json.dumps([asdict(one) for one in rows], indent=1) + "\n", encoding="utf-8")


def parser(description: str) -> argparse.ArgumentParser:
    """The options that all benchmarks have."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--repeat", type=int, default=3, help="counted runs of each piece of work")
    return parser
