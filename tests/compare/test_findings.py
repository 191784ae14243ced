"""The page of findings says held, not held or not decided as the samples show it, and every number is theirs."""

import re
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.compare.cells import find_cell
from earnest.compare.claims import Claim, ClaimsFile, Prediction, Ruled, read_claims, rule
from earnest.compare.findings import page
from earnest.plan import Inputs, Plan
from earnest.planning import make_plan
from earnest.records import Estimate, Scores
from earnest.specs import Biography, ClosedBook, Magnitude, Proxy, Sweep, UserError, read_sweep
from earnest.store import Store
from earnest.sweep import find_inputs, inspect_models, prepare

ROOT = Path(__file__).parents[2]
SWEEP = Sweep(
    name="s",
    model="m",
    references=("small",),
    compress=(Magnitude(sparsity=0.3), Magnitude(sparsity=0.5)),
    proxy=(Proxy(name="tuned", expert="e", antiexpert="small", bases="dense", target="goal"),),
    tasks=(ClosedBook(limit=1000), Biography(limit=100)),  # type: ignore[call-arg]
)
STEERED = "m + tuned α 1"


@pytest.fixture
def plan() -> Plan:
    models = {name: (name, name * 3) for name in ("m", "small", "e", "goal")}
    return make_plan(SWEEP, Inputs(models=models, data={"nano|test": ("nano", "d")}, versions={}))


def publish(
    store: Store, plan: Plan, cell: str, task: str, headline: str, columns: Mapping[str, Sequence[float]]
) -> None:
    above, below = [*columns.values(), [1.0] * 10_000][:2]
    value = sum(above) / sum(below[: len(above)])
    scores = Scores(
        task=task, version=1, headline=headline, higher_is_better=True, asked=1, scored=1, truncated=0, failed=0,
        metrics={headline: Estimate(value=value, n=1)},
    )  # fmt: skip
    ids = [f"q{i}" for i in range(len(above))]
    with store.publish("evaluate", find_cell(plan, cell).evaluate[task], {}, {}) as folder:
        (folder / "scores.json").write_text(scores.model_dump_json())
        pq.write_table(pa.table({"id": ids, "prompt_hash": ids, **columns}), folder / "samples.parquet")


def right(n: int, of: int = 1000) -> dict[str, list[float]]:
    return {"score": [1.0] * n + [0.0] * (of - n)}


@pytest.fixture
def sweeps(tmp_path: Path, plan: Plan) -> dict[str, tuple[Plan, Store]]:
    """Dense has 900 of 1000 right, half of the weights 500, seven tenths 855 (−5 %), small 899, steered 960 of 980."""
    store = Store(str(tmp_path))
    found = {"dense": 900, "magnitude 30%": 855, "magnitude 50%": 500, "small": 899, STEERED: 960, "goal": 980}
    for cell, n in found.items():
        publish(store, plan, cell, "closed_book", "exact_match", right(n))
    for cell, true in (("dense", 9.0), ("magnitude 50%", 5.0)):
        columns = {"true": [true] * 100, "well_formed": [10.0] * 100, "statements": [10.0] * 100}
        publish(store, plan, cell, "biography", "true", columns)
    return {"s": (plan, store)}


def ruled(sweeps: Mapping[str, tuple[Plan, Store]], *predictions: Mapping[str, object]) -> Ruled:
    asked = [Prediction.model_validate({"sweep": "s", "task": "closed_book", **one}) for one in predictions]
    return rule([Claim(title="T", says="S.", paper="arXiv 1", predictions=tuple(asked))], sweeps)[0]


FALLS = {"a": "magnitude 50%", "expect": "worse"}
OPEN = {"a": "magnitude 30%", "expect": "worse"}
SAME = {"a": "small", "expect": "worse"}
HALF = {"a": STEERED, "target": "goal", "expect": "gap closed"}


@pytest.mark.parametrize(
    ("predictions", "ruling"),
    [
        ([FALLS], "held"),
        ([OPEN], "not decided"),
        ([SAME], "not held"),
        ([FALLS, OPEN], "not decided"),
        ([FALLS, OPEN, SAME], "not held"),
        ([{"a": "small", "expect": "kept"}], "held"),
        ([{**FALLS, "expect": "kept"}], "not held"),
        ([{"a": "dense", "b": "magnitude 50%", "expect": "better"}], "held"),
        ([{"a": "small", "expect": "better"}], "not held"),
        ([HALF], "held"),  # 60 of 80
        ([{**HALF, "least": 0.95}], "not held"),
        ([{**HALF, "least": 0.75}], "not decided"),
        ([{**HALF, "a": "dense", "target": "small"}], "not decided"),  # no gap is shown
        ([{**HALF, "a": "magnitude 50%", "target": "magnitude 30%"}], "not decided"),  # the way down is no gap
    ],
)
def test_a_claim_is_ruled_as_its_samples_show(
    sweeps: dict[str, tuple[Plan, Store]], predictions: list[dict[str, object]], ruling: str
) -> None:
    assert ruled(sweeps, *predictions).ruling == ruling


def test_another_metric_than_the_headline_can_be_predicted(sweeps: dict[str, tuple[Plan, Store]]) -> None:
    fluent = {"a": "magnitude 50%", "task": "biography", "metric": "fluent", "expect": "kept"}
    found = ruled(sweeps, fluent, {**fluent, "metric": None, "expect": "worse"})
    assert [(tested.versus.a, tested.ruling) for tested in found.tested if tested.versus] == [
        (1, "held"),
        (0.5, "held"),
    ]
    with pytest.raises(UserError, match="biography: its samples hold no novelty; they hold id, prompt_hash, true"):
        ruled(sweeps, {**fluent, "metric": "novelty"})
    with pytest.raises(UserError, match="biography: column id holds string and no numbers"):
        ruled(sweeps, {**fluent, "metric": "id"})


def test_the_page_holds_the_samples_numbers_and_verdicts(sweeps: dict[str, tuple[Plan, Store]]) -> None:
    claims = [
        Claim(title=title, says="S.", paper="arXiv 1", predictions=ruled(sweeps, *asked).claim.predictions)
        for title, asked in (("One", [FALLS]), ("Two", [OPEN, HALF]), ("Three", [SAME]))
    ]
    asked = ClaimsFile(family="toy", sweeps=("../configs/s.toml",), claims=tuple(claims))
    text = page(asked, rule(claims, sweeps), "claims.toml")
    assert "| One | **held** | 1, 0, 0 |" in text
    assert "| Two | **not decided** | 1, 0, 1 |" in text
    assert "## Three: not held" in text
    assert "3 comparisons" in text
    # McNemar: 400 lost and none won; by hand 500 − 900 of 1000
    assert "| closed book | 1,000 | magnitude 50% 50.0 | dense 90.0 | −40.0 [" in text
    assert "| −44% | < 0.001 | falls | falls |" in text
    assert "**not decided**" in text
    assert "gap closed between dense and goal by m + tuned α 1: 75.0 % [" in text


def test_the_page_counts_clusters_where_these_are_what_is_tested(sweeps: dict[str, tuple[Plan, Store]]) -> None:
    found = ruled(sweeps, OPEN)
    (tested,) = found.tested
    assert tested.versus is not None
    clustered = replace(found, tested=(replace(tested, versus=replace(tested.versus, units=57, needed=1200)),))
    text = page(ClaimsFile(family="toy", sweeps=("s.toml",), claims=(found.claim,)), [clustered], "claims.toml")
    assert "| closed book | 1,000 in 57 | magnitude 30% 85.5 |" in text
    assert "needs clusters ≈ 1,200" in text


def test_what_is_not_there_is_named(sweeps: dict[str, tuple[Plan, Store]]) -> None:
    for wrong, said in (
        ({"a": "wanda 50%"}, "not a cell of s; it has dense"),
        ({"a": "small", "task": "biography"}, "s: small: biography: not finished in"),
        ({"a": "small", "task": "mmlu"}, "no such task in this sweep; it has closed_book, biography"),
        ({"a": "small", "sweep": "t"}, "no sweep 't' among s"),
    ):
        with pytest.raises(UserError, match=said):
            ruled(sweeps, {**FALLS, **wrong})
    with pytest.raises(ValueError, match="a target belongs to 'gap closed'"):
        ruled(sweeps, {**FALLS, "target": "goal"})


def test_the_embedded_models_claims_name_cells_and_tasks_of_their_sweeps() -> None:
    file = ROOT / "jobs" / "claims" / "nano.toml"
    asked = read_claims(file)
    configs = [read_sweep(file.parent / sweep) for sweep in asked.sweeps]
    plans = {config.name: make_plan(config, find_inputs(config, inspect_models(config))) for config in configs}
    for claim in asked.claims:
        for one in claim.predictions:
            names = [one.a, one.b, *([one.target] if one.target else [])]
            assert all(one.task in find_cell(plans[one.sweep], name).evaluate for name in names)


CONFIG = """
name = "s"
model = "nano:small"
[[compress]]
method = "magnitude"
sparsity = 0.5
[[tasks]]
task = "closed_book"
limit = 1000
"""
CLAIMS = """
family = "toy"
sweeps = ["s.toml"]
[[claims]]
title = "Half is too much"
says = "Half of the weights hold no more than half of the answers."
paper = "arXiv 1"
predictions = [{ sweep = "s", a = "magnitude 50%", task = "closed_book", expect = "worse" }]
"""


@pytest.mark.slow
def test_the_job_writes_the_page_of_a_finished_sweep_and_refuses_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "s.toml").write_text(CONFIG)
    (tmp_path / "claims.toml").write_text(CLAIMS)
    arguments = [tmp_path / "claims.toml", "--store", tmp_path, "--out", tmp_path / "f.md"]
    monkeypatch.setattr(sys, "argv", ["findings.py", *map(str, arguments)])
    job = runpy.run_path(str(ROOT / "jobs" / "findings.py"))["main"]
    assert job() == 2
    said = capsys.readouterr().err
    assert said.startswith("error: s: magnitude 50%: closed_book: not finished in")
    assert said.count("\n") == 1
    done = prepare(tmp_path / "s.toml", store=str(tmp_path))
    for cell, n in (("dense", 900), ("magnitude 50%", 450)):
        publish(done.store, done.plan, cell, "closed_book", "exact_match", right(n))
    assert job() == 0
    assert "## Half is too much: held" in (tmp_path / "f.md").read_text(encoding="utf-8")


def test_the_written_page_rules_on_every_claim_by_all_of_its_tests() -> None:
    text = (ROOT / "docs" / "results" / "findings.md").read_text(encoding="utf-8")
    for claim in read_claims(ROOT / "jobs" / "claims" / "nano.toml").claims:
        row = re.search(rf"^\| {re.escape(claim.title)} \| \*\*(.+)\*\* \| (\d+), (\d+), (\d+) \|$", text, re.MULTILINE)
        assert row is not None
        ruling, held, refuted, still_open = row[1], *map(int, row.groups()[1:])
        assert held + refuted + still_open == len(claim.predictions)
        assert ruling == ("not held" if refuted else "not decided" if still_open else "held")
        assert f"## {claim.title}: {ruling}\n\n{claim.says}" in text
