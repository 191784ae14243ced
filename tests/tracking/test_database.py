"""MLflow's database is made whole or not at all; one whose making was broken off heals, and loses nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from earnest.tracking.database import UnusableDatabaseError, database_path, ensure_database
from earnest.tracking.mlflow_runs import Tracker
from report.plausible import cell

pytestmark = pytest.mark.slow

CELLS = [cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))]
MAKE_IN_PLACE = """
import sys
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
SqlAlchemyStore("sqlite:///" + sys.argv[1], "./artifacts")
"""
ENSURE = """
import sys
from earnest.tracking.database import ensure_database
ensure_database("sqlite:///" + sys.argv[1])
"""


def tables(path: Path) -> set[str]:
    with sqlite3.connect(path) as opened:
        return {name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")}


def started(program: str, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": "/tmp"}
    )


@pytest.fixture(scope="module")
def half_made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What MLflow leaves when it is killed while it makes its tables in place."""
    path = tmp_path_factory.mktemp("killed") / "mlflow.db"
    making = started(MAKE_IN_PLACE, path)
    while not path.is_file() or "model_versions" not in tables(path):
        assert making.poll() is None
        time.sleep(0.01)
    os.kill(making.pid, signal.SIGKILL)
    making.wait()
    return path


def test_a_database_whose_making_was_killed_heals(half_made: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(half_made.read_bytes())
    warnings: list[str] = []
    tracker = Tracker(None, "demo", str(tmp_path), warnings.append)
    assert tracker.record(CELLS) == 3
    assert (warnings, tracker.failure) == ([], None)
    (kept,) = tmp_path.glob("mlflow.db.half-made-*")
    assert kept.read_bytes() == half_made.read_bytes()
    assert Tracker(None, "demo", str(tmp_path), pytest.fail).record(CELLS) == 0


def test_whoever_dies_while_making_a_database_leaves_none(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    making = started(ENSURE, path)
    while not list(tmp_path.glob(".mlflow.db.*.making")):
        assert making.poll() is None
        time.sleep(0.01)
    os.kill(making.pid, signal.SIGKILL)
    making.wait()
    assert not path.exists()


def test_a_disk_that_fills_while_a_database_is_made_leaves_none_and_is_told(tmp_path: Path) -> None:
    program = """
import resource, sys
from earnest.tracking.mlflow_runs import Tracker
from report.plausible import cell
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tracker = Tracker(None, "demo", sys.argv[1], print)
tracker.record([cell("dense", "", (91.3, 100.0, 100.0, 1.939))])
print("failure", tracker.failure is not None, "waiting", tracker.waiting)
"""
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "failure True waiting 1" in done.stdout
    assert "1 runs wait in the outbox" in done.stdout
    assert not (tmp_path / "mlflow.db").exists()
    assert Tracker(None, "demo", str(tmp_path), pytest.fail).flush() == 1


def test_of_two_that_make_a_database_at_once_both_find_it_whole(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    makers = [started(ENSURE, path) for _ in range(2)]
    assert [maker.wait(timeout=120) for maker in makers] == [0, 0]
    assert {"runs", "experiments", "alembic_version"} <= tables(path)
    assert [name.name for name in tmp_path.iterdir()] == ["mlflow.db"]


def test_a_file_that_is_no_database_is_told_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(b"not a database at all, but long enough to look at" * 100)
    with pytest.raises(UnusableDatabaseError, match=r"move it away \(mv .* earnest track"):
        ensure_database(f"sqlite:///{path}")
    warnings: list[str] = []
    tracker = Tracker(None, "demo", str(tmp_path), warnings.append)
    assert tracker.record(CELLS) == 0
    assert len(warnings) == 1
    assert "earnest track" in warnings[0]
    path.rename(tmp_path / "broken")
    assert tracker.flush() == 3


def test_a_torn_database_with_runs_in_it_is_left_alone(half_made: Path, tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_bytes(half_made.read_bytes())
    with sqlite3.connect(path) as opened:
        opened.execute("delete from alembic_version")
        opened.execute("insert into runs (run_uuid, name) values ('r', 'somebody''s')")
    before = path.read_bytes()
    with pytest.raises(UnusableDatabaseError, match="earnest track"):
        ensure_database(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_only_sqlite_files_are_looked_after() -> None:
    assert database_path("sqlite:////srv/mlflow.db") == Path("/srv/mlflow.db")
    assert [database_path(uri) for uri in ("http://h:5000", "postgresql://h/db", "sqlite:///:memory:")] == [None] * 3
