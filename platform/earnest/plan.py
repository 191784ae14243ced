"""A sweep -> the deduplicated steps it needs, each named by the digest of all that decides its result.

A plan is pure: the weights' digest and the data's digests come in, steps come out. Nothing here loads a model or
knows of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from earnest.records import digest
from earnest.specs import AnyTask, Calibration, Dense, Method, Perplexity, Random, Sweep

Kind = Literal["compress", "evaluate"]
COMPRESS: Kind = "compress"
EVALUATE: Kind = "evaluate"


@dataclass(frozen=True)
class Step:
    """One unit of work.

    `spec` is JSON and holds all that decides the result; `digest` names it. `needs` are digests of steps that must
    be finished first: the checkpoint to evaluate, the dense reference to compare with. `location` tells a worker
    where to find what the digest names by content (paths of models and data), and is not part of the digest.
    """

    kind: Kind
    digest: str
    spec: dict[str, Any]
    needs: tuple[str, ...] = ()
    checkpoint: str | None = None
    reference: str | None = None
    location: dict[str, str] = field(default_factory=dict)
    label: str = ""
    cost: float = 1.0


@dataclass(frozen=True)
class Cell:
    """One row of the table: a model compressed one way with one seed, and its steps by task label."""

    key: str
    model: str
    model_digest: str
    method: Method
    seed: int
    compress: str | None
    evaluate: Mapping[str, str]


@dataclass(frozen=True)
class Plan:
    """The steps of a sweep by digest, in an order that respects their needs, and the cells that they fill."""

    sweep: str
    steps: Mapping[str, Step]
    cells: tuple[Cell, ...]

    def missing(self, done: Iterable[str]) -> list[Step]:
        """The steps whose output is not there yet."""
        finished = set(done)
        return [step for step in self.steps.values() if step.digest not in finished]


@dataclass(frozen=True)
class Inputs:
    """What was found out about a sweep's models and data before planning.

    `models`: reference -> (path, digest of the weights); `data`: data's name -> (path or id, digest of its content),
    keyed by `data_key`; `versions`: the libraries whose version decides results.
    """

    models: Mapping[str, tuple[str, str]]
    data: Mapping[str, tuple[str, str]]
    versions: Mapping[str, str]


def data_key(spec: Calibration | AnyTask) -> str:
    """What names a piece of data within a sweep: where it lies, its split and, where it matters, its column."""
    return f"{spec.data}|{spec.split}"


def make_plan(sweep: Sweep, inputs: Inputs) -> Plan:
    """Lay out a sweep: dense first, then each method and seed, then dense models beside it (`references`).

    Compressions that do not depend on the seed are planned once. The dense model is always there, because every
    comparison needs it.
    """
    steps: dict[str, Step] = {}
    cells = [_cell(sweep, inputs, steps, sweep.model, Dense(), 0)]
    for method in sweep.compress:
        if not isinstance(method, Dense):
            seeds = sweep.seeds if method.needs_calibration or isinstance(method, Random) else sweep.seeds[:1]
            cells += [_cell(sweep, inputs, steps, sweep.model, method, seed) for seed in seeds]
    cells += [_cell(sweep, inputs, steps, reference, Dense(), 0) for reference in sweep.references]
    unique = {cell.key: cell for cell in cells}
    return Plan(sweep=sweep.name, steps=steps, cells=tuple(unique.values()))


def _cell(sweep: Sweep, inputs: Inputs, steps: dict[str, Step], model: str, method: Method, seed: int) -> Cell:
    compress = None
    if not isinstance(method, Dense):
        step = _compress_step(sweep, inputs, model, method, seed)
        compress = steps.setdefault(step.digest, step).digest
    evaluate = {}
    for task in sweep.tasks:
        step = _evaluate_step(sweep, inputs, model, compress, task)
        if step.reference is not None and step.reference not in steps:
            dense = _evaluate_step(sweep, inputs, sweep.model, None, task)
            steps[dense.digest] = dense
        evaluate[task.label] = steps.setdefault(step.digest, step).digest
    key = digest(
        {
            "model": inputs.models[model][1],
            "method": method_fields(method),
            "seed": seed,
            "dtype": sweep.dtype,
            "calibration": sweep.calibration.model_dump(mode="json") if method.needs_calibration else None,
        }
    )
    return Cell(key, model, inputs.models[model][1], method, seed, compress, evaluate)


def method_fields(method: Method) -> dict[str, Any]:
    """A method's fields and version: what a digest covers of it."""
    return {**method.model_dump(mode="json"), "version": method.version}


def _compress_step(sweep: Sweep, inputs: Inputs, model: str, method: Method, seed: int) -> Step:
    path, model_digest = inputs.models[model]
    location = {"model": path, "model_name": model}
    calibration = None
    if method.needs_calibration:
        calibrate = sweep.calibration.model_copy(update={"seed": sweep.calibration.seed + seed})
        data_path, data_digest = inputs.data[data_key(calibrate)]
        calibration = {**calibrate.model_dump(mode="json", exclude={"data"}), "data_digest": data_digest}
        location["calibration"] = data_path
    if isinstance(method, Random):
        method = method.model_copy(update={"seed": method.seed + seed})
    spec = {
        "kind": COMPRESS,
        "model_digest": model_digest,
        "dtype": sweep.dtype,
        "method": method_fields(method),
        "calibration": calibration,
        "versions": dict(inputs.versions),
    }
    label = f"compress {model} {method.model_dump()['method']} {method.nominal}"
    return Step(COMPRESS, digest(spec), spec, location=location, label=label, cost=_compress_cost(method))


def _evaluate_step(sweep: Sweep, inputs: Inputs, model: str, checkpoint: str | None, task: AnyTask) -> Step:
    path, model_digest = inputs.models[model]
    data_path, data_digest = inputs.data[data_key(task)]
    needs_reference = isinstance(task, Perplexity) and checkpoint is not None and task.kl_bytes > 0
    reference = _evaluate_step(sweep, inputs, model, None, task).digest if needs_reference else None
    spec = {
        "kind": EVALUATE,
        "model_digest": model_digest,
        "dtype": sweep.dtype,
        "checkpoint": checkpoint,
        "reference": reference,
        "task": {**task.model_dump(mode="json", exclude={"data"}), "version": task.version},
        "data_digest": data_digest,
        "versions": dict(inputs.versions),
    }
    return Step(
        EVALUATE,
        digest(spec),
        spec,
        needs=tuple(d for d in (checkpoint, reference) if d is not None),
        checkpoint=checkpoint,
        reference=reference,
        location={"model": path, "model_name": model, "data": data_path},
        label=f"evaluate {task.label}",
        cost=_evaluate_cost(task),
    )


_COMPRESS_COST = {"random": 1.0, "magnitude": 1.0, "rtn": 1.0, "wanda": 3.0, "sparsegpt": 8.0, "gptq": 8.0}
_EVALUATE_COST = {"biography": 6.0, "summarisation": 3.0, "perplexity": 3.0, "mmlu": 8.0}


def _compress_cost(method: Method) -> float:
    """Relative seconds, only used to start long steps first."""
    return _COMPRESS_COST.get(str(method.model_dump()["method"]), 1.0)


def _evaluate_cost(task: AnyTask) -> float:
    return _EVALUATE_COST.get(task.task, 2.0)
