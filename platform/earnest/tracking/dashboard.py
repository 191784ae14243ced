"""`earnest dashboard`: an MLflow server on this machine, opened on the sweep's saved charts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from earnest.specs import UserError
from earnest.tracking.database import UnusableDatabaseError, ensure_database
from earnest.tracking.mlflow_runs import CURVES_SUFFIX, shown
from earnest.tracking.session import quiet_environment
from earnest.tracking.views import view_path

HOST = "127.0.0.1"
START_SECONDS = 90.0
MAX_PORT = 65535


def serve_dashboard(
    experiment: str, *, store_root: str, uri: str | None, port: int, tell: Callable[[str], None]
) -> None:
    """Serve the saved charts until Ctrl-C or SIGTERM. Where MLflow is a server already, only tell its address.

    Raises:
        UserError: nothing was tracked under that name, or the port is taken or none.
    """
    with _sigterm_exits(), open_dashboard(experiment, store_root=store_root, uri=uri, port=port) as (urls, server):
        tell(f"MLflow   {urls.charts}")
        tell(f"Runs     {urls.runs}")
        if server is not None:
            tell("Ctrl-C ends it.")
            with contextlib.suppress(KeyboardInterrupt):
                server.wait()


@dataclass(frozen=True)
class Pages:
    """The pages of an experiment: its saved charts, and the list of its current runs."""

    charts: str
    runs: str


@contextlib.contextmanager
def open_dashboard(
    experiment: str, *, store_root: str, uri: str | None, port: int
) -> Iterator[tuple[Pages, subprocess.Popen[bytes] | None]]:
    """The pages' URLs, and the server's process where one had to be started; it ends with the block.

    Raises:
        UserError: nothing was tracked under that name, the port is none, or the server did not come up.
    """
    if not 1 <= port <= MAX_PORT:
        raise UserError(f"port {port}: a port is between 1 and {MAX_PORT}; choose another with --port")
    quiet_environment()
    backend = uri or f"sqlite:///{_database(store_root)}"
    runs, charts = _experiment_ids(backend, experiment)
    paths = view_path(charts), view_path(runs, "TABLE")
    if backend.startswith(("http://", "https://")):
        yield Pages(*(shown(backend).rstrip("/") + path for path in paths)), None
        return
    with _server(backend, port) as server:
        yield Pages(*(f"http://{HOST}:{port}{path}" for path in paths)), server


@contextlib.contextmanager
def _sigterm_exits() -> Iterator[None]:
    """Within the block SIGTERM exits in the orderly way, so that the server ends too: by itself it would live on."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _database(store_root: str) -> Path:
    path = Path(store_root).expanduser().resolve() / "mlflow.db"
    if not path.is_file():
        raise UserError(f"{path}: no tracked runs there; run a sweep first, or name its store with --store")
    return path


def _experiment_ids(uri: str, experiment: str) -> tuple[str, str]:
    """The ids of an experiment and of that with its curves; where a sweep has no curves, the first twice."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        ensure_database(uri)
        client = MlflowClient(tracking_uri=uri)
        found, curves = (client.get_experiment_by_name(experiment + suffix) for suffix in ("", CURVES_SUFFIX))
        names = [e.name for e in client.search_experiments(max_results=100) if not _is_beside(e.name)]
    except UnusableDatabaseError as error:
        raise UserError(str(error)) from None
    except MlflowException:
        raise UserError(
            f"{shown(uri)}: MLflow does not answer there; start the server or check --tracking-uri"
        ) from None
    if found is None:
        raise UserError(f"experiment {experiment!r}: not among those tracked ({', '.join(names) or 'none'})")
    return str(found.experiment_id), str((curves or found).experiment_id)


def _is_beside(name: str) -> bool:
    """Whether an experiment is MLflow's own first one, or holds another's curves."""
    return bool(name == "Default" or name.endswith(CURVES_SUFFIX))


@contextlib.contextmanager
def _server(backend: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    # The backend's URI may hold a password, and arguments can be seen by everyone on the machine.
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": backend,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    quiet = subprocess.DEVNULL
    # Only this program's own words are in the command.
    server = subprocess.Popen(  # noqa: S603
        command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    )
    try:
        _wait_until_up(server, port)
        yield server
    finally:
        _end(server)


def _wait_until_up(server: subprocess.Popen[bytes], port: int) -> None:
    give_up = time.monotonic() + START_SECONDS
    while time.monotonic() < give_up:
        if server.poll() is not None:
            raise UserError(
                f"port {port}: MLflow's server ended at once; the port may be taken, choose another with --port"
            )
        if _is_up(port):
            return
        time.sleep(0.3)
    raise UserError(f"port {port}: MLflow's server did not come up in {START_SECONDS:.0f} s")


def _is_up(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, which live in a process group of their own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(timeout=10)
    with contextlib.suppress(ProcessLookupError):  # a worker may outlive the server
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
