"""The dashboard serves MLflow on saved charts that name only what was tracked."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow import MlflowClient

from earnest.specs import UserError
from earnest.tracking.dashboard import open_dashboard
from earnest.tracking.mlflow_runs import Tracker
from report.plausible import cell

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("store")
    cells = [cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))]
    Tracker(None, "demo", str(store), pytest.fail).record(cells)
    return store


def test_the_saved_charts_show_what_the_curves_hold_and_hide_the_rest(tracked: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tracked / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo curves")
    view = json.loads(experiment.tags["mlflow.sharedViewState.earnest"])
    (curve,) = client.search_runs([experiment.experiment_id], view["searchFilter"])
    shown = {chart["metricKey"] for chart in view["compareRunCharts"] if not chart["deleted"]}
    hidden = {chart["metricKey"] for chart in view["compareRunCharts"] if chart["deleted"]}
    assert shown == {"curve/perplexity", "curve/closed_book", "curve/open_book", "curve/multiple_choice"}
    assert shown | hidden == set(curve.data.metrics)


def test_the_list_of_runs_holds_the_cells_alone(tracked: Path) -> None:
    client = MlflowClient(tracking_uri=f"sqlite:///{tracked / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("demo")
    view = json.loads(experiment.tags["mlflow.sharedViewState.earnest"])
    listed = client.search_runs([experiment.experiment_id], view["searchFilter"])
    assert {run.info.run_name for run in listed} == {"nano:large dense", "nano:large wanda 50%"}
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_the_dashboard_is_up_at_the_address_it_tells(tracked: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with open_dashboard("demo", store_root=str(tracked), uri=None, port=port) as (urls, server):
        assert urls.runs.startswith(f"http://127.0.0.1:{port}/#/experiments/1/runs?viewStateShareKey=earnest")
        assert urls.charts.startswith(f"http://127.0.0.1:{port}/#/experiments/2/runs?viewStateShareKey=earnest")
        with urllib.request.urlopen(urls.charts, timeout=20) as page:
            assert b"<html" in page.read()
    assert server is not None
    assert server.poll() is not None


def test_sigterm_ends_the_server_and_its_workers(tracked: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = f"""
from earnest.tracking.dashboard import serve_dashboard
serve_dashboard("demo", store_root={str(tracked)!r}, uri=None, port={port}, tell=lambda line: print(line, flush=True))
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dashboard:
        assert dashboard.stdout is not None
        assert "MLflow" in dashboard.stdout.readline()
        children = Path(f"/proc/{dashboard.pid}/task/{dashboard.pid}/children").read_text().split()
        assert len(children) == 1
        dashboard.terminate()
        assert dashboard.wait(timeout=30) == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(int(children[0]), 0)


@pytest.mark.parametrize("port", [0, 65536])
def test_a_number_that_is_no_port_is_refused(tracked: Path, port: int) -> None:
    with (
        pytest.raises(UserError, match=f"port {port}: a port is between 1 and 65535"),
        open_dashboard("demo", store_root=str(tracked), uri=None, port=port),
    ):
        pass


def test_a_name_that_was_not_tracked_is_refused_with_those_that_were(tracked: Path) -> None:
    with (
        pytest.raises(UserError, match=r"'nothing': not among those tracked \(demo\)"),
        open_dashboard("nothing", store_root=str(tracked), uri=None, port=1),
    ):
        pass


def test_a_store_without_runs_is_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="run a sweep first"),
        open_dashboard("demo", store_root=str(tmp_path), uri=None, port=1),
    ):
        pass
