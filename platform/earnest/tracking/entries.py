"""What MLflow is told, as plain data: an entry per run, and how one is made of a cell.

Pure functions from cell records. An entry's key names its run, its content digest all that it says, so that saying it
again is recognised; when and how it is sent is the outbox's and the tracker's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from earnest.palette import ink
from earnest.records import CellRecord, Comparison, Estimate, Scores, digest
from earnest.store import sha256_of
from earnest.tracking.description import cell_note

CELL_TAG, FAILURE_PREFIX = "earnest.cell", "earnest.failure."
MAX_GROUPS = 8
# What may still change while a sweep runs: claims are judged as one family.
_JUDGED = ("verdict", "effective", "needed", "difference", "p", "noise")
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
    """A file to keep with a run, as `name` (a relative path), and the sha256 it had when it was noted.

    `path` is one of this machine's or an fsspec URL.
    """

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
class Checkpoint:
    """A compressed checkpoint as MLflow lists it among the models: its step's digest, its name, and where it lies.

    `registered` is the registered model that it becomes a version of, and `aliases` what that version is called.
    """

    step: str
    name: str
    where: str
    registered: str | None = None
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """All that one MLflow run holds.

    `name` is unique within a sweep on a store, and all three together find the run again. An `interim` entry says what
    is known while the sweep still runs. `origin` says where the run came from when it was made; it names nothing.
    """

    name: str
    run_name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    points: tuple[Point, ...]
    datasets: tuple[Dataset, ...] = ()
    artifacts: tuple[Artifact, ...] = ()
    failed: bool = False
    seconds: float = 0.0
    store: str = ""
    sweep: str = ""
    note: str = ""
    checkpoint: Checkpoint | None = None
    interim: bool = False
    origin: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """What names the run, whatever experiment it stands in."""
        return digest([self.store, self.sweep, self.name])

    @property
    def content(self) -> str:
        """The digest of what is said; where an artifact lies does not matter."""
        said = asdict(self) | {"artifacts": sorted((a.name, a.sha256) for a in self.artifacts)}
        said = {key: value for key, value in said.items() if key not in ("origin", "interim")}
        return digest(said | {"points": [[p.key, repr(p.value), p.step] for p in self.points]})

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Entry:
        """The entry that `dataclasses.asdict` and JSON made into `fields`."""
        checkpoint = fields.get("checkpoint")
        return cls(
            **{
                **fields,
                "points": tuple(Point(**point) for point in fields["points"]),
                "datasets": tuple(Dataset(**dataset) for dataset in fields["datasets"]),
                "artifacts": tuple(Artifact(**artifact) for artifact in fields["artifacts"]),
                "checkpoint": checkpoint and Checkpoint(**{**checkpoint, "aliases": tuple(checkpoint["aliases"])}),
            }
        )


def step_of(saved: float) -> int:
    """The step at which a cell's metrics stand: whole percents of bytes saved.

    >>> step_of(0.4375)
    44
    """
    return round(100 * saved)


# --- a cell ---------------------------------------------------------------------------------------------------------


def cell_entry(
    cell: CellRecord,
    base: str,
    files: Sequence[Artifact | tuple[Path, str]] = (),
    *,
    store: str = "",
    checkpoint: Checkpoint | None = None,
    interim: bool = False,
) -> Entry:
    """The run of one cell.

    Args:
        cell: the cell.
        base: the model that the sweep compresses; any other dense model is a method of its own.
        files: artifacts, or (path, folder among the artifacts); files that are not there are left out.
        store: the identity of the store that the cell's steps lie in.
        checkpoint: the checkpoint that it evaluates, where it is one.
        interim: the sweep still runs: nothing is said that its other cells may change.
    """
    cell = while_running(cell) if interim else cell
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
        artifacts=tuple(_artifacts(files)),
        failed=bool(cell.failures),
        seconds=sum(cell.seconds.values()),
        store=store,
        sweep=cell.sweep,
        note=cell_note(cell),
        checkpoint=checkpoint,
        interim=interim,
    )


def while_running(cell: CellRecord) -> CellRecord:
    """The cell without what the sweep's other cells may still change: verdicts, their figures, and gains."""
    found = {
        task: comparison.model_copy(
            update={**dict.fromkeys(_JUDGED), "samples": 0, "units": 0}
            | ({"relative": None, "within_margin": None} if comparison.stopped else {})
        )
        for task, comparison in cell.comparisons.items()
    }
    return cell.model_copy(update={"comparisons": found, "gains": {}})


def _artifacts(files: Iterable[Artifact | tuple[Path, str]]) -> Iterable[Artifact]:
    for file in files:
        if isinstance(file, Artifact):
            yield file
        elif file[0].is_file():
            path, folder = file
            yield Artifact(str(path.absolute()), f"{folder}/{path.name}", sha256_of(path))


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
        if scores.means_something:
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
