"""A sweep whose tasks stop once decided: only compressed models, only scores that can be bounded, and named as such."""

import pytest

from earnest.plan import Inputs, Plan, make_plan
from earnest.specs import Sweep

FIELDS = {
    "name": "s",
    "model": "m",
    "references": ["r"],
    "compress": [{"method": "magnitude", "sparsity": 0.5}],
    "tasks": [{"task": "closed_book"}, {"task": "biography"}, {"task": "perplexity"}],
}
INPUTS = Inputs(
    models={"m": ("m", "M"), "r": ("r", "R")},
    data={"nano|test": ("nano", "D"), "nano|train": ("nano", "D")},
    versions={"torch": "1"},
)


def plan(**more: object) -> Plan:
    return make_plan(Sweep.model_validate({**FIELDS, **more}), INPUTS)


def test_a_task_that_may_stop_waits_for_dense_and_is_a_step_of_its_own() -> None:
    made, whole = plan(sequential={}), plan()
    dense, pruned, reference = made.cells
    step = made.steps[pruned.evaluate["closed_book"]]
    assert step.reference == dense.evaluate["closed_book"]
    assert step.reference in step.needs
    assert step.spec["sequential"] == {"error": 0.05, "margin": 0.05, "version": 1}
    assert step.digest not in whole.steps
    assert plan(sequential={"error": 0.01}).cells[1].evaluate["closed_book"] != step.digest
    assert reference.evaluate == whole.cells[2].evaluate


def test_everything_else_is_the_step_that_it_always_was() -> None:
    made, whole = plan(sequential={}), plan()
    assert set(whole.steps) - set(made.steps) == {whole.cells[1].evaluate["closed_book"]}
    assert set(made.steps) - set(whole.steps) == {made.cells[1].evaluate["closed_book"]}


def test_pairs_are_measured_against_whole_runs() -> None:
    with pytest.raises(ValueError, match="whole runs"):
        plan(sequential={}, proxy=[{"name": "p", "expert": "r"}])
    with pytest.raises(ValueError, match="error"):
        plan(sequential={"error": 0})
