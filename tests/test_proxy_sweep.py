"""Ensembles in a sweep, from end to end: planned, run, compared with the same base, reported, and refused in time."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from earnest.cells import collect
from earnest.steps import run_step
from earnest.store import Store
from earnest.sweep import Prepared, prepare

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]

PROXY = """
name = "proxy"
model = "{model}"
store = "{store}"
[[compress]]
method = "magnitude"
sparsity = 0.5
[[proxy]]
name = "tuned"
expert = "{expert}"
antiexpert = "nano:small"
alpha = [0, 1, "adaptive"]
target = "nano:large-tuned"
[[tasks]]
task = "closed_book"
name = "zero_shot"
shots = 0
limit = 40
[[tasks]]
task = "perplexity"
limit = 10
length = 128
"""


def write_config(folder: Path, model: str = "nano:large", expert: str = "nano:small-tuned", extra: str = "") -> Path:
    path = folder / "proxy.toml"
    path.write_text(PROXY.format(model=model, expert=expert, store=folder / "store") + extra)
    return path


def run(*command: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "COLUMNS": "200"}
    return subprocess.run(
        [str(Path(sys.executable)), *map(str, command)],
        capture_output=True, text=True, cwd=ROOT, env=environment, timeout=500, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Prepared, subprocess.CompletedProcess[str]]:
    """A sweep with a pair, run by its job: what was planned, and what it printed."""
    config = write_config(tmp_path_factory.mktemp("proxy"))
    done = run("jobs/proxy_tuning.py", config)
    assert done.returncode == 0, done.stdout + done.stderr
    return prepare(config), done


def scores_of(prepared: Prepared, label: str, strength: str, task: str) -> dict[str, object]:
    (cell,) = [
        cell for cell in prepared.plan.cells
        if cell.label == label and (str(cell.steering) if cell.steering else "") == strength
    ]  # fmt: skip
    store = Store(prepared.store.root)
    return json.loads(store.read_file("evaluate", cell.evaluate[task], "scores.json"))


def test_every_base_is_run_under_every_alpha(finished: tuple[Prepared, subprocess.CompletedProcess[str]]) -> None:
    prepared, done = finished
    assert len(prepared.plan.cells) == 3 + 2 * 3
    assert len(prepared.done) == len(prepared.plan.steps) == 9 * 2 + 1
    assert "19 run, 0 already there" in done.stdout


@pytest.mark.parametrize("label", ["nano:large", "magnitude 50%"])
def test_alpha_zero_scores_exactly_as_the_base(
    finished: tuple[Prepared, subprocess.CompletedProcess[str]], label: str
) -> None:
    prepared, _ = finished
    zero, base = (scores_of(prepared, label, strength, "zero_shot") for strength in ("tuned α 0", ""))
    assert zero == base
    zero, base = (scores_of(prepared, label, strength, "perplexity") for strength in ("tuned α 0", ""))
    assert zero["metrics"]["token_perplexity"] == base["metrics"]["token_perplexity"]  # type: ignore[index]
    if label == "nano:large":
        assert zero["metrics"]["kl_to_dense"]["value"] == 0  # type: ignore[index]
    else:
        assert zero["metrics"]["kl_to_dense"] == base["metrics"]["kl_to_dense"]  # type: ignore[index]


def test_the_pair_closes_most_of_the_gap_and_says_so(
    finished: tuple[Prepared, subprocess.CompletedProcess[str]],
) -> None:
    prepared, done = finished
    assert "nano:large + tuned α 1: zero shot" in done.stdout
    assert "of the gap to nano:large-tuned closed" in done.stdout
    rows = pq.read_table(prepared.report_folder / "cells.parquet").to_pylist()
    gains = {
        (row["nominal"], row["alpha"]): row["gap_closed"]
        for row in rows
        if row["is_headline"] and row["task"] == "zero_shot" and row["pair"]
    }
    assert gains["dense", "0"] == 0
    assert gains["dense", "1"] > 0.6
    assert gains["dense", "adaptive"] > 0.6
    assert 0 < gains["50%", "1"] < gains["dense", "1"]


def test_the_report_and_the_plan_show_ensembles(
    finished: tuple[Prepared, subprocess.CompletedProcess[str]],
) -> None:
    prepared, _ = finished
    page = (prepared.report_folder / "report.html").read_text()
    assert "What the pairs gain" in page
    assert "tuned α adaptive" in page
    config = Path(prepared.store.root).parent / "proxy.toml"
    shown = run("-m", "earnest.cli", "plan", config).stdout
    assert "evaluate zero_shot of nano:large magnitude 50% + tuned α 1" in shown
    assert "9 cells, 19 steps: 19 done, 0 to run" in shown


def test_one_more_alpha_runs_only_its_own_steps(finished: tuple[Prepared, subprocess.CompletedProcess[str]]) -> None:
    prepared, _ = finished
    config = Path(prepared.store.root).parent / "more.toml"
    config.write_text((config.parent / "proxy.toml").read_text().replace("[0, 1, ", "[0, 0.5, 1, "))
    more = prepare(config)
    new = [more.plan.steps[digest] for digest in set(more.plan.steps) - more.done]
    assert {str(step.steering) for step in new} == {"tuned α 0.5"}
    assert len(new) == 4


TWIN = """
name = "twin"
model = "nano:small"
store = "{store}"
dtype = "float32"
[[compress]]
method = "magnitude"
sparsity = 0.6
[[proxy]]
name = "twin"
expert = "nano:small"
antiexpert = "nano:small"
compressed = ["antiexpert"]
bases = ["magnitude"]
[[tasks]]
task = "closed_book"
limit = 60
[[tasks]]
task = "perplexity"
limit = 10
length = 128
"""


def test_what_compression_cost_the_base_itself_is_won_back_whole(tmp_path: Path) -> None:
    """Base and antiexpert are one checkpoint, so base + (dense − checkpoint) is dense."""
    config = tmp_path / "twin.toml"
    config.write_text(TWIN.format(store=tmp_path / "store"))
    prepared = prepare(config)
    for step in prepared.plan.steps.values():
        run_step(step, prepared.store, "cpu", lambda note: None)
    dense, pruned, steered = collect(prepared.plan, prepared.store, {})
    assert pruned.comparisons["closed_book"].within_margin is False
    for task in ("closed_book", "perplexity"):
        won = steered.gains[task].won_back
        assert won is not None
        assert won.value == pytest.approx(1.0, abs=1e-4)
        assert steered.scores[task].main.value == pytest.approx(dense.scores[task].main.value, rel=1e-5)


def test_another_vocabulary_is_refused_before_any_work_with_the_first_token_that_differs(
    make_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    expert = make_tiny()
    tokenizer = json.loads((expert / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = sorted(token for token, place in vocabulary.items() if place in (700, 701))
    mine, theirs = vocabulary[first], vocabulary[second]
    vocabulary[first], vocabulary[second] = theirs, mine
    (expert / "tokenizer.json").write_text(json.dumps(tokenizer))
    done = run("jobs/proxy_tuning.py", write_config(tmp_path, expert=str(expert)))
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"token {first!r} is {mine} and {theirs} (2 tokens differ)" in done.stderr
    assert not list((tmp_path / "store").rglob("step.json"))


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ('[[proxy]]\nname = "p"\nexpert = "nano:absent"', "nano:absent"),
        ('[[proxy]]\nname = "p"\nexpert = "nano:small"\nbases = ["wanda"]', "no 'wanda' in this sweep"),
        ('[[proxy]]\nname = "p"\nexpert = "nano:small"\nalpha = nan', "alpha nan: write a finite number"),
        ('[[proxy]]\nname = "p"\nexpert = "nano:small"\nstrength = 1', "strength"),
        (
            """[[proxy]]
name = "p"
expert = "nano:small"
compressed = ["expert"]
[[compress]]
method = "rtn"
bits = 4
group_size = 32""",
            "does not divide the 48 inputs",
        ),
    ],
)
def test_a_pair_that_cannot_be_is_one_clear_line(
    extra: str, words: str, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert words in refused("plan", write_config(tmp_path, extra=extra))
