"""A sweep and its runs in MLflow: cell by cell while it runs, told when that fails, and sent again from the store."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from mlflow import MlflowClient
from rich.console import Console

from earnest.cluster import events
from earnest.plan import COMPRESS, EVALUATE, Plan, Step
from earnest.specs import UserError, read_sweep
from earnest.store import Store
from earnest.sweep import prepare, tracking_of
from earnest.tracked import SweepTracking, steps_of
from test_sweep import SMALL, earnest, write_config
from tracking.servers import free_port

pytestmark = pytest.mark.slow

CELLS = """select t.value, r.status from runs r join tags t using (run_uuid) join tags c using (run_uuid)
           where c.key = 'earnest.cell' and t.key = 'earnest.state' and r.lifecycle_stage = 'active'"""


def cell_runs(store: Path) -> list[tuple[str, str]]:
    if not (store / "mlflow.db").is_file():
        return []
    with sqlite3.connect(f"file:{store / 'mlflow.db'}?mode=ro", uri=True) as database:
        return database.execute(CELLS).fetchall()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory, database: Path) -> tuple[Path, list[int]]:
    """A sweep's folder, and how many cells MLflow had each time that the sweep, still running, was looked at.

    Another driver holds the last step until MLflow has a cell, or a minute has gone: a machine may be too fast else.
    """
    folder = tmp_path_factory.mktemp("swept")
    (folder / "store").mkdir()
    shutil.copyfile(database, folder / "store" / "mlflow.db")
    config = write_config(folder)
    prepared = prepare(config)
    last, other = next(reversed(prepared.plan.steps)), prepared.store.leases("other")
    other.start()
    assert other.take(last)
    give_up = time.monotonic() + 60
    with subprocess.Popen(**started("sweep", config)) as running:
        seen = []
        while running.poll() is None:
            if any(seen) or time.monotonic() > give_up:
                other.give_back(last)
            steps = sum(len(list((folder / "store" / kind).glob("[!.]*/step.json"))) for kind in (COMPRESS, EVALUATE))
            if steps < 11:
                seen.append(len(cell_runs(folder / "store")))
            time.sleep(0.1)
        assert running.returncode == 0
    other.end()
    return folder, seen


def started(*arguments: object) -> dict[str, Any]:
    import os
    import sys

    return {
        "args": [str(Path(sys.executable).parent / "earnest"), *map(str, arguments)],
        "env": {**os.environ, "RAY_AUTH_MODE": "disabled"},
        "stdout": subprocess.DEVNULL,
    }


def copied(swept: tuple[Path, list[int]], database: Path, tmp_path: Path) -> Path:
    """The finished steps in a store of their own, which MLflow knows nothing of; returns the sweep's file."""
    for kind in (COMPRESS, EVALUATE):
        shutil.copytree(swept[0] / "store" / kind, tmp_path / "store" / kind)
    shutil.copyfile(database, tmp_path / "store" / "mlflow.db")
    return write_config(tmp_path)


def test_cells_are_in_mlflow_while_the_sweep_still_runs(swept: tuple[Path, list[int]]) -> None:
    folder, seen = swept
    assert max(seen) > 0
    assert sorted(cell_runs(folder / "store")) == [("current", "FINISHED")] * 4


def test_a_finished_sweep_says_how_it_stands_and_where_its_runs_come_from(swept: tuple[Path, list[int]]) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{swept[0] / 'store' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small")
    assert "small: 4 of 4 cells whole" in experiment.tags["mlflow.note.content"]
    runs = client.search_runs([experiment.experiment_id])
    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    head = subprocess.run(asked, capture_output=True, text=True, check=False)
    for run in runs:
        assert run.data.tags["mlflow.source.name"].startswith("earnest sweep ")
        assert run.data.tags.get("mlflow.source.git.commit", "") == head.stdout.strip()
    models = client.search_logged_models([experiment.experiment_id])
    assert len(models) == 3
    assert all(Path(model.tags["earnest.checkpoint"]).is_dir() for model in models)


def finished(step: Step, plan: Plan) -> events.StepFinished:
    return events.StepFinished(step, step.label, "worker", 1.0, 1, len(plan.steps))


def until(store: Path, count: int) -> bool:
    give_up = time.monotonic() + 60
    while time.monotonic() < give_up:
        if len(cell_runs(store)) == count:
            return True
        time.sleep(0.05)
    return False


def test_a_cell_is_told_when_its_last_step_ends_and_no_sooner(
    swept: tuple[Path, list[int]], database: Path, tmp_path: Path
) -> None:
    prepared = prepare(copied(swept, database, tmp_path))
    plan, store = prepared.plan, tmp_path / "store"
    tracking = tracking_of(prepared, Console(file=io.StringIO()))
    told: list[events.Event] = []
    with tracking.following(told.append) as observe:
        observe(events.Planned(len(plan.steps), frozenset()))
        observe(events.StepStarted(next(iter(plan.steps.values())), "first", "worker"))
        ended: set[str] = set()
        for step in plan.steps.values():
            ended.add(step.digest)
            observe(finished(step, plan))
            assert until(store, sum(steps_of(cell) <= ended for cell in plan.cells))
    assert len(told) == 2 + len(plan.steps)
    assert sorted(cell_runs(store)) == [("current", "FINISHED")] * 4
    client = MlflowClient(tracking_uri=f"sqlite:///{store / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("small").experiment_id
    first = {run.info.run_id for run in client.search_runs([experiment])}
    metrics = {key for run in client.search_runs([experiment]) for key in run.data.metrics}
    assert "score/perplexity" in metrics
    assert not any(key.endswith(("/verdict", "/p")) for key in metrics)  # claims are made of all cells together
    assert tracking_of(prepared, Console(file=io.StringIO())).record([], None)
    from earnest.cells import collect

    assert tracking.record(collect(plan, prepared.store, {}), None)
    runs = client.search_runs([experiment])
    assert {run.info.run_id for run in runs} == first  # completed, not made anew
    assert any(key.endswith("/verdict") for run in runs for key in run.data.metrics)


def test_a_sweep_that_is_stopped_tells_what_is_ready(
    swept: tuple[Path, list[int]], database: Path, tmp_path: Path
) -> None:
    prepared = prepare(copied(swept, database, tmp_path))
    mine = steps_of(prepared.plan.cells[1]) | steps_of(prepared.plan.cells[0])

    def stopped() -> None:
        with tracking_of(prepared, Console(file=io.StringIO())).following(lambda _: None) as observe:
            observe(events.Planned(len(prepared.plan.steps), frozenset()))
            for digest in mine:
                observe(finished(prepared.plan.steps[digest], prepared.plan))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert until(tmp_path / "store", 2)


def test_tracking_that_failed_is_the_last_line_and_where_required_the_exit_code(
    swept: tuple[Path, list[int]], database: Path, tmp_path: Path
) -> None:
    config = copied(swept, database, tmp_path)
    uri = f"http://ada:secret@127.0.0.1:{free_port()}"
    done = earnest("sweep", config, "--tracking-uri", uri)
    assert done.returncode == 0, done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("tracking failed: 6 runs wait (http://127.0.0.1:")
    assert "send them with: earnest track" in last
    assert "secret" not in done.stdout + done.stderr
    config.write_text(config.read_text() + "[tracking]\nrequired = true\n")
    required = earnest("sweep", config, "--tracking-uri", uri)
    assert required.returncode == 3
    assert required.stdout.strip().splitlines()[-1].startswith("tracking failed: 6 runs wait")
    assert earnest("track", config, "--tracking-uri", uri).returncode == 3
    sent = earnest("track", config)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    assert "tracking failed" not in sent.stdout
    assert sorted(cell_runs(tmp_path / "store")) == [("current", "FINISHED")] * 4


def test_nothing_to_track_is_told(tmp_path: Path) -> None:
    done = earnest("track", write_config(tmp_path))
    assert done.returncode == 2
    assert "run earnest sweep" in done.stderr


def test_artifacts_come_from_a_bucket_too(swept: tuple[Path, list[int]], database: Path, tmp_path: Path) -> None:
    folder, _ = swept
    root = f"memory://tracked-{time.time_ns()}"
    bucket = fsspec.filesystem("memory")
    for kind in (COMPRESS, EVALUATE):
        bucket.put(str(folder / "store" / kind), f"{root}/{kind}", recursive=True)
    prepared = prepare(folder / "store.toml")
    shutil.copyfile(database, tmp_path / "mlflow.db")
    tracking = SweepTracking(prepared.sweep, prepared.plan, Store(root), tmp_path, None, pytest.fail)
    from earnest.cells import collect

    assert tracking.record(collect(prepared.plan, Store(root), {}), None)
    kept = sorted(path.relative_to(tmp_path).parts[-2:] for path in (tmp_path / "mlartifacts").rglob("*.*"))
    per_cell = [("closed_book", "samples.parquet"), ("perplexity", "samples.parquet")]
    assert kept == sorted(4 * per_cell + 3 * [("compress", "manifest.json")])
    other = replace(tracking, store=Store(f"{root}-other"))
    assert other.tracker.store != tracking.tracker.store


def test_what_is_required_must_be_enabled_and_a_registry_names_a_task(tmp_path: Path) -> None:
    for more, told in (
        ("[tracking]\nrequired = true\nenabled = false\n", "required = true wants enabled = true"),
        ('[tracking.registry]\nmodel = "m"\nby = "mmlu"\n', "no task 'mmlu' in this sweep"),
        ('[tracking.registry]\nmodel = "a/b"\n', "model"),
    ):
        path = tmp_path / "sweep.toml"
        path.write_text(SMALL.format(store="store") + more)
        with pytest.raises(UserError, match=told):
            read_sweep(path)


def test_a_submitted_job_on_a_bucket_must_name_a_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    config = write_config(tmp_path)
    with pytest.raises(UserError, match="name a server with --tracking-uri"):
        prepare(config, store="memory://tracked-in-a-job")


def test_the_registry_gets_the_best_of_each_size(swept: tuple[Path, list[int]], database: Path, tmp_path: Path) -> None:
    config = copied(swept, database, tmp_path)
    config.write_text(config.read_text() + '[tracking.registry]\nmodel = "small-compressed"\nby = "perplexity"\n')
    prepared = prepare(config)
    from earnest.cells import collect

    cells = collect(prepared.plan, prepared.store, {})
    assert tracking_of(prepared, Console(file=io.StringIO())).record(cells, None)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'store' / 'mlflow.db'}")
    aliases = client.get_registered_model("small-compressed").aliases
    assert sorted(aliases) == ["best-30pct", "best-4bit", "best-50pct"]
    version = client.get_model_version_by_alias("small-compressed", "best-4bit")
    manifest = json.loads((Path(version.tags["earnest.checkpoint"]) / "manifest.json").read_text())
    assert manifest["method"]["method"] == "gptq"
