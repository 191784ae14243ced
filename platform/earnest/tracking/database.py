"""MLflow's sqlite database: made whole or not at all, and told from one whose making was broken off.

MLflow makes its tables in place, over many steps that sqlite does not undo together. Here they are made in a file
beside, which is then linked to its name: whoever dies meanwhile, or fills the disk, leaves no database that nobody can
open.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
import uuid
from pathlib import Path

PREFIX = "sqlite:///"
LEFT_S, STILL_S, PATIENCE_S = 600.0, 2.0, 60.0


class UnusableDatabaseError(RuntimeError):
    """A database that cannot be used and not be mended; the message says what to do."""


def ensure_database(uri: str) -> None:
    """Make the sqlite database of a tracking URI where there is none; set one aside whose making was broken off.

    Other URIs are left to MLflow.

    Raises:
        UnusableDatabaseError: the file is no database, or a broken one that holds runs.
        OSError: the disk is full, or the folder cannot be written.
    """
    path = database_path(uri)
    if path is None:
        return
    if path.is_file() and path.stat().st_size and _is_half_made(path) and _stays_half_made(path):
        path.rename(path.with_name(f"{path.name}.half-made-{time.time_ns() // 1_000_000}"))
    if not path.is_file() or not path.stat().st_size:
        _make(path)


def database_path(uri: str) -> Path | None:
    """The file behind a sqlite URI; None for anything else."""
    name = uri.removeprefix(PREFIX).partition("?")[0]
    return Path(name) if uri.startswith(PREFIX) and name and name != ":memory:" else None


def _is_half_made(path: Path) -> bool:
    """Whether MLflow's tables are there in part and hold nothing."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=20)) as opened:
            tables = {name for (name,) in opened.execute("select name from sqlite_master where type = 'table'")}
            if _is_current(opened, tables):
                return False
            # Each experiment has its first tags and runs from a whole database only.
            if "runs" in tables and opened.execute("select 1 from runs limit 1").fetchone():
                return _refuse_unless_old(path, opened, tables)
            return not (tables - {"alembic_version"}) or "experiments" in tables
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked for long, or unreadable: not the file's fault
            raise UnusableDatabaseError(f"{path.name}: {error}") from error
        raise UnusableDatabaseError(f"{path.name}: {error}; {_remedy(path)}") from error


def _is_current(opened: sqlite3.Connection, tables: set[str]) -> bool:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return "alembic_version" in tables and opened.execute("select version_num from alembic_version").fetchall() == [
        (_get_latest_schema_revision(),)
    ]


def _refuse_unless_old(path: Path, opened: sqlite3.Connection, tables: set[str]) -> bool:
    """A database with runs is none that was broken off in the making; one of an older MLflow is brought up to date."""
    versions = opened.execute("select 1 from alembic_version").fetchall() if "alembic_version" in tables else []
    if not versions:
        raise UnusableDatabaseError(f"{path.name}: MLflow's tables are not whole; {_remedy(path)}")
    return False


def _stays_half_made(path: Path) -> bool:
    """Whether nobody is making it right now: it does not change for a while."""
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up:
        before = _shape(path)
        time.sleep(STILL_S)
        if not path.is_file() or not _is_half_made(path):
            return False
        if _shape(path) == before:
            return True
    raise UnusableDatabaseError(f"{path.name}: another process makes it since {PATIENCE_S:.0f} s; try again later")


def _shape(path: Path) -> tuple[int, int]:
    return (path.stat().st_size, path.stat().st_mtime_ns)


def _make(path: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left_over(path)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.making")
    try:
        made = SqlAlchemyStore(f"{PREFIX}{beside}", (path.parent / "mlartifacts").absolute().as_uri())
        made.engine.dispose()
        if path.is_file() and not path.stat().st_size:
            beside.replace(path)
        else:
            with contextlib.suppress(FileExistsError):  # somebody else was faster
                os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Remove what a maker that was killed left beside, once it is old."""
    for left in path.parent.glob(f".{path.name}.*.making*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > LEFT_S:
                left.unlink()


def _remedy(path: Path) -> str:
    return f"move it away (mv {path} {path}.broken) and send all runs again from the store with earnest track SWEEP"
