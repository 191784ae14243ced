"""What MLflow is told, as plain data: an entry per cell and an entry per curve.

Pure functions from cell records. An entry's content digest names all that it says, so that saying it again is
recognised; when and how it is sent is the outbox's and the tracker's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from earnest.palette import ink
from earnest.records import CellRecord, Comparison, Estimate, Scores, digest
from earnest.store import sha256_of

CELL_TAG, CURVE_TAG, ENTRY_TAG, CONTENT_TAG = "earnest.cell", "earnest.curve", "earnest.entry", "earnest.content"
LOWER_TAG, FAILURE_PREFIX = "earnest.lower_is_better", "earnest.failure."
MAX_GROUPS, FLUENT = 8, "fluent"
# A dense model as every size counts it: its weights at two bytes each.
_DENSE_SIZE = {
    "compression/saved": 0.0,
    "compression/saved_of_touched": 0.0,
    "compression/ratio": 1.0,
    "compression/bits_per_weight": 16.0,
}


@dataclass(frozen=True)
class Point:
    """One metric at one step."""

    key: str
    value: float
    step: int


@dataclass(frozen=True)
class Artifact:
    """A file to keep with a run, as `name` (a relative path), and the sha256 it had when it was noted."""

    path: str
    name: str
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """A dataset that a run looked at, and what for: a task's name, or "calibration"."""

    name: str
    digest: str
    context: str


@dataclass(frozen=True)
class Entry:
    """All that one MLflow run holds. `name` is unique within an experiment and finds the run again."""

    name: str
    run_name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: tuple[Point, ...]
    datasets: tuple[Dataset, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    failed: bool = False
    seconds: float = 0.0

    @property
    def content(self) -> str:
        """The digest of what is said; where an artifact lies does not matter."""
        said = asdict(self) | {"artifacts": sorted((a.name, a.sha256) for a in self.artifacts)}
        return digest(said | {"points": [[p.key, repr(p.value), p.step] for p in self.points]})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Entry:
        """The entry that `dataclasses.asdict` and JSON made into `fields`."""
        return cls(
            **{
                **fields,
                "points": tuple(Point(**point) for point in fields["points"]),
                "datasets": tuple(Dataset(**dataset) for dataset in fields["datasets"]),
                "artifacts": tuple(Artifact(**artifact) for artifact in fields["artifacts"]),
            }
        )


def step_of(saved: float) -> int:
    """The step at which a cell's metrics stand: whole percents of bytes saved.

    >>> step_of(0.4375)
    44
    """
    return round(100 * saved)


# --- a cell ---------------------------------------------------------------------------------------------------------


def cell_entry(cell: CellRecord, base: str, files: Sequence[tuple[Path, str]] = ()) -> Entry:
    """The run of one cell.

    Args:
        cell: the cell.
        base: the model that the sweep compresses; any other dense model is a method of its own.
        files: (path, folder among the artifacts); files that are not there are left out.
    """
    step = step_of(cell.saved)
    metrics = {
        **_score_metrics(cell), **_size_metrics(cell), **_delta_metrics(cell), **_gain_metrics(cell),
        **_speed_metrics(cell),
    }  # fmt: skip
    return Entry(
        name=f"cell-{cell.key}",
        run_name=f"{cell.model} {cell.label}" + (f" seed {cell.seed}" if cell.seed else ""),
        tags=_cell_tags(cell, base),
        params=_params(cell),
        points=tuple(Point(key, value, step) for key, value in sorted(metrics.items()) if math.isfinite(value)),
        datasets=tuple(_datasets(cell)),
        artifacts=tuple(
            Artifact(str(p.absolute()), f"{folder}/{p.name}", sha256_of(p)) for p, folder in files if p.is_file()
        ),
        failed=bool(cell.failures),
        seconds=sum(cell.seconds.values()),
    )


def base_model(cells: Sequence[CellRecord]) -> str:
    """The model that a sweep compresses; the first one where it compresses none."""
    models = [cell.model for cell in cells if cell.family != "dense"] + [cell.model for cell in cells]
    return models[0] if models else ""


def _cell_tags(cell: CellRecord, base: str) -> dict[str, str]:
    steps = {f"earnest.step.{name}": step for name, step in cell.steps.items()}
    failures = {f"{FAILURE_PREFIX}{name}": reason[:500] for name, reason in cell.failures.items()}
    verdicts = {f"verdict.{task}": found.verdict for task, found in cell.comparisons.items() if found.verdict}
    return {
        CELL_TAG: cell.key,
        # Dense models that shared a method would be averaged by MLflow's "Group by: method".
        "method": f"dense {cell.model}{cell.steering_label}"
        if cell.family == "dense" and cell.model != base
        else cell.curve,
        "family": cell.family,
        "earnest.sweep": cell.sweep,
        "earnest.model_digest": cell.model_digest,
        "mlflow.runColor": ink(cell.method).light,
        **steps,
        **failures,
        **verdicts,
    }


def _params(cell: CellRecord) -> dict[str, str]:
    spec = dict(cell.method_spec)
    calibration = spec.pop("calibration", None) or {}
    spec.pop("pattern", None)
    named = {
        "model": cell.model,
        "method": cell.method,
        "nominal": cell.nominal,
        "seed": cell.seed,
        "dtype": cell.dtype or None,
    }
    asked = {"sparsity": cell.nominal_sparsity, "bits": cell.nominal_bits}
    looked = {f"calibration.{key}": value for key, value in calibration.items()}
    everything = {**spec, **looked, **named, **asked, **_steering_params(cell)}
    return {key: str(value) for key, value in sorted(everything.items()) if value is not None}


def _steering_params(cell: CellRecord) -> dict[str, str | None]:
    names = ("pair", "alpha", "expert", "antiexpert", "target", "expert_digest", "antiexpert_digest")
    values = {name: getattr(cell.steering, name, None) for name in names}
    return {name: f"{value:g}" if isinstance(value, float) else value for name, value in values.items()}


def _datasets(cell: CellRecord) -> Iterable[Dataset]:
    for context, where in sorted(cell.datasets.items()):
        name, _, content = where.rpartition("@")
        yield Dataset(name, content, context)


def _score_metrics(cell: CellRecord) -> dict[str, float]:
    found: dict[str, float] = {}
    for task, scores in cell.scores.items():
        found[f"score/{task}"] = scores.main.value
        found |= {f"score/{task}/{name}": estimate.value for name, estimate in scores.metrics.items()}
        found |= _spread(f"score/{task}", scores.main) | _counts(f"score/{task}", scores)
        strata = scores.groups.get("stratum", {})
        if len(strata) <= MAX_GROUPS:
            found |= {f"score/{task}/stratum/{name}": estimate.value for name, estimate in strata.items()}
    return found


def _spread(prefix: str, estimate: Estimate) -> dict[str, float]:
    spread = {"stderr": estimate.stderr, "low": estimate.low, "high": estimate.high}
    return {f"{prefix}/{name}": value for name, value in spread.items() if value is not None}


def _counts(prefix: str, scores: Scores) -> dict[str, float]:
    counts = {"asked": scores.asked, "scored": scores.scored, "truncated": scores.truncated, "failed": scores.failed}
    return {f"{prefix}/{name}": float(count) for name, count in counts.items()}


def _size_metrics(cell: CellRecord) -> dict[str, float]:
    if cell.size is None:
        return _DENSE_SIZE if cell.family == "dense" else {}
    size = cell.size
    return {
        "size/dense_bytes": float(size.dense_bytes),
        "size/stored_bytes": float(size.stored_bytes),
        "size/file_bytes": float(size.file_bytes),
        "size/dense_file_bytes": float(size.dense_file_bytes),
        "compression/sparsity": size.sparsity,
        "compression/bits_per_weight": size.bits_per_weight,
        "compression/ratio": size.compression_ratio,
        "compression/saved": size.saved,
        "compression/saved_of_touched": size.saved_of_touched,
    }


def _delta_metrics(cell: CellRecord) -> dict[str, float]:
    found: dict[str, float] = {}
    for task, comparison in cell.comparisons.items():
        found |= {f"delta/{task}/{name}": value for name, value in _deltas(comparison).items()}
    return found


def _deltas(comparison: Comparison) -> dict[str, float]:
    """A verdict is 1 where no more than 5 % worse is shown, −1 where more is, 0 where neither."""
    estimates = {"retention": comparison.retention, "flips": comparison.flips, "kl": comparison.kl}
    found = {name: estimate.value for name, estimate in estimates.items() if estimate is not None}
    if comparison.relative is not None and comparison.within_margin is not None:
        found |= {"relative": comparison.relative, "within_margin": float(comparison.within_margin)}
    if comparison.verdict is not None:
        found |= {"verdict": float(comparison.no_worse) - float(comparison.falls), "units": float(comparison.units)}
    if comparison.difference is not None:
        found |= {"change": comparison.difference.value, **_spread("change", comparison.difference)}
    others = {"p": comparison.p, "noise": comparison.noise, "needed": comparison.needed}
    others["effective_units"] = comparison.effective
    found |= {name: float(value) for name, value in others.items() if value is not None}
    return found


def _gain_metrics(cell: CellRecord) -> dict[str, float]:
    """What a pair changed, by task: the difference, the gap closed, what is won back, and the tokens changed."""
    found: dict[str, float] = {}
    for task, gain in cell.gains.items():
        estimates = {"difference": gain.difference, "gap_closed": gain.gap_closed, "won_back": gain.won_back}
        for name, estimate in estimates.items():
            if estimate is not None:
                found |= {f"{name}/{task}": estimate.value, **_spread(f"{name}/{task}", estimate)}
    shifts = {task: shift for task, scores in cell.scores.items() if (shift := scores.token_shift)}
    found |= {f"tokens_changed/{task}": shift.changed.value for task, shift in shifts.items()}
    return found | {f"token_shift/{task}": shift.shift.value for task, shift in shifts.items()}


def _speed_metrics(cell: CellRecord) -> dict[str, float]:
    return {f"speed/{step}": seconds for step, seconds in cell.seconds.items()}


# --- a curve --------------------------------------------------------------------------------------------------------


def curve_entries(cells: Sequence[CellRecord]) -> list[Entry]:
    """One run per curve: every task's headline at every ratio, the dense model's first; seeds are averaged.

    Steered cells have curves of their own, which begin at the dense model under the same pair and alpha.

    The true ratio stands beside each point as `curve/saved`, the axis that the saved charts use. The same points
    stand under `score/…` too, so that MLflow's own "Group by: method" over all runs starts every line at dense.
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
        )
        for curve, steering in sorted(curves.items())
    ]


def _curve_entry(curve: str, cells: Sequence[CellRecord], compressed: Sequence[CellRecord]) -> Entry:
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
    return {
        **{task: fmean(scores.main.value for scores in found) for task, found in every.items()},
        **{f"{task}/{FLUENT}": fmean(values) for task, values in fluent.items() if values},
    }
