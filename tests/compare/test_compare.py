"""`earnest compare` pairs the same samples, says what is shown and what is open, and refuses what cannot be paired."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.testing import CliRunner

from earnest.cli import app
from earnest.compare.run import compare_cells, compare_paths
from earnest.plan import Inputs, Plan
from earnest.planning import make_plan
from earnest.records import Estimate, Scores
from earnest.samples import open_samples, write_samples
from earnest.specs import ClosedBook, Magnitude, Sweep, UserError, Wanda
from earnest.statistics.versus import Versus
from earnest.store import Store

runner = CliRunner()


def scores_of(task: str, headline: str, value: float, *, higher: bool = True) -> Scores:
    return Scores(
        task=task, version=1, headline=headline, higher_is_better=higher, asked=1, scored=1, truncated=0, failed=0,
        metrics={headline: Estimate(value=value, n=1)},
    )  # fmt: skip


def answers(right: Sequence[bool | None], domains: Sequence[str] = ()) -> pa.Table:
    return pa.table(
        {
            "id": [f"q{i}" for i in range(len(right))],
            "prompt_hash": [f"h{i}" for i in range(len(right))],
            "score": pa.array([None if one is None else float(one) for one in right], pa.float64()),
            "domain": list(domains) or [""] * len(right),
        }
    )


def write_answers(path: Path, right: Sequence[bool | None], task: str = "closed_book", **more: Sequence[str]) -> Path:
    known = [one for one in right if one is not None]
    write_samples(answers(right, **more), scores_of(task, "exact_match", sum(known) / len(known)), path)
    return path


def compared(a: Path, b: Path) -> Versus:
    (row,), skipped = compare_paths(a, b)
    assert skipped == {}
    return row


def printed(*arguments: object) -> str:
    result = runner.invoke(app, ["compare", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_a_row_holds_what_the_answers_say(tmp_path: Path) -> None:
    b = write_answers(tmp_path / "b.parquet", [True] * 90 + [False] * 10)
    a = write_answers(tmp_path / "a.parquet", [True] * 40 + [False] * 50 + [True] * 2 + [False] * 8)
    row = compared(a, b)
    assert (row.task, row.samples, row.a, row.b) == ("closed_book", 100, 0.42, 0.9)
    assert (row.better, row.worse, row.left_out) == (2, 50, 0)
    assert row.difference.value == pytest.approx(-0.48)
    assert row.relative == pytest.approx(0.42 / 0.9 - 1)
    # McNemar's exact test: 2 · P(at most 2 of 52)
    assert row.p == pytest.approx(2 * sum(math.comb(52, k) for k in range(3)) / 2**52)
    assert (row.verdict, row.needed) == ("falls", None)


def test_samples_pair_up_by_id_and_prompt_whatever_their_order(tmp_path: Path) -> None:
    right = [True, False, True, True, False, True]
    b = write_answers(tmp_path / "b.parquet", right)
    table = answers([*right[:-1], None]).take([4, 2, 0, 5, 1, 3])
    table = table.set_column(1, "prompt_hash", pa.array(["h4", "h2", "another prompt", "h5", "h1", "h3"]))
    write_samples(table, scores_of("closed_book", "exact_match", 3 / 5), tmp_path / "a.parquet")
    row = compared(tmp_path / "a.parquet", b)
    assert (row.samples, row.better, row.worse) == (4, 0, 0)
    assert row.left_out == 2  # one asked otherwise, one without a score


def test_an_open_question_names_the_samples_that_would_decide_it(tmp_path: Path) -> None:
    b = write_answers(tmp_path / "b.parquet", [True] * 95 + [False] * 5)
    a = write_answers(tmp_path / "a.parquet", [False] * 3 + [True] * 93 + [False] * 4)
    row = compared(a, b)
    assert row.verdict == "not decided"
    assert row.needed is not None
    assert 200 < row.needed < 2000
    said = printed(a, b)
    assert "not decided at n = 100, needs n ≈" in said
    assert "A is not decided on: closed book" in said


def test_perplexity_is_pooled_over_tokens_and_more_is_a_fall(tmp_path: Path) -> None:
    for name, nats in (("b", 1.0), ("a", 1.2)):
        table = pa.table(
            {
                "id": [str(i) for i in range(50)],
                "nats": [nats * (10 + i) * (1 + i % 3 / 10) for i in range(50)],
                "tokens": [10 + i for i in range(50)],
            }
        )
        value = math.exp(sum(table["nats"].to_pylist()) / sum(table["tokens"].to_pylist()))
        scores = scores_of("perplexity", "token_perplexity", value, higher=False)
        write_samples(table, scores, tmp_path / f"{name}.parquet")
    row = compared(tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert row.a == pytest.approx(row.b**1.2)
    assert (row.verdict, row.worse) == ("falls", 50)


def test_folders_are_compared_task_by_task_and_judged_as_one_family(tmp_path: Path) -> None:
    for side, losses in (("a", 4), ("b", 0)):
        for task in ("closed_book", "open_book", "mmlu"):
            folder = tmp_path / side / task
            folder.mkdir(parents=True)
            right = [False] * (losses if task == "mmlu" else 0) + [True] * (100 - (losses if task == "mmlu" else 0))
            (folder / "scores.json").write_text(scores_of(task, "accuracy", sum(right) / 100).model_dump_json())
            pq.write_table(answers(right), folder / "samples.parquet")
    rows, _ = compare_paths(tmp_path / "a", tmp_path / "b")
    found = {row.task: row for row in rows}
    assert set(found) == {"closed_book", "open_book", "mmlu"}
    assert found["mmlu"].p == 2 * 0.5**4
    assert found["mmlu"].p_holm == pytest.approx(3 * found["mmlu"].p)
    rows, _ = compare_paths(tmp_path / "a", tmp_path / "b", ["mmlu"])
    assert [row.p_holm for row in rows] == [2 * 0.5**4]


def test_clusters_are_counted_instead_of_samples(tmp_path: Path) -> None:
    domains = [f"subject {i // 20}" for i in range(200)]
    b = write_answers(tmp_path / "b.parquet", [True] * 200, domains=domains)
    a = write_answers(tmp_path / "a.parquet", [i // 20 % 2 == 0 for i in range(200)], domains=domains)
    (row,), _ = compare_paths(a, b, cluster="domain")
    assert (row.samples, row.units) == (200, 10)
    assert row.p == 2 * 0.5**5  # five subjects lost altogether, five kept
    assert "200 in 10" in printed(a, b, "--cluster", "domain")


def test_a_file_without_a_name_needs_an_id_and_a_score(tmp_path: Path) -> None:
    for name, right in (("a", [1.0, 0.0]), ("b", [1.0, 1.0])):
        pq.write_table(pa.table({"id": ["x", "y"], "score": right}), tmp_path / f"{name}.parquet")
    assert compared(tmp_path / "a.parquet", tmp_path / "b.parquet").difference.value == -0.5
    pq.write_table(pa.table({"id": ["x"], "prediction": ["?"]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match="no column correct; it has id, prediction"):
        open_samples(tmp_path / "c.parquet")


def test_what_is_no_score_is_refused_in_one_line(tmp_path: Path) -> None:
    rows = pa.table({"id": ["a", "b"], "score": ["good", "bad"]})
    pq.write_table(rows, tmp_path / "samples.parquet")
    with pytest.raises(UserError, match="column score holds string and no numbers"):
        open_samples(tmp_path / "samples.parquet")
    (tmp_path / "scores.json").write_text('{"accuracy": 1}')
    with pytest.raises(UserError, match="not as this version writes them; evaluate it again, or move"):
        open_samples(tmp_path / "samples.parquet")


def test_an_infinite_score_is_refused_in_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": ["a", "b"], "score": [0.5, math.inf]}), tmp_path / "samples.parquet")
    with pytest.raises(UserError, match="a sample's score is infinite"):
        compare_paths(tmp_path, tmp_path)


def test_what_cannot_be_paired_is_refused_in_one_line(tmp_path: Path) -> None:
    right = write_answers(tmp_path / "a.parquet", [True, False])
    other = write_answers(tmp_path / "b.parquet", [True, False], task="open_book")
    with pytest.raises(UserError, match="not there for"):
        compare_paths(right, other)
    write_samples(answers([True]), scores_of("closed_book", "exact_match", 0.5), tmp_path / "wrong.parquet")
    with pytest.raises(UserError, match=r"add up to exact_match 1, and its scores say 0\.5"):
        compare_paths(tmp_path / "wrong.parquet", tmp_path / "wrong.parquet")
    twice = pa.concat_tables([answers([True]), answers([False])])
    write_samples(twice, scores_of("closed_book", "exact_match", 0.5), tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="more than once"):
        open_samples(tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="no samples there"):
        open_samples(tmp_path / "nothing")
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(UserError, match="not a Parquet file"):
        open_samples(tmp_path / "text.parquet")
    (tmp_path / "two").mkdir()
    for name in ("x", "y"):
        write_answers(tmp_path / "two" / f"{name}.parquet", [True])
    with pytest.raises(UserError, match="two evaluations of closed_book"):
        open_samples(tmp_path / "two")


# --- a sweep's cells ------------------------------------------------------------------------------------------------


@pytest.fixture
def plan() -> Plan:
    sweep = Sweep(
        name="s",
        model="m",
        references=("small",),
        seeds=(0, 1, 2),
        compress=(Magnitude(sparsity=0.5), Wanda(sparsity=0.5)),
        tasks=(ClosedBook(limit=4),),  # type: ignore[call-arg]
    )
    data = dict.fromkeys(("nano|test", "nano|train"), ("nano", "d" * 32))
    models = {"m": ("m", "a" * 32), "small": ("small", "b" * 32)}
    return make_plan(sweep, Inputs(models=models, data=data, versions={"torch": "2"}))


@pytest.fixture
def store(tmp_path: Path, plan: Plan) -> Store:
    """Dense has 90 of 100 right, magnitude 45, Wanda 80, 84 and 82 by seed; the small model is not finished."""
    store = Store(str(tmp_path))
    shares = iter((90, 45, 80, 84, 82))
    for cell in plan.cells[:-1]:
        right = next(shares)
        with store.publish("evaluate", cell.evaluate["closed_book"], {}, {}) as folder:
            (folder / "scores.json").write_text(scores_of("closed_book", "exact_match", right / 100).model_dump_json())
            pq.write_table(answers([True] * right + [False] * (100 - right)), folder / "samples.parquet")
    return store


def test_cells_are_compared_by_name(plan: Plan, store: Store) -> None:
    (row,), _ = compare_cells(plan, store, "magnitude 50%", "dense")
    assert (row.a, row.b, row.verdict, row.noise) == (0.45, 0.9, "falls", None)
    (row,), _ = compare_cells(plan, store, "wanda 50% seed 1", "wanda 50%")
    assert (row.a, row.b) == (0.84, 0.8)


def test_seeds_mark_a_difference_that_they_alone_would_make(plan: Plan, store: Store) -> None:
    (row,), _ = compare_cells(plan, store, "wanda 50%", "dense")
    # 80, 84, 82: sd 2; two runs differ by up to t(0.975, 2) · √2 · 2 = 12.17 points
    assert row.noise == pytest.approx(4.302653 * math.sqrt(2) * 0.02, abs=1e-6)
    assert row.within_noise


def test_all_cells_are_one_family_and_what_is_not_finished_is_said(plan: Plan, store: Store) -> None:
    rows, skipped = compare_cells(plan, store, "all", "dense")
    names = ["magnitude 50%", "wanda 50% seed 0", "wanda 50% seed 1", "wanda 50% seed 2"]
    assert [row.name for row in rows] == names
    assert skipped == {"small: closed_book": "not there for A"}
    alone, _ = compare_cells(plan, store, "magnitude 50%", "dense")
    assert rows[0].p_holm == pytest.approx(4 * alone[0].p)


def test_a_cell_that_is_not_there_is_named_with_those_that_are(plan: Plan, store: Store) -> None:
    with pytest.raises(UserError, match='not a cell of s; it has dense, "m", "magnitude 50%", "wanda 50%", "small"'):
        compare_cells(plan, store, "gptq 4 bits", "dense")
    with pytest.raises(UserError, match="nothing to compare"):
        compare_cells(plan, store, "small", "dense")


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_prints_the_table_and_writes_it(tmp_path: Path) -> None:
    b = write_answers(tmp_path / "b.parquet", [True] * 90 + [False] * 10)
    a = write_answers(tmp_path / "a.parquet", [True] * 40 + [False] * 60)
    said = printed(a, b, "--json", tmp_path / "rows.json")
    assert "closed book 100 40.0 90.0 −50.0" in said
    assert "A falls on: closed book" in said
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["verdict"], row["a"], row["worse"]) == ("falls", 0.4, 50)


@pytest.mark.slow
def test_what_evaluate_writes_can_be_compared(tmp_path: Path) -> None:
    for model in ("nano:large", "nano:small"):
        words = f"evaluate {model} --task closed_book --limit 24 --out {tmp_path / model}.parquet"
        assert runner.invoke(app, words.split(), catch_exceptions=False).exit_code == 0
    row = compared(tmp_path / "nano:small.parquet", tmp_path / "nano:large.parquet")
    assert (row.task, row.headline, row.samples) == ("closed_book", "exact_match", 24)
    assert row.a < row.b


def test_a_narrow_console_keeps_the_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = write_answers(tmp_path / "b.parquet", [True] * 90 + [False] * 10)
    a = write_answers(tmp_path / "a.parquet", [True] * 40 + [False] * 60)
    monkeypatch.setattr("earnest.cli.out", Console(width=60))
    said = printed(a, b)
    assert "closed book 100 40.0 90.0 −50.0 <0.001 falls" in said
