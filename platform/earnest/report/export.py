"""All cells as flat data, Parquet and CSV: one row per cell, task and metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from earnest.records import CellRecord, Estimate, Scores

SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("cell", "sweep", "model", "method", "curve", "family", "nominal")],
        ("nominal_sparsity", pa.float64()),
        ("nominal_bits", pa.int64()),
        ("seed", pa.int64()),
        ("dtype", pa.string()),
        ("saved", pa.float64()),
        ("saved_of_touched", pa.float64()),
        ("sparsity", pa.float64()),
        ("bits_per_weight", pa.float64()),
        ("stored_bytes", pa.int64()),
        ("dense_bytes", pa.int64()),
        ("file_bytes", pa.int64()),
        ("dense_file_bytes", pa.int64()),
        ("task", pa.string()),
        ("group", pa.string()),
        ("metric", pa.string()),
        ("is_headline", pa.bool_()),
        ("higher_is_better", pa.bool_()),
        *[(name, pa.float64()) for name in ("value", "stderr", "low", "high")],
        ("n", pa.int64()),
        *[(name, pa.int64()) for name in ("asked", "scored", "truncated", "failed")],
        ("relative", pa.float64()),
        ("within_margin", pa.bool_()),
        ("verdict", pa.string()),
        ("units", pa.int64()),
        ("effective_units", pa.float64()),
        ("needed", pa.int64()),
        *[(name, pa.float64()) for name in ("change", "change_low", "change_high", "p", "noise")],
        ("within_noise", pa.bool_()),
        *[(name, pa.float64()) for name in ("retention", "flips", "kl")],
        *[(name, pa.string()) for name in ("pair", "alpha", "expert", "antiexpert", "base", "target")],
        *[
            (f"{name}{end}", pa.float64())
            for name in ("difference", "gap_closed", "won_back")
            for end in ("", "_low", "_high")
        ],
        *[(name, pa.float64()) for name in ("tokens_changed", "token_shift")],
        ("seconds", pa.float64()),
        ("failure", pa.string()),
        ("state", pa.string()),
    ]
)


def export_cells(cells: Sequence[CellRecord], folder: Path) -> None:
    """Write cells.parquet and cells.csv.

    A task that failed, or did not run yet, or is running, has a row with its `state` and no value.
    """
    table = pa.Table.from_pylist([row for cell in cells for row in cell_rows(cell)], schema=SCHEMA)
    pa.parquet.write_table(table, folder / "cells.parquet", compression="zstd")
    pa.csv.write_csv(table, folder / "cells.csv")


def cell_rows(cell: CellRecord) -> Iterator[dict[str, Any]]:
    """One row per metric, one per group of the headline and per kind of token, and one per failure; one at least."""
    about = _about(cell)
    rows = [
        {**about, "state": "done", **row}
        for task, scores in cell.scores.items()
        for row in _task_rows(cell, task, scores)
    ]
    rows += [{**about, "task": step, "state": "failed", "failure": reason} for step, reason in cell.failures.items()]
    rows += [{**about, "task": step, "state": state} for step, state in cell.waiting.items()]
    yield from rows or [about]


def _about(cell: CellRecord) -> dict[str, Any]:
    named = ("sweep", "model", "method", "curve", "family", "nominal")
    asked = ("nominal_sparsity", "nominal_bits", "seed", "dtype")
    sizes = ("sparsity", "bits_per_weight", "stored_bytes", "dense_bytes", "file_bytes", "dense_file_bytes")
    known = cell.size is not None or cell.family == "dense"
    return {
        "cell": cell.key,
        **{name: getattr(cell, name) for name in (*named, *asked)},
        "saved": cell.saved if known else None,
        "saved_of_touched": cell.saved_of_touched if known else None,
        **_steering(cell),
        **{name: getattr(cell.size, name, None) for name in sizes},
    }


def _task_rows(cell: CellRecord, task: str, scores: Scores) -> Iterator[dict[str, Any]]:
    counts = {name: getattr(scores, name) for name in ("asked", "scored", "truncated", "failed")}
    common = {"task": task, "higher_is_better": scores.higher_is_better}
    for metric, estimate in scores.metrics.items():
        headline = metric == scores.headline
        against = {**_against_dense(cell, task), **_gained(cell, task), **_shifted(scores)}
        more = {**counts, **against, "seconds": cell.seconds.get(task)} if headline else {}
        yield {**common, "metric": metric, "is_headline": headline, **_spread(estimate), **more}
    for grouping, groups in scores.groups.items():
        for group, estimate in groups.items():
            yield {
                **common,
                "metric": scores.headline,
                "is_headline": False,
                "group": f"{grouping}: {group}",
                **_spread(estimate),
            }
    for metric, groupings in scores.breakdowns.items():
        for grouping, kinds in groupings.items():
            for kind, part in kinds.items():
                named = {"metric": metric, "is_headline": False, "group": f"{grouping}: {kind}"}
                yield {**common, **named, **_spread(part.mean)}


def _spread(estimate: Estimate) -> dict[str, Any]:
    return {name: getattr(estimate, name) for name in ("value", "stderr", "low", "high", "n")}


def _against_dense(cell: CellRecord, task: str) -> dict[str, Any]:
    comparison = cell.comparisons.get(task)
    if comparison is None:
        return {}
    estimates = {name: getattr(comparison, name) for name in ("retention", "flips", "kl")}
    values = {name: None if estimate is None else estimate.value for name, estimate in estimates.items()}
    change = comparison.difference
    ends = {"": "value", "_low": "low", "_high": "high"}
    values |= {f"change{end}": getattr(change, name) for end, name in ends.items()} if change else {}
    names = ("relative", "within_margin", "verdict", "units", "needed", "p", "noise", "within_noise")
    values["effective_units"] = comparison.effective
    return {**values, **{name: getattr(comparison, name) for name in names}}


def _steering(cell: CellRecord) -> dict[str, str | None]:
    names = ("pair", "alpha", "expert", "antiexpert", "base", "target")
    return {name: _text(getattr(cell.steering, name, None)) for name in names}


def _text(value: object) -> str | None:
    """An alpha as "0.5", a name as it is."""
    return None if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _gained(cell: CellRecord, task: str) -> dict[str, float | None]:
    gain, found = cell.gains.get(task), dict[str, float | None]()
    for name in ("difference", "gap_closed", "won_back"):
        estimate: Estimate | None = getattr(gain, name, None)
        if estimate is not None:
            found |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return found


def _shifted(scores: Scores) -> dict[str, float]:
    shift = scores.token_shift
    return {} if shift is None else {"tokens_changed": shift.changed.value, "token_shift": shift.shift.value}
