"""A benchmark of the user's own in a sweep: planned by what it consists of, asked on workers, never asked twice."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from earnest.cells import collect
from earnest.cluster.driver import run_plan
from earnest.sweep import prepare
from evaluation.benchmarks import write_benchmarks

pytestmark = pytest.mark.slow

SWEEP = """
name = "asked"
model = "nano:small"
store = "{store}"
[[compress]]
method = "magnitude"
sparsity = 0.6
[[tasks]]
task = "lm_eval:nano_choice"
include = "benchmarks"
[[tasks]]
task = "lm_eval:nano_write"
include = "benchmarks"
shots = 2
limit = 10
[cluster]
gpus_per_worker = 0
"""


def test_a_sweep_asks_the_users_benchmarks_on_workers_and_nothing_twice(
    ensure_ray: Callable[[], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_ray()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks").mkdir()
    write_benchmarks(tmp_path / "benchmarks")
    config = tmp_path / "sweep.toml"
    config.write_text(SWEEP.format(store=tmp_path / "store"), encoding="utf-8")
    prepared = prepare(config)
    outcome = run_plan(prepared.plan, prepared.store, prepared.sweep.cluster, on_event=lambda _: None)
    assert outcome.complete, outcome

    dense, pruned = collect(prepared.plan, prepared.store, {})
    choice, written = dense.scores["lm_eval.nano_choice"], dense.scores["lm_eval.nano_write"]
    assert (choice.headline, choice.asked) == ("acc", 16)
    assert (written.headline, written.asked) == ("exact_match_strict_match", 10)
    assert pruned.comparisons["lm_eval.nano_choice"].relative is not None
    assert pruned.comparisons["lm_eval.nano_choice"].flips is not None
    assert set(choice.groups) == {"domain"}

    shutil.copytree("benchmarks", tmp_path / "elsewhere" / "benchmarks")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert set(prepare(config).plan.steps) == prepared.done == set(prepared.plan.steps)
