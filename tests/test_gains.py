"""What a pair gains is measured against the very same base, on the same samples, and by the headline itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.cells import collect, headline_of, read_evaluation
from earnest.evaluation.run import evaluate
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.plan import Inputs, Plan
from earnest.planning import make_plan
from earnest.records import CellRecord, Scores
from earnest.specs import AnyTask, Biography, ClosedBook, MultipleChoice, Perplexity, Summarisation, Sweep
from earnest.steps import write_evaluation
from earnest.store import Store

PAIR = {"name": "tuned", "expert": "e", "antiexpert": "a", "target": "t", "alpha": [0, 1]}
LETTERS = {"dense": "a" * 20 + "b" * 40, "magnitude": "a" * 8 + "b" * 52, "target": "a" * 50 + "b" * 10}


def planned(*tasks: AnyTask) -> Plan:
    sweep = Sweep.model_validate(
        {
            "name": "s",
            "model": "m",
            "compress": [{"method": "magnitude", "sparsity": 0.5}],
            "tasks": tasks,
            "proxy": [PAIR],
        }
    )
    data = dict.fromkeys(("nano|test", "nano|train"), ("nano", "d" * 32))
    models = {name: (name, name * 32) for name in "meat"}
    return make_plan(sweep, Inputs(models=models, data=data, versions={}))


def answer(store: Store, plan: Plan, cell: str, answers: str, asked: str = "") -> None:
    """Finish the closed-book task of the cell with this label; each letter is one prediction, and "a" is right."""
    (found,) = [one for one in plan.cells if name_of(one) == cell]
    digest = found.evaluate["closed_book"]
    share = answers.count("a") / len(answers)
    scores = Scores.model_validate(
        {
            "task": "t", "version": 1, "headline": "exact_match", "higher_is_better": True, "asked": len(answers),
            "scored": len(answers), "truncated": 0, "failed": 0, "metrics": {"exact_match": {"value": share, "n": 1}},
        }
    )  # fmt: skip
    table = pa.table(
        {
            "id": [str(number) for number in range(len(answers))],
            "prompt_hash": [f"{asked}{number}" for number in range(len(answers))],
            "prediction": list(answers),
            "correct": [letter == "a" for letter in answers],
            "score": [float(letter == "a") for letter in answers],
        }
    )
    with store.publish("evaluate", digest, plan.steps[digest].spec, {"seconds": 1.0}) as folder:
        (folder / "scores.json").write_text(scores.model_dump_json())
        pq.write_table(table, folder / "samples.parquet")


def name_of(cell: object) -> str:
    return cell.label + (f" + {cell.steering}" if cell.steering else "")  # type: ignore[attr-defined]


def collected(plan: Plan, store: Store) -> dict[str, CellRecord]:
    cells = collect(plan, store, {})
    return {name_of(planned): record for planned, record in zip(plan.cells, cells, strict=True)}


@pytest.fixture
def plan() -> Plan:
    return planned(ClosedBook(limit=60))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def test_a_pair_on_dense_closes_a_share_of_the_gap_to_the_tuned_model(plan: Plan, store: Store) -> None:
    answer(store, plan, "m", LETTERS["dense"])
    answer(store, plan, "t", LETTERS["target"])
    answer(store, plan, "m + tuned α 1", "a" * 44 + "b" * 16)
    cell = collected(plan, store)["m + tuned α 1"]
    gain = cell.gains["closed_book"]
    assert gain.difference.value == pytest.approx(24 / 60)
    assert gain.gap_closed is not None
    assert gain.gap_closed.value == pytest.approx((44 - 20) / (50 - 20))
    assert gain.gap_closed.low < gain.gap_closed.value < gain.gap_closed.high  # type: ignore[operator]
    assert gain.won_back is None
    assert cell.steering is not None
    assert (cell.steering.target, cell.steering.alpha, cell.steering.expert_digest) == ("t", 1.0, "e" * 32)
    assert (cell.label, cell.curve) == ("dense + tuned α 1", "dense + tuned α 1")
    assert cell.comparisons["closed_book"].relative == pytest.approx(24 / 20)


def test_a_compressed_base_is_compared_with_itself_and_wins_back_what_compression_cost(
    plan: Plan, store: Store
) -> None:
    answer(store, plan, "m", LETTERS["dense"])
    answer(store, plan, "t", LETTERS["target"])
    answer(store, plan, "magnitude 50%", LETTERS["magnitude"])
    answer(store, plan, "magnitude 50% + tuned α 1", "a" * 17 + "b" * 43)
    cell = collected(plan, store)["magnitude 50% + tuned α 1"]
    gain = cell.gains["closed_book"]
    assert gain.won_back is not None
    assert gain.won_back.value == pytest.approx((17 - 8) / (20 - 8))
    assert gain.gap_closed is not None
    assert gain.gap_closed.value == pytest.approx((17 - 8) / (50 - 8))
    assert cell.curve == "magnitude + tuned α 1"


def test_nothing_is_said_of_a_gap_that_is_not_there(plan: Plan, store: Store) -> None:
    answer(store, plan, "m", LETTERS["dense"])
    answer(store, plan, "t", LETTERS["dense"])
    answer(store, plan, "m + tuned α 1", LETTERS["target"])
    gain = collected(plan, store)["m + tuned α 1"].gains["closed_book"]
    assert gain.gap_closed is None
    assert gain.difference.value == pytest.approx(0.5)


def test_a_target_that_is_worse_is_no_gap_to_close(plan: Plan, store: Store) -> None:
    answer(store, plan, "m", LETTERS["target"])
    answer(store, plan, "t", LETTERS["dense"])
    answer(store, plan, "magnitude 50%", "a" * 60)
    answer(store, plan, "m + tuned α 1", LETTERS["magnitude"])
    answer(store, plan, "magnitude 50% + tuned α 1", LETTERS["magnitude"])
    cells = collected(plan, store)
    gain = cells["magnitude 50% + tuned α 1"].gains["closed_book"]
    assert (cells["m + tuned α 1"].gains["closed_book"].gap_closed, gain.gap_closed, gain.won_back) == (None,) * 3


def test_nothing_is_gained_where_other_questions_were_asked_or_the_base_is_missing(plan: Plan, store: Store) -> None:
    answer(store, plan, "m", LETTERS["dense"])
    answer(store, plan, "m + tuned α 1", LETTERS["target"], asked="other ")
    answer(store, plan, "magnitude 50% + tuned α 1", LETTERS["target"])
    cells = collected(plan, store)
    assert cells["m + tuned α 1"].gains == {}
    assert cells["magnitude 50% + tuned α 1"].gains == {}


@pytest.mark.parametrize(
    "task",
    [
        ClosedBook(limit=8),
        MultipleChoice(limit=8),
        Summarisation(limit=3, max_tokens=8),
        Perplexity(limit=4, length=64),
        Biography(limit=3),
    ],
)
def test_what_is_summed_over_samples_is_the_headline(store: Store, task: AnyTask) -> None:
    result = evaluate(load(resolve("nano:small"), dtype="float32"), task, "nano")
    assert result.scores.main.value > 0
    with store.publish("evaluate", "0" * 32, {}, {}) as folder:
        write_evaluation(result, folder)
    found = read_evaluation(store, "0" * 32, task.task)
    assert headline_of(found, np.arange(len(found.samples.ids))).value == pytest.approx(
        result.scores.main.value, rel=1e-12
    )
