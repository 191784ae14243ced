"""Every compressed cell of a sweep, task by task: where it lost, and what goes with the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from torch import Tensor

from earnest.compression.calibration import calibration_ids
from earnest.domains.answers import Answers, read_answers
from earnest.domains.blocks import block_share
from earnest.domains.changes import changes, unevenness
from earnest.domains.reasons import reasons
from earnest.evaluation.traits import Traits, traits_of
from earnest.losses import BlockShare, Loss, Losses
from earnest.models.loading import load_tokenizer
from earnest.models.source import folder_of
from earnest.plan import EVALUATE, Cell, Plan, Step
from earnest.records import canonical, digest
from earnest.specs import Calibration, read_task
from earnest.statistics.multiplicity import benjamini_hochberg, holm
from earnest.store import Store


def find_losses(plan: Plan, store: Store) -> list[Loss]:
    """The losses of every compressed cell that nothing steers, in all finished tasks that have domains or strata.

    Cells without calibration are held against the sweep's: there it can be no reason, which makes them the control.

    Raises:
        UserError: the data of a task or a calibration is no longer where it was planned from.
        CorruptOutputError: a stored file does not have the bytes that were published.
    """
    ledger = _Ledger(plan, store)
    dense = plan.cells[0]
    found = []
    for task in dense.evaluate:
        mine = [loss for cell in plan.cells if (loss := _loss(cell, dense, task, ledger)) is not None]
        found += _adjusted(mine)
    return found


def losses_of(plan: Plan, store: Store) -> Losses:
    """The losses of a sweep, found when they are asked for."""
    finished = store.intact(EVALUATE, (step.digest for step in plan.steps.values() if step.kind == EVALUATE))
    folder = Path(__file__).parents[1]
    rooms = [file for room in ("domains", "statistics") for file in sorted((folder / room).glob("*.py"))]
    files = [*rooms, folder / "samples.py", folder / "evaluation/traits.py", folder / "losses.py"]
    code = [sha256(file.read_bytes()).hexdigest() for file in files]
    return Losses(digest([code, sorted(finished)]), partial(find_losses, plan, store))


def _loss(cell: Cell, dense: Cell, task: str, ledger: _Ledger) -> Loss | None:
    if cell.compress is None or cell.steering is not None or cell.model != dense.model:
        return None
    before, after = (ledger.answers(one.evaluate[task]) for one in (dense, cell))
    if before is None or after is None or not before.scores.groups:
        return None
    traits = ledger.traits(cell.evaluate[task], cell.compress)
    return Loss(
        cell=cell.key,
        task=task,
        groups=tuple(changes(before, after)),
        uneven=unevenness(before, after),
        reasons=tuple(reasons(before, after, traits)) if traits else (),
        blocks=tuple(_blocks(cell.restored.get(task, ()), before, after, ledger)),
    )


def _blocks(steps: Sequence[str], dense: Answers, subject: Answers, ledger: _Ledger) -> Iterator[BlockShare]:
    for block, step in enumerate(steps):
        restored = ledger.answers(step)
        if restored is not None:
            yield block_share(block, dense, subject, restored)


@dataclass
class _Ledger:
    """What is read once: tokenizer, calibrations, and the traits of each task's questions under each."""

    plan: Plan
    store: Store
    _traits: dict[str, dict[str, Traits]] = field(default_factory=dict)
    _ids: dict[str, Tensor] = field(default_factory=dict)
    _answers: dict[str, Answers] = field(default_factory=dict)

    def answers(self, digest: str) -> Answers | None:
        """A finished evaluation's answers; those of dense are kept."""
        if digest in self._dense and digest in self._answers:
            return self._answers[digest]
        if digest not in self._finished:
            return None
        found = read_answers(self.store, digest)
        if digest in self._dense:
            self._answers[digest] = found
        return found

    def traits(self, evaluated: str, compressed: str) -> dict[str, Traits]:
        """The traits of the questions of an evaluation, calibrated as a compression was, or as the sweep's first."""
        step, calibration = self.plan.steps[evaluated], self._calibration(compressed)
        fields = {key: value for key, value in step.spec["task"].items() if key != "version"}
        key = canonical([fields, calibration.spec["calibration"] if calibration else None])
        if key not in self._traits:
            task = read_task({**fields, "data": step.location["data"]})
            ids = None if calibration is None else self._calibration_ids(calibration)
            self._traits[key] = traits_of(task, step.location["data"], self._tokenizer, ids)
        return self._traits[key]

    def _calibration(self, compressed: str) -> Step | None:
        steps = (self.plan.steps[compressed], *self.plan.steps.values())
        return next((step for step in steps if step.spec.get("calibration")), None)

    def _calibration_ids(self, step: Step) -> Tensor:
        key = canonical(step.spec["calibration"])
        if key not in self._ids:
            fields = {name: value for name, value in step.spec["calibration"].items() if name != "data_digest"}
            spec = Calibration(data=step.location["calibration"], **fields)
            self._ids[key] = calibration_ids(spec, spec.data, self._tokenizer)
        return self._ids[key]

    @cached_property
    def _tokenizer(self) -> Any:
        dense = self.plan.steps[next(iter(self.plan.cells[0].evaluate.values()))]
        return load_tokenizer(folder_of(dense.location["model"]), dense.location["model_name"])

    @cached_property
    def _finished(self) -> set[str]:
        return self.store.intact(EVALUATE, (s.digest for s in self.plan.steps.values() if s.kind == EVALUATE))

    @cached_property
    def _dense(self) -> set[str]:
        return set(self.plan.cells[0].evaluate.values())


def _adjusted(losses: Sequence[Loss]) -> list[Loss]:
    """The losses of one task with adjusted p-values: its groups are one family, its reasons one each way."""
    groups = _corrected([one.groups for one in losses], benjamini_hochberg)
    over_samples, over_domains = (
        _corrected([[reason for reason in one.reasons if reason.over == over] for one in losses], holm)
        for over in ("samples", "domains")
    )
    uneven = _alike([one.uneven for one in losses])
    return [
        loss.model_copy(update={"groups": (*mine,), "uneven": alike, "reasons": (*first, *second)})
        for loss, mine, alike, first, second in zip(losses, groups, uneven, over_samples, over_domains, strict=True)
    ]


def _alike(found: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """The p-values of each grouping, corrected over all cells."""
    keys = [(place, grouping) for place, one in enumerate(found) for grouping in one]
    adjusted = dict(zip(keys, holm([found[place][grouping] for place, grouping in keys]), strict=True))
    return [{grouping: adjusted[place, grouping] for grouping in one} for place, one in enumerate(found)]


def _corrected(families: Iterable[Sequence[Any]], correct: Callable[[Sequence[float]], list[float]]) -> list[list[Any]]:
    """Records of several cells, corrected together; what could not be measured is no test."""
    parts = [list(part) for part in families]
    tests = [one for part in parts for one in part if getattr(one, "effect", one) is not None]
    adjusted = dict(zip(map(id, tests), correct([one.p for one in tests]), strict=True))
    return [
        [one.model_copy(update={"adjusted": adjusted.get(id(one), one.adjusted)}) for one in part] for part in parts
    ]
