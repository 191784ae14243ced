"""Eight senders at once on a server behind PostgreSQL, answers refused and dropped: nothing lost, nothing twice."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from tracking.servers import Proxy, free_port, postgres, postgres_programs, proxy, server

PROGRAMS = postgres_programs()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAMS is None, reason="no PostgreSQL server here: apt-get install postgresql"),
    pytest.mark.skipif(importlib.util.find_spec("psycopg2") is None, reason="no psycopg2: pip install psycopg2-binary"),
]
WRITERS, SWEEPS = 8, 4

WRITER = """
import sys
from earnest.records import digest
from earnest.tracking.entries import Checkpoint
from earnest.tracking.mlflow_runs import Tracker
from report.plausible import cell
url, folder, store, sweep = sys.argv[1:]
cells = [cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032)),
         cell("rtn", "4", (88.0, 100.0, 99.7, 1.946))]
cells = [one.model_copy(update={"sweep": sweep}) for one in cells]
kept = {one.key: Checkpoint(digest(one.key), one.label, "/store") for one in cells[1:]}
tracker = Tracker(url, "shared", folder, print, store=store)
tracker.record(cells, {}, kept, whole=True)
tries = 0
while tracker.failure is not None and tries < 20:
    tracker.flush()
    tries += 1
sys.exit(tracker.failure is not None or tracker.waiting > 0)
"""


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    assert PROGRAMS is not None
    folder = Path("/tmp") / f"pg-{os.getpid()}"  # another user must reach it, and its socket's path must be short
    port = free_port()
    with (
        postgres(folder, PROGRAMS) as backend,
        server(tmp_path_factory.mktemp("server"), port, backend, workers=2),
    ):
        yield port


@pytest.fixture
def between(port: int) -> Iterator[Proxy]:
    with proxy(port) as standing:
        yield standing


def test_eight_senders_lose_nothing_and_say_nothing_twice(port: int, between: Proxy, tmp_path: Path) -> None:
    """Two senders for each of four sweeps, so that some also tell the very same runs at the same time."""
    for path, fault, times in (
        ("runs/create", "lose", 6), ("runs/log-batch", "lose", 4), ("runs/update", 500, 4), ("log-inputs", 429, 6),
        ("runs/search", 401, 3), ("logged-models/search", "lose", 3), ("runs/get-metric", 500, 2),
        ("runs/set-tag", 429, 2), ("experiments/create", "lose", 1),
    ):  # fmt: skip
        between.faults[path] = (fault, times)
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])

    def writer(n: int) -> subprocess.Popen[bytes]:
        who = f"store-{n % SWEEPS}", f"sweep-{n % SWEEPS}"
        return subprocess.Popen(
            [sys.executable, "-c", WRITER, between.url, str(tmp_path / str(n)), *who],
            env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    writers = [writer(n) for n in range(WRITERS)]
    assert [writer.wait(timeout=400) for writer in writers] == [0] * WRITERS
    assert len(between.lost) >= 20
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    for experiment, each in (("shared", 3), ("shared curves", 2)):
        found = client.get_experiment_by_name(experiment)
        runs = client.search_runs([found.experiment_id], max_results=1000)
        current = [run for run in runs if run.data.tags.get("earnest.state") == "current"]
        assert len(current) == len({run.data.tags["earnest.key"] for run in current}) == each * SWEEPS
        assert {run.info.status for run in runs} == {"FINISHED"}
        assert [run.info.run_name for run in runs if "earnest.content" not in run.data.tags] == []
        for run in current:
            key = "score/closed_book"
            points = client.get_metric_history(run.info.run_id, key)
            assert len(points) == len({(point.step, point.value) for point in points}) > 0
        deleted = client.search_runs([found.experiment_id], run_view_type=ViewType.DELETED_ONLY, max_results=1000)
        assert all(run.data.tags["earnest.key"] in {one.data.tags["earnest.key"] for one in current} for run in deleted)
