"""What a sweep claims of its cells is shown on the samples, for the whole family at once; the rest is left open."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.cells import collect, read_evaluation
from earnest.compare.measures import stored_measure
from earnest.compare.run import compare_cells, compare_paths
from earnest.evaluation.run import evaluate
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.plan import Cell, Inputs, Plan
from earnest.planning import make_plan
from earnest.records import Comparison, Estimate, Scores, Stopped
from earnest.report.verdicts import explained, hint, mark
from earnest.samples import match_up, read_samples, write_samples
from earnest.specs import TASKS, ClosedBook, Magnitude, Noise, Sweep, Task, UserError, Wanda, read_sweep
from earnest.statistics.versus import judge
from earnest.steps import run_step
from earnest.store import Store
from earnest.sweep import prepare

DATA = dict.fromkeys(("nano|test", "nano|train"), ("nano", "d" * 32))


def planned(*sparsities: float, seeds: tuple[int, ...] = (0,), jitter: bool = False) -> Plan:
    methods = tuple(Magnitude(sparsity=share) for share in sparsities) or (Wanda(sparsity=0.5),)
    sweep = Sweep(
        name="s", model="m", seeds=seeds, compress=methods, tasks=(ClosedBook(),), noise=Noise(jitter=jitter)
    )  # fmt: skip
    return make_plan(sweep, Inputs(models={"m": ("m", "a" * 32)}, data=DATA, versions={}))


def scored(headline: str, value: float, *, task: str = "closed_book", higher: bool = True) -> Scores:
    return Scores(
        task=task, version=1, headline=headline, higher_is_better=higher, asked=1, scored=1, truncated=0, failed=0,
        metrics={headline: Estimate(value=value, n=1)},
    )  # fmt: skip


def answer(store: Store, cell: Cell, right: list[bool]) -> None:
    table = pa.table(
        {
            "id": [str(i) for i in range(len(right))],
            "prompt_hash": [str(i) for i in range(len(right))],
            "prediction": ["yes" if one else "no" for one in right],
            "correct": right,
            "score": [float(one) for one in right],
        }
    )
    with store.publish("evaluate", cell.evaluate["closed_book"], {}, {}) as folder:
        (folder / "scores.json").write_text(scored("exact_match", sum(right) / len(right)).model_dump_json())
        pq.write_table(table, folder / "samples.parquet")


def changed(n: int, right: int, lost: int, gained: int = 0) -> list[bool]:
    """Answers to `n` questions of which dense has the first `right` right."""
    return [False] * lost + [True] * (right - lost + gained) + [False] * (n - right - gained)


def judged(tmp_path: Path, n: int, right: int, *losses: tuple[int, int]) -> list[Comparison]:
    plan, store = planned(*((1 + i) / 100 for i in range(len(losses)))), Store(str(tmp_path))
    answer(store, plan.cells[0], changed(n, right, 0))
    for cell, (lost, gained) in zip(plan.cells[1:], losses, strict=True):
        answer(store, cell, changed(n, right, lost, gained))
    return [cell.comparisons["closed_book"] for cell in collect(plan, store, {})[1:]]


def test_a_small_loss_on_many_samples_is_shown_to_match(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, 2000, 1600, (26, 10))
    assert (found.relative, found.verdict, found.needed) == (-0.01, "matches", None)
    assert found.difference is not None
    assert found.difference.value == pytest.approx(-0.008)
    assert found.no_worse


def test_a_large_loss_is_shown_to_fall(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, 600, 500, (110, 10))
    assert (found.relative, found.verdict) == (-0.2, "falls")
    assert found.p is not None
    assert found.p < 0.001


def test_a_loss_near_the_margin_on_few_samples_is_left_open_with_the_number_that_decides_it(tmp_path: Path) -> None:
    (found,) = judged(tmp_path, 100, 75, (4, 1))
    assert (found.relative, found.verdict, found.units) == (-0.04, "not decided", 100)
    assert found.within_margin  # what a point estimate alone would have called a match
    assert found.needed is not None
    assert 1000 < found.needed < 100_000


def test_a_borderline_claim_fails_in_the_company_of_others(tmp_path: Path) -> None:
    """Alone the first one is shown to fall; beside twenty that are open as well, 21 claims share the error rate."""
    alone = judged(tmp_path / "alone", 300, 240, (29, 4))
    among = judged(tmp_path / "among", 300, 240, (29, 4), *[(15, 4)] * 20)
    assert (alone[0].verdict, among[0].verdict) == ("falls", "not decided")


def test_seeds_mark_a_change_that_they_alone_would_make(tmp_path: Path) -> None:
    plan, store = planned(seeds=(0, 1, 2)), Store(str(tmp_path))
    for cell, right in zip(plan.cells, (90, 80, 84, 82), strict=True):
        answer(store, cell, [True] * right + [False] * (100 - right))
    found = [cell.comparisons["closed_book"] for cell in collect(plan, store, {})[1:]]
    # 80, 84, 82: sd 2; two runs differ by up to t(0.975, 2) · √2 · 2 points
    assert [one.noise for one in found] == [pytest.approx(4.302653 * math.sqrt(2) * 0.02, abs=1e-6)] * 3
    assert all(one.within_noise for one in found)
    single, other = planned(0.5), Store(str(tmp_path / "one"))
    for cell, right in zip(single.cells, (90, 80), strict=True):
        answer(other, cell, [True] * right + [False] * (100 - right))
    (alone,) = [cell.comparisons["closed_book"] for cell in collect(single, other, {})[1:]]
    assert (alone.noise, alone.within_noise) == (None, False)


def test_batches_of_another_size_mark_a_change_that_rounding_alone_would_make(tmp_path: Path) -> None:
    """4 of 100 answers of dense flip with its batches: up to 1.96 · 2 ÷ 100; a change of 3 is no more, of 5 is."""
    plan, store = planned(0.5, 0.6, jitter=True), Store(str(tmp_path))
    assert len(plan.steps) == len(planned(0.5, 0.6).steps) + 1
    dense, *cells = plan.cells
    (again,) = dense.rebatched.values()
    assert plan.steps[again].spec == {**plan.steps[dense.evaluate["closed_book"]].spec, "budget": 1024}
    answer(store, dense, changed(100, 80, 0))
    answer(store, replace(dense, evaluate=dense.rebatched), changed(100, 80, 2, 2))
    for cell, lost in zip(cells, (3, 5), strict=True):
        answer(store, cell, changed(100, 80, lost))
    found = [cell.comparisons["closed_book"] for cell in collect(plan, store, {})[1:]]
    assert [one.noise for one in found] == [pytest.approx(1.959964 * 2 / 100, abs=1e-8)] * 2
    assert [one.within_noise for one in found] == [True, False]
    (row,), _ = compare_cells(plan, store, "magnitude 50%", "dense")
    assert row.within_noise


@pytest.mark.slow
def test_the_model_is_evaluated_in_batches_of_another_size_and_says_the_same(tmp_path: Path) -> None:
    config = tmp_path / "jitter.toml"
    config.write_text(
        f"""name = "jitter"\nmodel = "nano:small"\nstore = "{tmp_path / "store"}"\ncompress = []
        [noise]\njitter = true\n[[tasks]]\ntask = "closed_book"\nlimit = 30\n[[tasks]]\ntask = "perplexity"
        limit = 30\nlength = 128"""
    )
    prepared = prepare(config)
    for step in prepared.plan.steps.values():
        run_step(step, prepared.store, "cpu", lambda note: None)
    (dense,) = prepared.plan.cells
    for task, digest in dense.rebatched.items():
        found = [read_evaluation(prepared.store, one, task).scores for one in (digest, dense.evaluate[task])]
        assert found[0].main.value == pytest.approx(found[1].main.value, rel=1e-5)
        assert found[0].tokens_forwarded > 0
    assert not (
        Path(prepared.store.root) / "evaluate" / dense.rebatched["perplexity"] / "reference.safetensors"
    ).exists()


def test_scores_that_are_not_what_their_samples_add_up_to_have_no_verdict(tmp_path: Path) -> None:
    plan, store = planned(0.5), Store(str(tmp_path))
    for cell in plan.cells:
        answer(store, cell, [True, False])
    folder = Path(store.root) / "evaluate" / plan.cells[1].evaluate["closed_book"]
    table = pq.read_table(folder / "samples.parquet")
    with Store(str(tmp_path / "other")).publish("evaluate", plan.cells[1].evaluate["closed_book"], {}, {}) as new:
        (new / "scores.json").write_text(scored("exact_match", 0.75).model_dump_json())
        pq.write_table(table, new / "samples.parquet")
    other = Store(str(tmp_path / "other"))
    answer(other, plan.cells[0], [True, False])
    found = collect(plan, other, {})[1].comparisons["closed_book"]
    assert (found.relative, found.verdict, found.difference) == (0.5, None, None)


# --- every kind of task ---------------------------------------------------------------------------------------------

SCALES = {"judge_score": (1.0, 10.0), "toxic": (0.0, 1.0)}


def rows_of(task: type[Task], worse: float, n: int = 400) -> tuple[pa.Table, float]:
    """Samples whose headline is clearly worse by this share, whatever makes it up; and the headline."""
    generator = np.random.default_rng(5)
    size, luck = generator.integers(3, 9, n), generator.random(n)
    columns: dict[str, object] = {"id": [f"q{i}" for i in range(n)], "prompt_hash": [f"h{i}" for i in range(n)]}
    columns["domain"] = [f"subject {i % 40}" for i in range(n)]
    if task.headline == "token_perplexity":
        nats = size * (0.9 + 0.2 * luck) + size * math.log1p(worse)
        return pa.table(columns | {"nats": nats, "tokens": size}), math.exp(nats.sum() / size.sum())
    if task.headline == "true":
        true = np.floor(size * (1 - worse) * (0.8 + 0.2 * luck))
        return pa.table(columns | {"true": true, "well_formed": size}), true.sum() / size.sum()
    if task.headline == "judge_score":
        score = np.clip(np.round(8 * (1 - worse) + 2 * luck), 1, 10)
    elif not task.higher_is_better:
        score = (luck < 0.5 * (1 + worse)).astype(float)
    elif task.headline in ("rouge_l", "pass@1", "win_rate"):
        score = np.round((1 - worse) * (0.6 + 0.4 * luck), 1)
    else:
        score = (luck < 0.9 * (1 - worse)).astype(float)
    return pa.table(columns | {"score": score}), float(score.mean())


@pytest.mark.parametrize("task", TASKS, ids=lambda task: str(task.model_fields["task"].default))
def test_every_task_can_be_judged_by_its_own_headline(task: type[Task]) -> None:
    name = str(task.model_fields["task"].default)
    sides = []
    for worse in (0.4, 0.0):
        table, value = rows_of(task, worse)
        content = pa.BufferOutputStream()
        pq.write_table(table, content)
        scores = scored(task.headline, value, task=name, higher=task.higher_is_better).model_dump_json().encode()
        sides.append(read_samples(content.getvalue().to_pybytes(), "x", scores, name))
    fallen, same = judge([match_up(*sides), match_up(sides[1], sides[1])])
    assert fallen.verdict == "falls"
    assert same.verdict == "matches"
    assert (same.difference.value, same.better, same.worse) == (0, 0, 0)
    assert (fallen.difference.value < 0) is task.higher_is_better
    assert fallen.difference.low is not None
    assert fallen.difference.low < fallen.difference.value
    assert fallen.units == (40 if name == "mmlu" else 400)


def test_what_stopped_once_it_was_decided_keeps_its_own_verdict(tmp_path: Path) -> None:
    """Tests at a fixed n do not hold where looking decided when to stop: neither a cell nor compare makes them."""
    plan, store = planned(0.5), Store(str(tmp_path))
    dense, cell = plan.cells
    answer(store, dense, changed(300, 240, 0))
    table = pq.read_table(Path(store.root) / "evaluate" / dense.evaluate["closed_book"] / "samples.parquet").slice(
        0, 48
    )
    stopped = Stopped(verdict="falls", after=48, error=0.05, margin=0.05)
    scores = scored("exact_match", 1.0).model_copy(update={"asked": 300, "scored": 48, "stopped": stopped})
    with store.publish("evaluate", cell.evaluate["closed_book"], {}, {}) as folder:
        (folder / "scores.json").write_text(scores.model_dump_json())
        pq.write_table(table, folder / "samples.parquet")
    found = collect(plan, store, {})[1].comparisons["closed_book"]
    assert (found.verdict, found.stopped, found.units, found.relative, found.p) == ("falls", True, 48, 0.0, None)
    assert (hint(found) + mark(found), explained(found, "exact_match").split(";")[0]) == (
        "!✗",
        "falls, decided after 48 samples",
    )
    rows, told = compare_cells(plan, store, "magnitude 50%", "dense")
    said = "against dense: falls, decided after 48 of 300 samples (error 5%)"
    assert (rows, told) == ([], {"closed_book": f"A {said}"})
    assert compare_cells(plan, store, "dense", "magnitude 50%") == ([], {"closed_book": f"B {said}"})
    with pytest.raises(UserError, match="magnitude 50%: closed_book: falls, decided after 48 of 300 samples"):
        stored_measure(plan, store, cell, "closed_book")


@pytest.mark.slow
def test_the_samples_that_every_task_of_the_embedded_models_leaves_can_be_compared(tmp_path: Path) -> None:
    config = Path(__file__).parents[1] / "jobs/configs/llm_kick_nano.toml"
    subject = load(resolve("nano:small"), dtype="float32")
    for task in read_sweep(config).tasks:
        result = evaluate(subject, task.model_copy(update={"limit": 4}), "nano")
        write_samples(result.samples, result.scores, tmp_path / f"{task.label}.parquet")
    rows, skipped = compare_paths(tmp_path, tmp_path)
    assert skipped == {}
    assert {row.task for row in rows} == {task.label for task in read_sweep(config).tasks}
    assert {(row.difference.value, row.better, row.worse, row.p) for row in rows} == {(0, 0, 0, 1)}
