"""An entry per curve: the line of one method over the share of bytes saved, for the saved charts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

from earnest.palette import ink
from earnest.records import CellRecord, digest
from earnest.tracking.entries import Entry, Point, step_of

CURVE_TAG, LOWER_TAG, FLUENT = "earnest.curve", "earnest.lower_is_better", "fluent"


def curve_entries(cells: Sequence[CellRecord], store: str = "") -> list[Entry]:
    """One run per curve: every task's headline at every ratio, the dense model's first; seeds are averaged.

    Where a model has collapsed, a share of the little that it still says well is no point of a curve. Steered cells
    have curves of their own, which begin at the dense model under the same pair and alpha.

    The true ratio stands beside each point as `curve/saved`, the axis that the saved charts use. The same points
    stand under `score/…` too, so that MLflow's own charts of a score start every method's line at dense.
    """
    compressed = [cell for cell in cells if cell.family != "dense" and cell.size is not None and cell.scores]
    if not compressed:
        return []
    model = compressed[0].model
    dense = [cell for cell in cells if cell.family == "dense" and cell.model == model and cell.scores]
    curves = {cell.curve: cell.steering_label for cell in compressed}
    return [
        _curve_entry(
            curve,
            [c for c in dense if c.steering_label == steering][:1] + [c for c in compressed if c.curve == curve],
            compressed,
            store,
        )
        for curve, steering in sorted(curves.items())
    ]


def _curve_entry(curve: str, cells: Sequence[CellRecord], compressed: Sequence[CellRecord], store: str) -> Entry:
    first = cells[-1]
    dense_bytes = max(cell.size.dense_file_bytes for cell in compressed if cell.size)
    lower = {task for cell in cells for task, scores in cell.scores.items() if not scores.higher_is_better}
    return Entry(
        name=f"curve-{digest([first.sweep, first.model_digest, curve])}",
        run_name=curve,
        tags={
            CURVE_TAG: "1",
            "method": curve,
            "family": first.family,
            LOWER_TAG: " ".join(sorted(lower)),
            "earnest.sweep": first.sweep,
            "mlflow.runColor": ink(first.method).light,
        },
        params={"model": first.model, "method": first.method, **({"dtype": first.dtype} if first.dtype else {})},
        points=tuple(_curve_points(cells, dense_bytes)),
        store=store,
        sweep=first.sweep,
    )


def _curve_points(cells: Sequence[CellRecord], dense_bytes: int) -> Iterable[Point]:
    """Points in order of bytes saved, each at its percent, or at the next free one: no metric twice at a step."""
    ratios: dict[str, list[CellRecord]] = {}
    for cell in cells:
        asked = {key: value for key, value in cell.method_spec.items() if key not in ("seed", "calibration")}
        ratios.setdefault(digest(asked), []).append(cell)
    step = -math.inf
    for same in sorted(ratios.values(), key=lambda group: fmean(cell.saved for cell in group)):
        saved = fmean(cell.saved for cell in same)
        step = max(step_of(saved), step + 1)
        means = _means(same)
        touched = fmean(cell.saved_of_touched for cell in same)
        axes = {"saved": saved, "saved_of_touched": touched, "size_mib": (1 - saved) * dense_bytes / 2**20}
        named = {f"curve/{key}": value for key, value in {**means, **axes}.items()}
        named |= {f"score/{task}": value for task, value in means.items()}
        yield from (Point(key, value, int(step)) for key, value in sorted(named.items()) if math.isfinite(value))


def _means(same: Sequence[CellRecord]) -> dict[str, float]:
    """Per task the headline, the mean of the seeds; and its share of fluent statements, where it has one."""
    tasks = {task for cell in same for task in cell.scores}
    every = {task: [cell.scores[task] for cell in same if task in cell.scores] for task in tasks}
    fluent = {
        task: [s.metrics["fluent"].value for s in found if "fluent" in s.metrics] for task, found in every.items()
    }
    meant = {task: found for task, found in every.items() if all(scores.means_something for scores in found)}
    return {
        **{task: fmean(scores.main.value for scores in found) for task, found in meant.items()},
        **{f"{task}/{FLUENT}": fmean(values) for task, values in fluent.items() if values},
    }
