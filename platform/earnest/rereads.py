"""What the cells of a sweep write, read once more by the dense model: how fluent the original finds its copies.

Adds steps to a plan. Each reads the stored texts of one evaluation, so nothing is generated twice, and subjects that
share an evaluation share its reading. Cells of other models are left out: their tokens are not the dense model's.
"""

from __future__ import annotations

from dataclasses import replace

from earnest.plan import EVALUATE, Cell, Plan, Step
from earnest.records import digest
from earnest.specs import Sweep

REREAD_VERSION = 1  # changes when what is made of a text does
COST = 1.0


def with_rereads(plan: Plan, sweep: Sweep) -> Plan:
    """The plan with a step for every evaluation that writes texts, where the sweep asks for it (`reread`)."""
    if not sweep.reread:
        return plan
    writing = [task.label for task in sweep.tasks if task.writes]
    own = [cell for cell in plan.cells if cell.model == sweep.model]
    found = (_reread_step(plan, cell, label) for cell in own for label in writing)
    return replace(plan, steps={**plan.steps, **{step.digest: step for step in found}})


def _reread_step(plan: Plan, cell: Cell, label: str) -> Step:
    written = plan.steps[cell.evaluate[label]]
    shared = {name: written.spec[name] for name in ("model_digest", "dtype", "engine", "versions")}
    spec = {**shared, "kind": EVALUATE, "reads": written.digest, "version": REREAD_VERSION}
    return Step(
        EVALUATE,
        digest(spec),
        spec,
        needs=(written.digest,),
        reference=written.digest,
        location={name: written.location[name] for name in ("model", "model_name")},
        label=f"read {label} by {cell.name}",
        cost=COST,
    )
