"""MLflow holds one run per cell, each metric once, and an outage loses nothing: all against a real MLflow."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from earnest.records import digest
from earnest.specs import UserError
from earnest.tracking.mlflow_runs import Tracker, check_uri, shown
from report.plausible import cell, sweep_cells
from tracking.servers import free_port, server

pytestmark = pytest.mark.slow

WARNINGS: list[str] = []


def tracker(store: Path, uri: str | None = None, experiment: str = "demo") -> Tracker:
    WARNINGS.clear()
    return Tracker(uri, experiment, str(store), WARNINGS.append)


def rows(store: Path, query: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store / "mlflow.db") as database:
        return database.execute(query).fetchall()


RUNS = "select count(*) from runs where lifecycle_stage = 'active'"
CELL_RUNS = """select count(*), count(distinct value) from tags t join runs r using (run_uuid)
               where key = 'earnest.cell' and lifecycle_stage = 'active'"""
METRICS = "select count(*) from metrics m join runs r using (run_uuid) where lifecycle_stage = 'active'"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database: making its tables takes MLflow seconds."""
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(database: Path, tmp_path: Path) -> Path:
    shutil.copyfile(database, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a whole sweep tracked in its own database."""
    store = tmp_path_factory.mktemp("store")
    report = store / "report.html"
    report.write_text("<p>what it cost</p>")
    cells = sweep_cells()
    sent = tracker(store).record(cells, {cells[0].key: [(report, "report")]})
    assert not WARNINGS
    assert sent == len(cells) + len({c.curve for c in cells} - {"dense"})
    return store


def test_every_cell_has_one_finished_run(tracked: Path) -> None:
    assert rows(tracked, CELL_RUNS) == [(30, 30)]
    assert rows(tracked, "select distinct status from runs") == [("FINISHED",)]


def test_grouped_by_method_no_two_dense_models_are_averaged(tracked: Path) -> None:
    query = """select value from tags where key = 'method' and value like 'dense%' order by value"""
    assert rows(tracked, query) == [("dense",), ("dense nano:medium",), ("dense nano:small",)]


def test_a_dense_model_has_a_size_to_compare_with(tracked: Path) -> None:
    query = """select m.key, m.value from metrics m join tags t using (run_uuid)
               where t.key = 'method' and t.value = 'dense' and m.key like 'compression/%' order by m.key"""
    assert rows(tracked, query) == [
        ("compression/bits_per_weight", 16.0),
        ("compression/ratio", 1.0),
        ("compression/saved", 0.0),
        ("compression/saved_of_touched", 0.0),
    ]


def test_no_metric_stands_twice_at_a_step(tracked: Path) -> None:
    assert rows(tracked, "select key from metrics group by run_uuid, key, step having count(*) > 1") == []


def test_a_cells_metrics_stand_at_the_percent_of_bytes_saved(tracked: Path) -> None:
    query = """select distinct step from metrics m join tags t using (run_uuid)
               where t.key = 'mlflow.runName' and t.value = 'nano:large wanda 50%'"""
    assert rows(tracked, query) == [(36,)]  # 0.4375 of the 1,706,240 touched bytes, of a file of 2,099,456


def test_every_methods_curve_starts_at_the_dense_point(tracked: Path) -> None:
    query = """select count(distinct run_uuid) from metrics m join tags t using (run_uuid)
               where t.key = 'earnest.curve' and m.key = 'curve/closed_book' and m.step = 0
               and abs(m.value - 0.913) < 1e-9"""
    curves = rows(tracked, "select count(*) from tags where key = 'earnest.curve'")
    assert rows(tracked, query) == curves == [(9,)]


def test_grouped_by_method_every_score_starts_at_the_dense_point(tracked: Path) -> None:
    query = """select distinct t.value from metrics m join tags t using (run_uuid)
               where t.key = 'method' and t.value != 'dense' and m.key = 'score/closed_book' and m.step = 0
               and abs(m.value - 0.913) < 1e-9"""
    methods = rows(tracked, "select distinct value from tags where key = 'method' and value not like 'dense%'")
    assert sorted(rows(tracked, query)) == sorted(methods)


def test_tracking_the_same_sweep_again_sends_nothing(tracked: Path) -> None:
    before = rows(tracked, RUNS), rows(tracked, METRICS)
    cells = sweep_cells()
    assert tracker(tracked).record(cells, {cells[0].key: [(tracked / "report.html", "report")]}) == 0
    assert (rows(tracked, RUNS), rows(tracked, METRICS)) == before
    assert list((tracked / "outbox").rglob("*.json")) == []


def test_files_become_artifacts_and_data_becomes_inputs(tracked: Path) -> None:
    kept = [path.relative_to(tracked / "mlartifacts").parts[1:] for path in (tracked / "mlartifacts").rglob("*.html")]
    assert kept == [("artifacts", "report", "report.html")]
    assert rows(tracked, "select name from datasets") == [("nano",)]
    assert rows(tracked, "select count(*) from inputs") == [(30,)]
    ((source,),) = rows(tracked, "select dataset_source from datasets")
    assert f"nano@{digest('nano')}" in str(source)


def test_artifacts_of_a_named_database_stay_in_the_store(
    store: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    report = store / "report.html"
    report.write_text("<p>what it cost</p>")
    dense = cell("dense", "", (91.3, 100.0, 100.0, 1.939))
    tracker(store, f"sqlite:///{store / 'mlflow.db'}").record([dense], {dense.key: [(report, "report")]})
    assert len(list((store / "mlartifacts").rglob("report.html"))) == 1
    assert list(elsewhere.iterdir()) == []


def test_a_new_task_is_added_to_the_run_that_is_there(store: Path) -> None:
    whole = cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))
    part = whole.model_copy(
        update={"scores": {"open_book": whole.scores["open_book"]}, "failures": {"perplexity": "out of memory"}}
    )
    tracker(store).record([part])
    first = rows(store, "select run_uuid, status from runs join tags using (run_uuid) where key = 'earnest.cell'")
    tracker(store).record([whole])
    second = rows(store, "select run_uuid, status from runs join tags using (run_uuid) where key = 'earnest.cell'")
    assert [status for _, status in first + second] == ["FAILED", "FINISHED"]
    assert first[0][0] == second[0][0]
    assert rows(store, "select key from tags where key like 'earnest.failure%'") == []
    assert rows(store, "select key from metrics group by run_uuid, key, step having count(*) > 1") == []


def test_a_score_that_changed_supersedes_the_run_which_stays_as_it_was(store: Path) -> None:
    tracker(store).record([cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))])
    tracker(store).record([cell("wanda", "0.5", (66.0, 98.7, 95.3, 2.032))])
    values = rows(
        store,
        "select t.value, m.value from metrics m join runs r using (run_uuid) join tags c using (run_uuid) "
        "join tags t using (run_uuid) where m.key = 'score/closed_book' and r.lifecycle_stage = 'active' "
        "and c.key = 'earnest.cell' and t.key = 'earnest.state' order by t.value",
    )
    assert values == [("current", 0.66), ("superseded", 0.653)]


def test_a_sender_that_died_half_way_leaves_no_second_run_and_no_running_one(store: Path) -> None:
    cells = [cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032)), cell("rtn", "4", (88.0, 100.0, 99.7, 1.946))]
    program = """
import os, sys
from mlflow import MlflowClient
whole = MlflowClient.log_batch
calls = []
def dies_at_the_second(self, *args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
        os._exit(9)
    whole(self, *args, **kwargs)
MlflowClient.log_batch = dies_at_the_second
from report.plausible import cell
from earnest.tracking.mlflow_runs import Tracker
cells = [cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032)), cell("rtn", "4", (88.0, 100.0, 99.7, 1.946))]
Tracker(None, "demo", sys.argv[1], print).record(cells)
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    died = subprocess.run([sys.executable, "-c", program, str(store)], env=environment, check=False)
    assert died.returncode == 9
    assert rows(store, "select count(*) from runs where status = 'RUNNING'") == [(0,)]
    assert tracker(store).flush() == 3  # one cell was whole; the torn one and both curves were not
    assert tracker(store).record(cells) == 0
    assert rows(store, CELL_RUNS) == [(2, 2)]
    assert rows(store, "select key from metrics group by run_uuid, key, step having count(*) > 1") == []


def test_a_server_that_is_down_costs_seconds_and_loses_nothing(store: Path) -> None:
    port = free_port()
    uri = f"http://ada:secret@127.0.0.1:{port}"
    cells = [cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))]
    began = time.monotonic()
    assert tracker(store, uri).record(cells) == 0
    assert time.monotonic() - began < 20
    assert len(WARNINGS) == 1
    assert "wait in the outbox" in WARNINGS[0]
    assert "secret" not in WARNINGS[0]
    with server(store, port):
        assert tracker(store, uri, experiment="the next sweep").flush() == 3
        assert tracker(store, uri).record(cells) == 0
    assert rows(store, CELL_RUNS) == [(2, 2)]
    assert rows(store, "select distinct status from runs") == [("FINISHED",)]
    assert rows(store, "select key from metrics group by run_uuid, key, step having count(*) > 1") == []


def test_no_secret_of_a_uri_is_shown() -> None:
    assert shown("https://ada:secret@mlflow.example:5000/?token=1") == "https://mlflow.example:5000/"
    assert shown("sqlite:////srv/store/mlflow.db") == "sqlite:////srv/store/mlflow.db"


@pytest.mark.parametrize("uri", ["nonsense", "nonsense://x", "localhost:5000", "postgres://ada:secret@db/runs"])
def test_a_tracking_uri_that_mlflow_would_misread_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match=r"unknown; use one that starts with sqlite:, postgresql:") as refused:
        check_uri(uri)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "uri",
    [
        "sqlite:///runs.db",
        "postgresql+psycopg2://db/runs",
        "mysql://db/runs",
        "http://h:5000",
        "https://h",
        "file:///srv",
        "./mlruns",
    ],
)
def test_a_tracking_uri_that_mlflow_knows_is_taken(uri: str) -> None:
    check_uri(uri)
