"""Cells say what the finished steps say: compared on the same samples, with what is missing named."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.cells import collect
from earnest.plan import Inputs, Plan
from earnest.planning import make_plan
from earnest.records import Estimate, Manifest, Scores, Size
from earnest.specs import ClosedBook, Magnitude, Perplexity, Sweep
from earnest.store import Store

SIZE = Size(
    dense_bytes=1000, stored_bytes=562, file_bytes=600, dense_file_bytes=1040, sparsity=0.5, bits_per_weight=9.0
)


@pytest.fixture
def plan() -> Plan:
    sweep = Sweep(
        name="s",
        model="m",
        compress=(Magnitude(sparsity=0.5),),
        tasks=(ClosedBook(limit=4), Perplexity(limit=2)),  # type: ignore[call-arg]
    )
    data = dict.fromkeys(("nano|test", "nano|train"), ("nano", "d" * 32))
    return make_plan(sweep, Inputs(models={"m": ("m", "a" * 32)}, data=data, versions={"torch": "2"}))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path))


def finish(store: Store, plan: Plan, digest: str, scores: Scores, rows: list[tuple[str, str, bool | None]]) -> None:
    ids, predictions, correct = zip(*rows, strict=True)
    table = pa.table(
        {
            "id": ids,
            "prompt_hash": [f"hash of {name}" for name in ids],
            "prediction": predictions,
            "correct": pa.array(correct, pa.bool_()),
            "score": pa.array([None if right is None else float(right) for right in correct], pa.float64()),
            "nats": [1.0] * len(ids),
            "tokens": [2] * len(ids),
        }
    )
    with store.publish("evaluate", digest, plan.steps[digest].spec, {"seconds": 2.5}) as folder:
        (folder / "scores.json").write_text(scores.model_dump_json())
        pq.write_table(table, folder / "samples.parquet")


def answered(store: Store, plan: Plan, cell: int, answers: str) -> None:
    """Finish a cell's closed-book task; each letter of `answers` is one prediction, and "a" is right."""
    rows = [(str(number), letter, letter == "a") for number, letter in enumerate(answers)]
    share = answers.count("a") / len(answers)
    finish(
        store, plan, plan.cells[cell].evaluate["closed_book"], scored(ClosedBook.headline, share, len(answers)), rows
    )


def perplexed(store: Store, plan: Plan, cell: int, value: float, kl: float | None = None) -> None:
    scores = scored(Perplexity.headline, value, 2, higher=False)
    if kl is not None:
        scores = scores.model_copy(update={"metrics": {**scores.metrics, "kl_to_dense": Estimate(value=kl, n=2)}})
    finish(store, plan, plan.cells[cell].evaluate["perplexity"], scores, [("0", "", None), ("1", "", None)])


def scored(headline: str, value: float, n: int, *, higher: bool = True) -> Scores:
    return Scores(
        task="t", version=1, headline=headline, higher_is_better=higher, asked=n, scored=n, truncated=0, failed=0,
        metrics={headline: Estimate(value=value, n=n)},
    )  # fmt: skip


def compressed(store: Store, plan: Plan) -> None:
    digest = plan.cells[1].compress
    assert digest is not None
    manifest = Manifest(
        base="m", base_digest="a" * 32, method={"method": "magnitude"}, dtype="bfloat16", tensors=(), size=SIZE,
        files={}, logits_digest="", versions={},
    )  # fmt: skip
    with store.publish("compress", digest, plan.steps[digest].spec, {"seconds": 1.5}) as folder:
        (folder / "manifest.json").write_text(manifest.model_dump_json())


def test_a_cell_is_compared_with_dense_on_the_same_samples(plan: Plan, store: Store) -> None:
    compressed(store, plan)
    answered(store, plan, 0, "aaab")
    answered(store, plan, 1, "aacc")
    dense, cell = collect(plan, store, {})
    comparison = cell.comparisons["closed_book"]
    assert dense.comparisons == {}
    assert comparison.relative == pytest.approx(-1 / 3)
    assert comparison.within_margin is False
    assert comparison.retention is not None
    assert comparison.retention.value == pytest.approx(2 / 3)
    assert comparison.flips is not None
    assert comparison.flips.value == 0.5  # one lost, and one wrong answer reworded
    assert (comparison.retention.n, comparison.flips.n) == (3, 4)


@pytest.mark.parametrize(("value", "matches"), [(2.1, True), (2.101, False), (1.0, True)])
def test_perplexity_matches_dense_up_to_five_percent_higher(
    plan: Plan, store: Store, value: float, matches: bool
) -> None:
    perplexed(store, plan, 0, 2.0)
    perplexed(store, plan, 1, value, kl=0.25)
    comparison = collect(plan, store, {})[1].comparisons["perplexity"]
    assert comparison.within_margin is matches
    assert comparison.kl == Estimate(value=0.25, n=2)
    assert (comparison.retention, comparison.flips) == (None, None)


def test_a_score_of_exactly_95_percent_of_dense_still_matches(plan: Plan, store: Store) -> None:
    answered(store, plan, 0, "a" * 20)
    answered(store, plan, 1, "a" * 19 + "b")
    assert collect(plan, store, {})[1].comparisons["closed_book"].within_margin is True


def test_a_change_of_samples_is_not_reported_as_a_change_of_the_model(plan: Plan, store: Store) -> None:
    answered(store, plan, 0, "aaaa")
    answered(store, plan, 1, "aab")
    comparison = collect(plan, store, {})[1].comparisons["closed_book"]
    assert (comparison.relative, comparison.within_margin) == (None, None)
    assert comparison.retention is not None
    assert comparison.retention.n == 3


def test_no_change_is_relative_to_a_dense_score_of_zero(plan: Plan, store: Store) -> None:
    answered(store, plan, 0, "bbbb")
    answered(store, plan, 1, "abbb")
    comparison = collect(plan, store, {})[1].comparisons["closed_book"]
    assert (comparison.relative, comparison.retention) == (None, None)


def test_size_seconds_and_data_come_from_the_steps(plan: Plan, store: Store) -> None:
    compressed(store, plan)
    answered(store, plan, 1, "aaaa")
    cell = collect(plan, store, {})[1]
    assert cell.size == SIZE
    assert cell.saved == pytest.approx(1 - 600 / 1040)
    assert cell.saved_of_touched == pytest.approx(0.438)
    assert cell.seconds == {"compress": 1.5, "closed_book": 2.5}
    assert cell.datasets["closed_book"] == "nano@" + "d" * 32
    assert (cell.method, cell.nominal, cell.nominal_sparsity, cell.curve) == ("magnitude", "50%", 0.5, "magnitude")


def test_a_step_at_work_is_running_and_one_whose_writer_died_is_not(plan: Plan, store: Store) -> None:
    compress = str(plan.cells[1].compress)
    with suppress(InterruptedError), store.publish("compress", compress, plan.steps[compress].spec):
        assert collect(plan, store, {})[1].waiting["compress"] == "running"
        raise InterruptedError
    compressed(store, plan)
    (Path(store.root) / "evaluate" / f".{plan.cells[1].evaluate['perplexity'][:12]}-dead").mkdir(parents=True)
    assert collect(plan, store, {})[1].waiting == {"closed_book": "not run yet", "perplexity": "not run yet"}


def test_what_failed_and_what_did_not_run_yet_is_told_apart(plan: Plan, store: Store) -> None:
    answered(store, plan, 0, "aaaa")
    compress = plan.cells[1].compress
    assert compress is not None
    dense, cell = collect(plan, store, {compress: "out of memory"})
    assert (dense.failures, dense.waiting) == ({}, {"perplexity": "not run yet"})
    assert cell.failures == {"compress": "out of memory"}
    assert cell.waiting == {"closed_book": "not run yet", "perplexity": "not run yet"}
    assert (cell.size, cell.scores, cell.comparisons) == (None, {}, {})


def test_scores_that_were_tampered_with_count_as_not_run(plan: Plan, store: Store) -> None:
    answered(store, plan, 0, "aaab")
    path = Path(store.root) / "evaluate" / plan.cells[0].evaluate["closed_book"] / "scores.json"
    fields = json.loads(path.read_text())
    fields["metrics"]["exact_match"]["value"] = 1.0
    path.write_text(json.dumps(fields))
    dense = collect(plan, store, {})[0]
    assert (dense.scores, dense.waiting["closed_book"]) == ({}, "not run yet")
