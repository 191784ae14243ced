"""A cell's samples of one task as any of its metrics: the headline, or another that the samples hold."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from earnest.compare.cells import read_stored
from earnest.plan import EVALUATE, Cell, Plan
from earnest.samples import Samples, floats
from earnest.specs import UserError
from earnest.store import Store

# Metrics that are a share of counts over samples, and not the mean of a column.
SHARES = {"fluent": ("well_formed", "statements"), "fitting": ("fitting", "statements")}


def stored_measure(plan: Plan, store: Store, cell: Cell, task: str, metric: str | None = None) -> Samples:
    """A finished cell's samples of a task, scored by `metric` (by default the headline).

    Of another metric than the headline more is taken to be better.

    Raises:
        UserError: the cell has no such task or has not finished it, its samples lack the metric, or it stopped once it
            was decided against dense: then no other test holds.
    """
    where = f"{plan.sweep}: {cell.name}: {task}"
    if task not in cell.evaluate:
        raise UserError(f"{where}: no such task in this sweep; it has {', '.join(cell.evaluate)}")
    digest = cell.evaluate[task]
    if not store.has(EVALUATE, digest):
        raise UserError(f"{where}: not finished in {store.root}; run the sweep into this store first")
    samples, content = read_stored(plan, store, cell, task, digest)
    if samples.stopped:
        raise UserError(f"{where}: {samples.stopped}; ask all of its questions: run the sweep without [sequential]")
    if metric in (None, samples.headline):
        return samples
    above, below = _sums(pq.read_table(io.BytesIO(content)), str(metric), where)
    return replace(samples, headline=str(metric), higher_is_better=True, above=above, below=below, scores=None)


def _sums(table: pa.Table, metric: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """What each sample adds above and below the line of a metric [samples]."""
    names = SHARES.get(metric, (metric,))
    missing = [name for name in names if name not in table.schema.names]
    if missing:
        raise UserError(f"{where}: its samples hold no {missing[0]}; they hold {', '.join(table.schema.names)}")
    above, *below = (floats(table, where, name) for name in names)
    return above, below[0] if below else np.ones_like(above)
