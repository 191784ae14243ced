"""A sweep -> the deduplicated steps it needs, each named by the digest of all that decides its result.

A plan is pure: the weights' digest and the data's digests come in, steps come out. Nothing here loads a model or
knows of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from earnest.records import digest
from earnest.specs import (
    Alpha,
    AnyTask,
    Calibration,
    Dense,
    LMEval,
    Method,
    Perplexity,
    Proxy,
    Random,
    Sweep,
    UserError,
    alpha_text,
)
from earnest.statistics.paired import MATCHING

Kind = Literal["compress", "evaluate"]
COMPRESS: Kind = "compress"
EVALUATE: Kind = "evaluate"
FUSION_VERSION = 1  # changes when an ensemble's logits do
ENGINE_VERSION = 2  # changes when the logits that evaluations see do, if only by their rounding
SEQUENTIAL_VERSION = 1  # changes when a task stops elsewhere
OTHER_BUDGET = 1024  # tokens of a batch where batches are to be others
STEERED_COST = 2.0


@dataclass(frozen=True)
class Member:
    """A model with a part in a pair: its name, where it lies, and the digest of its weights.

    `checkpoint` is the step that compresses it, where it is compressed as its base is.
    """

    name: str
    path: str
    digest: str
    checkpoint: str | None = None

    @property
    def content(self) -> str:
        """What names the weights that are run."""
        return self.checkpoint or self.digest


@dataclass(frozen=True)
class Steering:
    """A pair and how strongly it steers; `name` is the pair's."""

    name: str
    expert: Member
    antiexpert: Member | None
    alpha: Alpha

    def __str__(self) -> str:
        """As in "tuned α 0.5"."""
        return f"{self.name} α {alpha_text(self.alpha)}"

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The steps that compress the pair's models."""
        members = (self.expert, self.antiexpert)
        return tuple(member.checkpoint for member in members if member is not None and member.checkpoint is not None)

    @property
    def fields(self) -> dict[str, Any]:
        """What a digest covers of it: weights and alpha, no names."""
        return {
            "expert": self.expert.content,
            "antiexpert": self.antiexpert.content if self.antiexpert else None,
            "alpha": self.alpha,
            "version": FUSION_VERSION,
        }


@dataclass(frozen=True)
class Step:
    """One unit of work.

    `spec` is JSON and holds all that decides the result; `digest` names it. `needs` are digests of steps that must
    be finished first: the checkpoint to evaluate, the dense reference to compare with. `steering` makes the subject an
    ensemble, `restored` puts decoder blocks of the checkpoint back to dense. `location` tells a worker where to find
    what the digest names by content (paths of models and data), and is not part of the digest.
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
    steering: Steering | None = None
    restored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One row of the table: a model compressed one way with one seed, steered or not, and its steps by task label.

    Of a steered cell, `base` is the key of the same cell without the pair, and `target` that of the directly tuned
    model, where the pair has one. `restored` holds, by task label, one step per decoder block put back to dense,
    `rebatched` the same evaluation in batches of another size.
    """

    key: str
    model: str
    model_digest: str
    method: Method
    seed: int
    compress: str | None
    evaluate: Mapping[str, str]
    steering: Steering | None = None
    base: str | None = None
    target: str | None = None
    restored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rebatched: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What names the cell among others: "nano:large", "wanda 50%"."""
        method = str(self.method.model_dump()["method"])
        return self.model if isinstance(self.method, Dense) else f"{method} {self.method.nominal}"


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
    keyed by `data_key`; `versions`: the libraries whose version decides results; `helpers`: a model that a task needs
    for itself -> the digest of its weights; `blocks`: how many decoder blocks the sweep's model has.
    """

    models: Mapping[str, tuple[str, str]]
    data: Mapping[str, tuple[str, str]]
    versions: Mapping[str, str]
    helpers: Mapping[str, str] = field(default_factory=dict)
    blocks: int = 0


def data_key(spec: Calibration | AnyTask) -> str:
    """What names a piece of data within a sweep: where it lies, its split and, where it matters, its column."""
    whose = [spec.benchmark, *spec.places.values()] if isinstance(spec, LMEval) else []
    return "|".join([spec.data, spec.split, *whose])


def make_plan(sweep: Sweep, inputs: Inputs) -> Plan:
    """Lay out a sweep: dense first, then each method and seed, then dense models beside it (`references` and targets),
    then all that is steered. Where losses are to be localised, further evaluations stand last.

    Compressions that do not depend on the seed are planned once. The dense model is always there, because every
    comparison needs it.

    Raises:
        UserError: a pair is to steer, or a loss to be localised in, a cell that the sweep does not have.
    """
    steps: dict[str, Step] = {}
    cells = [_cell(sweep, inputs, steps, sweep.model, Dense(), 0)]
    for method in sweep.compress:
        if not isinstance(method, Dense):
            seeds = sweep.seeds if method.needs_calibration or isinstance(method, Random) else sweep.seeds[:1]
            cells += [_cell(sweep, inputs, steps, sweep.model, method, seed) for seed in seeds]
    targets = (proxy.target for proxy in sweep.proxy if proxy.target is not None)
    cells += [_cell(sweep, inputs, steps, model, Dense(), 0) for model in (*sweep.references, *targets)]
    unique = {cell.key: cell for cell in cells}
    for proxy in sweep.proxy:
        for cell in _steered_cells(sweep, inputs, steps, proxy, list(unique.values())):
            unique.setdefault(cell.key, cell)
    if sweep.noise.jitter:
        unique[cells[0].key] = replace(cells[0], rebatched=_rebatched_steps(sweep, inputs, steps))
    for entry in sweep.localise:
        for cell in _named(entry.cells, "localise: cells", sweep, [one for one in cells if one.compress]):
            mine = unique[cell.key]
            found = {task: _restored_steps(sweep, inputs, steps, mine, task) for task in entry.tasks}
            unique[cell.key] = replace(mine, restored={**mine.restored, **found})
    return Plan(sweep=sweep.name, steps=steps, cells=tuple(unique.values()))


def _cell(sweep: Sweep, inputs: Inputs, steps: dict[str, Step], model: str, method: Method, seed: int) -> Cell:
    compress = None
    if not isinstance(method, Dense):
        step = _compress_step(sweep, inputs, model, method, seed)
        compress = steps.setdefault(step.digest, step).digest
    evaluate = _evaluate_steps(sweep, inputs, steps, model, compress, None)
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


def _evaluate_steps(
    sweep: Sweep, inputs: Inputs, steps: dict[str, Step], model: str, compress: str | None, steering: Steering | None
) -> dict[str, str]:
    """Plan every task on one subject; task label -> step."""
    found = {}
    for task in sweep.tasks:
        step = _evaluate_step(sweep, inputs, model, compress, task, steering)
        if step.reference is not None and step.reference not in steps:
            dense = _evaluate_step(sweep, inputs, model, None, task, None)
            steps[dense.digest] = dense
        found[task.label] = steps.setdefault(step.digest, step).digest
    return found


def _steered_cells(
    sweep: Sweep, inputs: Inputs, steps: dict[str, Step], proxy: Proxy, cells: Sequence[Cell]
) -> Iterator[Cell]:
    """A cell per base and alpha of one `[[proxy]]` entry; `cells` may be steered ones already, which are no bases."""
    target = next((cell.key for cell in cells if cell.label == proxy.target and cell.steering is None), None)
    for base in _bases(sweep, proxy, [cell for cell in cells if cell.steering is None]):
        expert = _member(sweep, inputs, steps, proxy.expert, base if "expert" in proxy.compressed else None)
        of_anti = base if "antiexpert" in proxy.compressed else None
        anti = _member(sweep, inputs, steps, proxy.antiexpert, of_anti) if proxy.antiexpert else None
        for alpha in proxy.alpha:
            steering = Steering(proxy.name, expert, anti, alpha)
            yield replace(
                base,
                key=digest({"base": base.key, "steering": steering.fields}),
                evaluate=_evaluate_steps(sweep, inputs, steps, base.model, base.compress, steering),
                steering=steering,
                base=base.key,
                target=target,
            )


def _member(sweep: Sweep, inputs: Inputs, steps: dict[str, Step], name: str, alike: Cell | None) -> Member:
    """A model of a pair, compressed as the cell `alike` is where one is given."""
    if alike is None or alike.compress is None:
        return Member(name, *inputs.models[name])
    step = _compress_step(sweep, inputs, name, alike.method, alike.seed)
    return Member(name, *inputs.models[name], steps.setdefault(step.digest, step).digest)


def _bases(sweep: Sweep, proxy: Proxy, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that a pair steers."""
    if proxy.bases == "all":
        parts = {name for one in sweep.proxy for name in (*one.models, one.target)}
        return [cell for cell in cells if cell.label not in parts or cell.label == sweep.model]
    wanted = ("dense",) if proxy.bases == "dense" else proxy.bases
    return _named(wanted, f"proxy {proxy.name}: bases", sweep, cells)


def _named(wanted: Sequence[str], where: str, sweep: Sweep, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are called by one of the wanted names."""
    names = [_names(cell, sweep) for cell in cells]
    for name in wanted:
        if not any(name in mine for mine in names):
            there = ", ".join(dict.fromkeys(cell.label for cell in cells))
            raise UserError(f"{where}: no {name!r} in this sweep; it has {there}")
    return [cell for cell, mine in zip(cells, names, strict=True) if mine & set(wanted)]


def _restored_steps(sweep: Sweep, inputs: Inputs, steps: dict[str, Step], cell: Cell, label: str) -> tuple[str, ...]:
    """One evaluation of a cell per decoder block, that block back at its dense weights."""
    task = next(task for task in sweep.tasks if task.label == label)
    made = [
        _evaluate_step(sweep, inputs, cell.model, cell.compress, task, None, (block,)) for block in range(inputs.blocks)
    ]
    return tuple(steps.setdefault(step.digest, step).digest for step in made)


def _rebatched_steps(sweep: Sweep, inputs: Inputs, steps: dict[str, Step]) -> dict[str, str]:
    """Every task on the dense model once more, in batches of another size; task label -> step."""
    made = {}
    for task in sweep.tasks:
        asked = task.model_copy(update={"kl_bytes": 0}) if isinstance(task, Perplexity) else task
        made[task.label] = _evaluate_step(sweep, inputs, sweep.model, None, asked, None, budget=OTHER_BUDGET)
    return {label: steps.setdefault(step.digest, step).digest for label, step in made.items()}


def _names(cell: Cell, sweep: Sweep) -> set[str]:
    """What a cell is called in `bases`: its label, its method; "dense" is the sweep's own model."""
    if isinstance(cell.method, Dense):
        return {cell.label, "dense"} if cell.model == sweep.model else {cell.label}
    return {cell.label, str(cell.method.model_dump()["method"])}


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
    return Step(COMPRESS, digest(spec), spec, location=location, label=label, cost=method.cost)


def _evaluate_step(
    sweep: Sweep,
    inputs: Inputs,
    model: str,
    checkpoint: str | None,
    task: AnyTask,
    steering: Steering | None,
    restored: tuple[int, ...] = (),
    budget: int | None = None,
) -> Step:
    path, model_digest = inputs.models[model]
    data_path, data_digest = inputs.data[data_key(task)]
    is_other = checkpoint is not None or steering is not None
    whole = checkpoint is None or steering is not None or bool(restored)
    stops = sweep.sequential is not None and task.bounded and not whole
    needs_reference = stops or (isinstance(task, Perplexity) and is_other and task.kl_bytes > 0)
    reference = _evaluate_step(sweep, inputs, model, None, task, None).digest if needs_reference else None
    spec: dict[str, Any] = {
        "kind": EVALUATE,
        "model_digest": model_digest,
        "dtype": sweep.dtype,
        "checkpoint": checkpoint,
        "reference": reference,
        "task": {**task.model_dump(mode="json", exclude={"data", *task.places}), "version": task.version},
        "data_digest": data_digest,
        "engine": ENGINE_VERSION,
        "versions": dict(inputs.versions),
    }
    if steering is not None:
        spec["steering"] = steering.fields
    if chat := _chat(sweep, model, steering):
        spec["chat"] = chat
    if stops and sweep.sequential is not None:
        spec["sequential"] = {"error": sweep.sequential.error, "margin": MATCHING, "version": SEQUENTIAL_VERSION}
    if restored:
        spec["restored"] = list(restored)
    if budget is not None:
        spec["budget"] = budget
    if task.models:
        spec["helpers"] = [inputs.helpers[name] for name in task.models]
    return Step(
        EVALUATE,
        digest(spec),
        spec,
        needs=tuple(d for d in (checkpoint, reference, *(steering.checkpoints if steering else ())) if d is not None),
        checkpoint=checkpoint,
        reference=reference,
        steering=steering,
        restored=restored,
        location={"model": path, "model_name": model, "data": data_path, **task.places},
        label=f"evaluate {task.label}" + "".join(f", block {b} dense" for b in restored) + ", rebatched" * bool(budget),
        cost=task.cost * (1 if steering is None else STEERED_COST),
    )


def _chat(sweep: Sweep, model: str, steering: Steering | None) -> dict[str, str]:
    """In which form each of a subject's models is asked, by its part, where it is not plain text."""
    members = {"expert": steering.expert, "antiexpert": steering.antiexpert} if steering else {}
    parts = {"base": model, **{part: member.name for part, member in members.items() if member}}
    return {part: sweep.chat[name] for part, name in parts.items() if name in sweep.chat}
