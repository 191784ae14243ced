"""Nothing is lost and nothing stands twice: lost answers, colleagues, one's own changes of mind; on a real server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from earnest.records import CellRecord
from earnest.tracking.mlflow_runs import Tracker
from report.plausible import cell
from tracking.servers import Proxy, free_port, proxy, server

pytestmark = pytest.mark.slow

DENSE = cell("dense", "", (91.3, 100.0, 100.0, 1.939))
WANDA = cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))
RTN = cell("rtn", "4", (88.0, 100.0, 99.7, 1.946))
CELLS = [DENSE, WANDA, RTN]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with server(tmp_path_factory.mktemp("server"), port):
        yield port


@pytest.fixture
def between(port: int) -> Iterator[Proxy]:
    with proxy(port) as standing:
        yield standing


class Tracked:
    """One person's tracker on the shared server, and the runs of an experiment as a reviewer reads them."""

    def __init__(self, url: str, store: Path, experiment: str) -> None:
        self.warnings: list[str] = []
        self.experiment, self.url = experiment, url
        self.tracker = Tracker(url, experiment, str(store), self.warnings.append)

    def record(self, cells: list[CellRecord], *, whole: bool = True) -> int:
        return self.tracker.record(cells, whole=whole)


def runs(port: int, experiment: str, view: int = ViewType.ACTIVE_ONLY) -> list[Run]:
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    found = client.get_experiment_by_name(experiment)
    return [] if found is None else list(client.search_runs([found.experiment_id], run_view_type=view))


def states(found: list[Run]) -> Counter[str]:
    return Counter(run.data.tags.get("earnest.state", "incomplete") for run in found)


def without(one: CellRecord, task: str) -> CellRecord:
    """The cell as a sweep without that task gives it."""
    fields: dict[str, Any] = {
        name: {key: value for key, value in getattr(one, name).items() if key != task}
        for name in ("scores", "comparisons", "seconds", "steps", "datasets")
    }
    return one.model_copy(update=fields)


@pytest.mark.parametrize("times", [1, 3])
def test_an_answer_lost_while_a_run_is_made_leaves_the_whole_run_alone(
    port: int, between: Proxy, tmp_path: Path, times: int
) -> None:
    name = f"lost-create-{times}"
    between.faults["runs/create"] = ("lose", times)
    person = Tracked(between.url, tmp_path, name)
    person.record(CELLS)
    assert len(between.lost) == times
    assert person.tracker.failure is None
    found = runs(port, name)
    assert sorted(run.info.run_name for run in found) == [
        "nano:large dense", "nano:large rtn 4 bits g32", "nano:large wanda 50%",
    ]  # fmt: skip
    assert {run.info.status for run in found} == {"FINISHED"}
    assert states(found) == {"current": 3}
    assert all(len(run.data.metrics) > 20 for run in found)
    deleted = runs(port, name, ViewType.DELETED_ONLY)
    assert deleted
    assert all(not run.data.metrics for run in deleted)
    assert person.record(CELLS) == 0


@pytest.mark.parametrize("path", ["runs/log-batch", "runs/update", "runs/log-inputs", "experiments/create"])
def test_an_answer_lost_at_any_other_call_says_nothing_twice(
    port: int, between: Proxy, tmp_path: Path, path: str
) -> None:
    name = f"lost-{path.replace('/', '-')}"
    between.faults[path] = ("lose", 1)
    person = Tracked(between.url, tmp_path, name)
    person.record(CELLS)
    found = runs(port, name)
    assert states(found) == {"current": 3}
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    for run in found:
        histories = [
            client.get_metric_history(run.info.run_id, key) for key in ("score/closed_book", "speed/perplexity")
        ]
        assert [len(history) for history in histories] == [1, 1]


def test_a_colleagues_sweep_of_the_same_name_leaves_the_other_runs_alone(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}"
    ada, ben = (Tracked(url, tmp_path / who, "team") for who in ("ada", "ben"))
    ada.record(CELLS)
    before = {run.info.run_id: (run.data.metrics, run.data.tags) for run in runs(port, "team")}
    ben.record([without(one, "perplexity") for one in CELLS])
    after = {run.info.run_id: (run.data.metrics, run.data.tags) for run in runs(port, "team", ViewType.ALL)}
    assert len(before) == 3
    assert len(after) == 6
    assert before.items() <= after.items()
    assert not ada.warnings + ben.warnings


def test_a_trimmed_config_supersedes_its_runs_and_the_old_config_brings_them_back(port: int, tmp_path: Path) -> None:
    person = Tracked(f"http://127.0.0.1:{port}", tmp_path, "trimmed")
    person.record(CELLS)
    first = {run.info.run_id for run in runs(port, "trimmed")}
    person.record([without(one, "perplexity") for one in CELLS])
    found = runs(port, "trimmed", ViewType.ALL)
    assert {run.info.lifecycle_stage for run in found} == {"active"}
    assert states(found) == {"current": 3, "superseded": 3}
    old = [run for run in found if run.data.tags["earnest.state"] == "superseded"]
    assert {run.info.run_id for run in old} == first
    new = {run.info.run_id: run.info.run_name for run in found if run.info.run_id not in first}
    assert all(new[run.data.tags["earnest.superseded_by"]] == run.info.run_name for run in old)
    person.record(CELLS)
    again = runs(port, "trimmed", ViewType.ALL)
    assert len(again) == 6
    assert {run.info.run_id for run in again if run.data.tags["earnest.state"] == "current"} == first


def test_a_method_that_a_sweep_no_longer_has_is_superseded_and_not_deleted(port: int, tmp_path: Path) -> None:
    person = Tracked(f"http://127.0.0.1:{port}", tmp_path, "fewer")
    person.record(CELLS)
    person.record([DENSE, WANDA])
    found = runs(port, "fewer", ViewType.ALL)
    assert {run.info.lifecycle_stage for run in found} == {"active"}
    by_state = {run.info.run_name: run.data.tags["earnest.state"] for run in found}
    assert by_state == {
        "nano:large dense": "current", "nano:large wanda 50%": "current", "nano:large rtn 4 bits g32": "superseded",
    }  # fmt: skip
    curves = {run.info.run_name: run.data.tags["earnest.state"] for run in runs(port, "fewer curves")}
    assert curves == {"wanda": "current", "rtn g32": "superseded"}


def test_two_senders_of_one_store_leave_one_run_per_cell(port: int, tmp_path: Path) -> None:
    """Where a file system has no locks, both find nothing and both make every run."""
    url = f"http://127.0.0.1:{port}"
    first = Tracker(url, "twice", str(tmp_path / "a"), pytest.fail, store="one store")
    second = Tracker(url, "twice", str(tmp_path / "b"), pytest.fail, store="one store")
    first.record(CELLS)
    client = MlflowClient(tracking_uri=url)
    experiment = client.get_experiment_by_name("twice").experiment_id
    kept = runs(port, "twice")
    for run in kept:  # what the second would have made in the meantime
        tags = {key: value for key, value in run.data.tags.items() if key.startswith("earnest.") and key not in (
            "earnest.content", "earnest.state", "earnest.noted")}  # fmt: skip
        client.create_run(experiment, tags=tags, run_name=run.info.run_name)
    second.record(CELLS)
    found = runs(port, "twice")
    assert {run.info.run_id for run in found} == {run.info.run_id for run in kept}
    assert states(found) == {"current": 3}


def test_what_a_person_wrote_on_a_run_stays(port: int, tmp_path: Path) -> None:
    person = Tracked(f"http://127.0.0.1:{port}", tmp_path, "noted")
    person.record([without(one, "perplexity") for one in CELLS])
    client = MlflowClient(tracking_uri=person.url)
    run = next(run for run in runs(port, "noted") if "wanda" in run.info.run_name)
    assert "closed_book" in run.data.tags["mlflow.note.content"]
    client.set_tag(run.info.run_id, "mlflow.note.content", "looked at, fine")
    failed = without(WANDA, "perplexity").model_copy(update={"failures": {"perplexity": "out of memory"}})
    person.record([failed])
    assert client.get_run(run.info.run_id).data.tags["mlflow.note.content"] == "looked at, fine"
    assert client.get_run(run.info.run_id).info.status == "FAILED"


@pytest.mark.parametrize("status", [401, 429, 500])
def test_a_server_that_refuses_for_good_is_told_and_loses_nothing(
    port: int, between: Proxy, tmp_path: Path, status: int
) -> None:
    name = f"refused-{status}"
    between.faults["runs/create"] = (status, 10_000)
    person = Tracked(between.url, tmp_path, name)
    person.record(CELLS)
    assert person.tracker.failure is not None
    assert person.tracker.waiting == 5
    assert "5 runs wait in the outbox" in person.warnings[-1]
    between.faults.clear()
    assert person.tracker.flush() == 5
    assert person.tracker.failure is None
    assert states(runs(port, name)) == {"current": 3}


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_refuses_now_and_then_is_asked_again(
    port: int, between: Proxy, tmp_path: Path, status: int
) -> None:
    name = f"now-and-then-{status}"
    between.faults["runs/log-batch"] = (status, 3)
    person = Tracked(between.url, tmp_path, name)
    person.record(CELLS)
    assert person.tracker.failure is None
    assert states(runs(port, name)) == {"current": 3}
