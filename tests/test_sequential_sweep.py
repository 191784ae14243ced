"""A sweep whose tasks stop once decided: only compressed models, only scores that can be bounded, and named as such."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from earnest.cells import collect
from earnest.models.source import resolve
from earnest.plan import Inputs, Plan
from earnest.planning import make_plan
from earnest.specs import Sweep
from earnest.steps import run_step
from earnest.store import Store

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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"proxy": [{"name": "p", "expert": "r"}]}, "whole runs"),
        ({"localise": [{"cells": ["magnitude"], "tasks": ["closed_book"]}]}, "whole runs"),
        ({"compress": []}, "this sweep has none"),
        ({"tasks": [{"task": "perplexity"}]}, "this sweep has none"),
        ({"sequential": {"error": 0}}, "error"),
    ],
)
def test_stopping_where_it_has_no_meaning_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Sweep.model_validate({**FIELDS, "sequential": {}, **change})


@pytest.mark.slow
def test_a_cell_that_stopped_is_compared_on_the_samples_it_was_asked(tmp_path: Path) -> None:
    sweep = Sweep.model_validate(
        {
            "name": "stops",
            "model": "nano:small",
            "compress": [{"method": "magnitude", "sparsity": 0.8}],
            "tasks": [{"task": "multiple_choice", "limit": 120}],
            "sequential": {},
        }
    )
    inputs = Inputs({"nano:small": ("nano:small", resolve("nano:small").digest)}, INPUTS.data, INPUTS.versions)
    made, store = make_plan(sweep, inputs), Store(str(tmp_path))
    for step in made.steps.values():
        run_step(step, store, "cpu", lambda _: None)
    dense, pruned = collect(made, store, {})
    scores, comparison = pruned.scores["multiple_choice"], pruned.comparisons["multiple_choice"]
    assert (scores.asked, scores.whole, dense.scores["multiple_choice"].whole) == (120, False, True)
    assert (comparison.verdict, comparison.stopped) == ("falls", True)
    tables = [
        pq.read_table(io.BytesIO(store.read_file("evaluate", cell.steps["multiple_choice"], "samples.parquet")))
        for cell in (dense, pruned)
    ]
    before = dict(zip(tables[0]["id"].to_pylist(), tables[0]["score"].to_pylist(), strict=True))
    asked = tables[1]["id"].to_pylist()
    assert len(asked) == scores.scored == comparison.samples < 120
    was, now = sum(before[name] for name in asked), sum(tables[1]["score"].to_pylist())
    assert comparison.relative == pytest.approx(now / was - 1)
