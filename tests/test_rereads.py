"""What cells write is read once more by the dense model, each text once, whoever shares it."""

from __future__ import annotations

import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from earnest.cells import collect
from earnest.evaluation.engine import Engine
from earnest.evaluation.rereading import reread
from earnest.evaluation.tokens import Request
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.plan import EVALUATE, Inputs, Plan, Step
from earnest.planning import make_plan
from earnest.rereads import with_rereads
from earnest.specs import Sweep, UserError
from earnest.steps import TEXTS_FILE, run_step
from earnest.store import Store
from earnest.sweep import find_inputs, inspect_models

FIELDS = {
    "name": "t", "model": "nano:small", "references": ["nano:medium"], "reread": True,
    "compress": [{"method": "magnitude", "sparsity": 0.7}],
    "tasks": [{"task": "closed_book", "limit": 6}, {"task": "multiple_choice", "limit": 6}],
}  # fmt: skip
MODELS = {"nano:small": ("nano:small", "s"), "nano:medium": ("nano:medium", "m")}


def plan(**changes: object) -> Plan:
    sweep = Sweep.model_validate({**FIELDS, **changes})
    return with_rereads(make_plan(sweep, Inputs(models=MODELS, data={"nano|test": ("nano", "d")}, versions={})), sweep)


def readings(made: Plan) -> list[Step]:
    return [step for step in made.steps.values() if "reads" in step.spec]


def test_what_the_dense_model_and_its_copies_write_is_read_and_nothing_else() -> None:
    made = plan()
    dense, copy, other = made.cells
    assert other.model == "nano:medium"
    read = [cell.evaluate["closed_book"] for cell in (dense, copy)]
    assert [(step.spec["reads"], step.needs, step.checkpoint) for step in readings(made)] == [
        (digest, (digest,), None) for digest in read
    ]
    assert readings(plan(reread=False)) == []


def test_a_sweep_plans_every_other_step_alike_with_and_without() -> None:
    without = plan(reread=False)
    assert {digest for digest, step in plan().steps.items() if "reads" not in step.spec} == set(without.steps)


@pytest.mark.slow
def test_the_perplexity_of_texts_is_that_of_their_tokens_after_their_prompts(tmp_path: Path) -> None:
    sweep = Sweep.model_validate({**FIELDS, "references": [], "store": str(tmp_path)})
    made, store = with_rereads(make_plan(sweep, find_inputs(sweep, inspect_models(sweep))), sweep), Store(str(tmp_path))
    for step in made.steps.values():
        run_step(step, store, "cpu", lambda _: None)
    loaded = load(resolve("nano:small"), device="cpu", dtype="auto")
    for cell, record in zip(made.cells, collect(made, store, {}), strict=True):
        rows = pq.read_table(store.fetch(EVALUATE, cell.evaluate["closed_book"]) / TEXTS_FILE).to_pylist()
        asked = [Request(tuple(row["prompt"]), tuple(row["text"])) for row in rows]
        nats = sum(-(found.value or 0.0) for found in Engine(loaded).log_likelihoods(asked))
        tokens = sum(len(row["text"]) for row in rows)
        found = record.scores["closed_book"].metrics["output_perplexity"]
        assert (found.value, found.n) == (pytest.approx(math.exp(nats / tokens), rel=1e-4), 6)
        assert "output_perplexity" not in record.scores["multiple_choice"].metrics
    dense, copy = collect(made, store, {})
    own, foreign = (each.scores["closed_book"].metrics["output_perplexity"].value for each in (dense, copy))
    assert own < foreign


def test_texts_that_were_not_kept_are_missed_in_words(tmp_path: Path) -> None:
    sweep = Sweep.model_validate({**FIELDS, "references": [], "store": str(tmp_path)})
    made, store = with_rereads(make_plan(sweep, find_inputs(sweep, inspect_models(sweep))), sweep), Store(str(tmp_path))
    step = readings(made)[0]
    with store.publish(EVALUATE, step.spec["reads"], {}) as folder:
        (folder / "scores.json").write_text("{}")
    with pytest.raises(UserError, match="kept no texts; remove"):
        run_step(step, store, "cpu", lambda _: None)


def test_a_subject_that_wrote_no_token_has_no_perplexity(tmp_path: Path) -> None:
    from earnest.evaluation.rereading import SCHEMA

    pq.write_table(SCHEMA.empty_table().from_pylist([{"prompt": [1], "text": []}], schema=SCHEMA), tmp_path / "t")
    scores, table = reread(load(resolve("nano:small"), device="cpu", dtype="auto"), tmp_path / "t")
    assert (scores.metrics, scores.asked, scores.failed) == ({}, 1, 0)
    assert table.to_pylist() == [{"nats": None, "tokens": 0}]
