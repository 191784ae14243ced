"""A sweep -> its plan. Pure: the weights' digests and the data's come in, cells and steps come out.

Nothing here loads a model or knows of a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from earnest.plan import COMPRESS, EVALUATE, Cell, Inputs, Member, Plan, Steering, Step, data_key, method_fields
from earnest.records import digest
from earnest.specs import AnyTask, Dense, Method, Perplexity, Proxy, Sweep, UserError
from earnest.statistics.paired import MATCHING

ENGINE_VERSION = 2  # changes when the logits that evaluations see do, if only by their rounding
SEQUENTIAL_VERSION = 1  # changes when a task stops elsewhere
OTHER_BUDGET = 1024  # tokens of a batch where batches are to be others
STEERED_COST = 2.0


def make_plan(sweep: Sweep, inputs: Inputs) -> Plan:
    """Lay out a sweep: dense first, then each method and seed, then dense models beside it (`references` and targets),
    then all that is steered. Where losses are to be localised, further evaluations stand last.

    Compressions that do not depend on the seed are planned once. The dense model is always there, because every
    comparison needs it.

    Raises:
        UserError: a pair is to steer, or a loss to be localised in, a cell that the sweep does not have.
    """
    planner = _Planner(sweep, inputs)
    plain = [*planner.compressed(), *planner.beside()]
    cells = {cell.key: cell for cell in plain}
    for proxy in sweep.proxy:
        for cell in planner.steered(proxy, list(cells.values())):
            cells.setdefault(cell.key, cell)
    if sweep.noise.jitter:
        cells[plain[0].key] = replace(plain[0], rebatched=planner.rebatched())
    for entry in sweep.localise:
        for cell in planner.named(entry.cells, "localise: cells", [one for one in plain if one.compress]):
            mine = cells[cell.key]
            found = {task: planner.restored(mine, task) for task in entry.tasks}
            cells[cell.key] = replace(mine, restored={**mine.restored, **found})
    return Plan(sweep=sweep.name, steps=planner.steps, cells=tuple(cells.values()))


@dataclass(frozen=True)
class _Planner:
    """Collects steps while it lays out cells; what two cells need alike is one step.

    `fields` and `references` hold what all steps of a task share, by the task's identity: they are made once.
    """

    sweep: Sweep
    inputs: Inputs
    steps: dict[str, Step] = field(default_factory=dict)
    fields: dict[int, tuple[AnyTask, dict[str, Any]]] = field(default_factory=dict)
    references: dict[tuple[str, int], str] = field(default_factory=dict)

    # --- cells ------------------------------------------------------------------------------------------------------

    def compressed(self) -> Iterator[Cell]:
        """The dense model, then each method with each seed that matters to it."""
        yield self._cell(self.sweep.model, Dense(), 0)
        for method in self.sweep.compress:
            if not isinstance(method, Dense):
                draws = method.needs_calibration or method.draws()
                for seed in self.sweep.seeds if draws else self.sweep.seeds[:1]:
                    yield self._cell(self.sweep.model, method, seed)

    def beside(self) -> Iterator[Cell]:
        """Other models as they are."""
        targets = (proxy.target for proxy in self.sweep.proxy if proxy.target is not None)
        return (self._cell(model, Dense(), 0) for model in (*self.sweep.references, *targets))

    def steered(self, proxy: Proxy, cells: Sequence[Cell]) -> Iterator[Cell]:
        """A cell per base and alpha of one `[[proxy]]` entry; what is steered already among `cells` is no base."""
        plain = [cell for cell in cells if cell.steering is None]
        target = next((cell.key for cell in plain if cell.label == proxy.target), None)
        for base in self._bases(proxy, plain):
            expert = self._member(proxy.expert, base if "expert" in proxy.compressed else None)
            of_anti = base if "antiexpert" in proxy.compressed else None
            anti = self._member(proxy.antiexpert, of_anti) if proxy.antiexpert else None
            for alpha in proxy.alpha:
                steering = Steering(proxy.name, expert, anti, alpha)
                yield replace(
                    base,
                    key=digest({"base": base.key, "steering": steering.fields}),
                    evaluate=self._evaluations(base.model, base.compress, steering),
                    steering=steering,
                    base=base.key,
                    target=target,
                )

    def named(self, wanted: Sequence[str], where: str, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that are called by one of the wanted names."""
        names = [self._names(cell) for cell in cells]
        for name in wanted:
            if not any(name in mine for mine in names):
                there = ", ".join(dict.fromkeys(cell.label for cell in cells))
                raise UserError(f"{where}: no {name!r} in this sweep; it has {there}")
        return [cell for cell, mine in zip(cells, names, strict=True) if mine & set(wanted)]

    def _cell(self, model: str, method: Method, seed: int) -> Cell:
        compress = None if isinstance(method, Dense) else self._add(self._compress(model, method, seed))
        model_digest = self.inputs.models[model][1]
        calibration = self.sweep.calibration.model_dump(mode="json") if method.needs_calibration else None
        key = digest(
            {
                "model": model_digest,
                "method": method_fields(method),
                "seed": seed,
                "dtype": self._dtype(model),
                "calibration": calibration,
            }
        )
        return Cell(key, model, model_digest, method, seed, compress, self._evaluations(model, compress, None))

    def _names(self, cell: Cell) -> set[str]:
        """What a cell is called in `bases`: its label, its method; "dense" is the sweep's own model."""
        if isinstance(cell.method, Dense):
            return {cell.label, "dense"} if cell.model == self.sweep.model else {cell.label}
        return {cell.label, str(cell.method.model_dump()["method"])}

    def _bases(self, proxy: Proxy, cells: Sequence[Cell]) -> list[Cell]:
        """The cells that a pair steers."""
        if proxy.bases == "all":
            parts = {name for one in self.sweep.proxy for name in (*one.models, one.target)}
            return [cell for cell in cells if cell.label not in parts or cell.label == self.sweep.model]
        wanted = ("dense",) if proxy.bases == "dense" else proxy.bases
        return self.named(wanted, f"proxy {proxy.name}: bases", cells)

    def _member(self, name: str, alike: Cell | None) -> Member:
        """A model of a pair, compressed as the cell `alike` is where one is given."""
        compressed = alike is not None and alike.compress is not None
        step = self._add(self._compress(name, alike.method, alike.seed)) if alike and compressed else None
        return Member(name, *self.inputs.models[name], checkpoint=step, dtype=self._dtype(name))

    def _dtype(self, model: str) -> str:
        """What a model computes in, compressed or not."""
        return self.inputs.compute_dtype(self.sweep.dtype, model)

    # --- steps ------------------------------------------------------------------------------------------------------

    def restored(self, cell: Cell, label: str) -> tuple[str, ...]:
        """One evaluation of a cell per decoder block, that block back at its dense weights."""
        task = next(task for task in self.sweep.tasks if task.label == label)
        blocks = range(self.inputs.blocks)
        return tuple(self._add(self._evaluate(cell.model, cell.compress, task, None, (block,))) for block in blocks)

    def rebatched(self) -> dict[str, str]:
        """Every task on the dense model once more, in batches of another size; task label -> step."""
        made = {}
        for task in self.sweep.tasks:
            asked = task.model_copy(update={"kl_bytes": 0}) if isinstance(task, Perplexity) else task
            made[task.label] = self._add(self._evaluate(self.sweep.model, None, asked, None, budget=OTHER_BUDGET))
        return made

    def _add(self, step: Step) -> str:
        """The step's digest; it is part of the plan from now on."""
        return self.steps.setdefault(step.digest, step).digest

    def _evaluations(self, model: str, compress: str | None, steering: Steering | None) -> dict[str, str]:
        """Plan every task on one subject; task label -> step."""
        found = {}
        for task in self.sweep.tasks:
            step = self._evaluate(model, compress, task, steering)
            if step.reference is not None and step.reference not in self.steps:
                self._add(self._evaluate(model, None, task, None))
            found[task.label] = self._add(step)
        return found

    def _compress(self, model: str, method: Method, seed: int) -> Step:
        path, model_digest = self.inputs.models[model]
        location = {"model": path, "model_name": model}
        calibration = None
        if method.needs_calibration:
            calibrate = self.sweep.calibration.model_copy(update={"seed": self.sweep.calibration.seed + seed})
            data_path, data_digest = self.inputs.data[data_key(calibrate)]
            calibration = {**calibrate.model_dump(mode="json", exclude={"data"}), "data_digest": data_digest}
            location["calibration"] = data_path
        if method.draws():
            method = method.model_copy(update={"seed": getattr(method, "seed") + seed})  # noqa: B009 -- of some methods
        spec = {
            "kind": COMPRESS,
            "model_digest": model_digest,
            "dtype": self._dtype(model),
            "method": method_fields(method),
            "calibration": calibration,
            "versions": dict(self.inputs.versions),
        }
        if self.inputs.stored_dtype(model) != spec["dtype"]:
            spec["stored"] = self.inputs.stored_dtype(model)
        label = f"compress {model} {method.model_dump()['method']} {method.nominal}"
        return Step(COMPRESS, digest(spec), spec, location=location, label=label, cost=method.cost)

    def _evaluate(
        self,
        model: str,
        checkpoint: str | None,
        task: AnyTask,
        steering: Steering | None,
        restored: tuple[int, ...] = (),
        budget: int | None = None,
    ) -> Step:
        path, model_digest = self.inputs.models[model]
        data_path, data_digest = self.inputs.data[data_key(task)]
        stops = self._stops(task) if checkpoint is not None and steering is None and not restored else {}
        is_other = checkpoint is not None or steering is not None
        needs_reference = stops or (isinstance(task, Perplexity) and is_other and task.kl_bytes > 0)
        reference = self._reference(model, task) if needs_reference else None
        spec: dict[str, Any] = {
            "kind": EVALUATE,
            "model_digest": model_digest,
            "dtype": self._dtype(model),
            "checkpoint": checkpoint,
            "reference": reference,
            "task": self._task_fields(task),
            "data_digest": data_digest,
            "engine": ENGINE_VERSION,
            "versions": dict(self.inputs.versions),
        }
        optional = {
            "steering": steering.fields if steering else None,
            "chat": self._chat(model, steering),
            "sequential": stops,
            "restored": list(restored),
            "budget": budget,
            "helpers": [self.inputs.helpers[name] for name in task.models],
            "helpers_dtype": "float32" if task.models and self.inputs.auto != "stored" else "",
            "dtypes": _other_dtypes(steering, spec["dtype"]),
        }
        spec |= {name: value for name, value in optional.items() if value}
        members = steering.checkpoints if steering else ()
        return Step(
            EVALUATE,
            digest(spec),
            spec,
            needs=tuple(need for need in (checkpoint, reference, *members) if need is not None),
            checkpoint=checkpoint,
            reference=reference,
            steering=steering,
            restored=restored,
            location={"model": path, "model_name": model, "data": data_path, **task.places},
            label=f"evaluate {task.label}"
            + "".join(f", block {block} dense" for block in restored)
            + (", rebatched" if budget else ""),
            cost=task.cost * (1 if steering is None else STEERED_COST),
        )

    def _task_fields(self, task: AnyTask) -> dict[str, Any]:
        """What a digest covers of a task."""
        if id(task) not in self.fields:
            dumped = task.model_dump(mode="json", exclude={"data", *task.places})
            self.fields[id(task)] = task, {**dumped, "version": task.version}  # the task is kept: its id is its name
        return self.fields[id(task)][1]

    def _reference(self, model: str, task: AnyTask) -> str:
        """The step of a task on a dense model, by its digest."""
        self._task_fields(task)
        key = (model, id(task))
        if key not in self.references:
            self.references[key] = self._evaluate(model, None, task, None).digest
        return self.references[key]

    def _stops(self, task: AnyTask) -> dict[str, Any]:
        """When the task stops, where it is to stop once it is decided."""
        if self.sweep.sequential is None or not task.bounded:
            return {}
        return {"error": self.sweep.sequential.error, "margin": MATCHING, "version": SEQUENTIAL_VERSION}

    def _chat(self, model: str, steering: Steering | None) -> dict[str, str]:
        """In which form each of a subject's models is asked, by its part, where it is not plain text."""
        members = {"expert": steering.expert, "antiexpert": steering.antiexpert} if steering else {}
        parts = {"base": model, **{part: member.name for part, member in members.items() if member}}
        return {part: self.sweep.chat[name] for part, name in parts.items() if name in self.sweep.chat}


def _other_dtypes(steering: Steering | None, dtype: str) -> dict[str, str]:
    """What a pair's models compute in, by their part, where it is not what their base computes in."""
    members = {"expert": steering.expert, "antiexpert": steering.antiexpert} if steering else {}
    return {part: member.dtype for part, member in members.items() if member is not None and member.dtype != dtype}
