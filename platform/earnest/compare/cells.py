"""A sweep's cells as sides of a comparison: found by name, their samples read from the store."""

from __future__ import annotations

from collections.abc import Mapping

from earnest.plan import EVALUATE, Cell, Plan
from earnest.records import Scores
from earnest.samples import SAMPLES_FILE, SCORES_FILE, Samples, read_samples
from earnest.specs import UserError
from earnest.store import Store


def stored_samples(plan: Plan, store: Store, cell: Cell, cluster: str | None = None) -> dict[str, Samples]:
    """Task -> samples of a cell, for the tasks that are finished. Raises UserError as `read_samples` does."""
    return _read(plan, store, cell, cell.evaluate, cluster)


def rebatched_samples(plan: Plan, store: Store, cell: Cell) -> dict[str, Samples]:
    """The same of the cell's evaluations in batches of another size; nothing where the sweep asks for none."""
    return _read(plan, store, cell, cell.rebatched, None)


def _read(plan: Plan, store: Store, cell: Cell, steps: Mapping[str, str], cluster: str | None) -> dict[str, Samples]:
    intact = store.intact(EVALUATE, steps.values())
    there = {task: digest for task, digest in steps.items() if digest in intact}
    return {task: read_stored(plan, store, cell, task, digest, cluster)[0] for task, digest in there.items()}


def read_stored(
    plan: Plan, store: Store, cell: Cell, task: str, digest: str, cluster: str | None = None
) -> tuple[Samples, bytes]:
    """A finished evaluation's samples, and the file that they were read from."""
    scores, content = (store.read_file(EVALUATE, digest, name) for name in (SCORES_FILE, SAMPLES_FILE))
    where, kind = f"{plan.sweep}: {cell.name}: {task}", plan.steps[digest].spec["task"]["task"]
    return read_samples(content, where, scores, task, cluster, kind), content


def stored_scores(plan: Plan, store: Store) -> dict[str, Scores]:
    """Digest -> scores of every finished evaluation of a plan."""
    wanted = store.intact(EVALUATE, (digest for cell in plan.cells for digest in cell.evaluate.values()))
    return {digest: Scores.model_validate_json(store.read_file(EVALUATE, digest, SCORES_FILE)) for digest in wanted}


def find_cell(plan: Plan, name: str) -> Cell:
    """A sweep's cell by its name: "dense", "nano:small", "wanda 50%", "wanda 50% seed 1", "wanda 50% + tuned α 1".

    Of several seeds the first is meant. Where a name fits cells that differ in more, the first letters of a cell's
    key tell them apart.

    Raises:
        UserError: no cell has the name, or several do.
    """
    if name == "dense":
        return plan.cells[0]
    found = [cell for cell in plan.cells if name in (cell.name, f"{cell.name} seed {cell.seed}")]
    found = found or [cell for cell in plan.cells if len(name) >= 6 and cell.key.startswith(name)]
    if not found:
        names = ", ".join(f'"{known}"' for known in dict.fromkeys(cell.name for cell in plan.cells))
        raise UserError(f"{name!r}: not a cell of {plan.sweep}; it has dense, {names}")
    if len({cell.method for cell in found}) > 1:
        keys = ", ".join(cell.key[:8] for cell in found)
        raise UserError(f"{name!r}: {len(found)} cells of {plan.sweep} have this name; name one by its key: {keys}")
    return found[0]
