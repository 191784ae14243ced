"""A conversation with MLflow about one experiment: find its runs, make or complete one, keep the saved charts.

Every run is found again by a tag, so nothing depends on remembering what was sent: a run whose content tag equals the
entry's is left alone, one that lacks points gets them, one that says something else is replaced. A run is closed in
the same breath in which it is made, and filled afterwards: whatever dies, no run stays RUNNING.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from earnest.tracking.entries import CONTENT_TAG, CURVE_TAG, ENTRY_TAG, FAILURE_PREFIX, LOWER_TAG, Dataset, Entry
from earnest.tracking.outbox import Pending
from earnest.tracking.views import AXES, CURVE_PREFIX, view_tags

BATCH = 1000  # what MLflow takes in one call: metrics, parameters and tags together
# A dead server must cost seconds: MLflow's own defaults would try for four minutes per call.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


def quiet_environment() -> None:
    """Set what keeps MLflow quiet and quick to give up, where the user has not set it."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Session:
    """One experiment on a reachable MLflow: its id, and its runs by entry name."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None) -> None:
        quiet_environment()
        from mlflow import MlflowClient

        self._client = MlflowClient(tracking_uri=uri)
        self._id = self._experiment_id(experiment, artifacts)
        self._runs = self._find_runs()
        self._said: list[Entry] = []

    def _experiment_id(self, name: str, artifacts: str | None) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=artifacts))
            except MlflowException as error:  # somebody else was faster
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                found = self._client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _find_runs(self) -> dict[str, Any]:
        """The experiment's runs by entry name. A second run of one entry, were there one, is deleted."""
        runs: dict[str, Any] = {}
        token = None
        while True:
            page = self._client.search_runs(
                [self._id],
                f"tags.`{ENTRY_TAG}` LIKE '%'",
                max_results=BATCH,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            for run in page:
                if runs.setdefault(run.data.tags[ENTRY_TAG], run) is not run:
                    self._client.delete_run(run.info.run_id)
            token = page.token
            if not token:
                return runs

    def say(self, pending: Pending) -> bool:
        """Make the entry's run, or complete it. Returns False when MLflow knows all of it already."""
        entry, run = pending.entry, self._runs.get(pending.entry.name)
        if run is not None and run.data.tags.get(CONTENT_TAG) == entry.content and run.info.status != "RUNNING":
            return False
        known = self._points_of(run) if run is not None else {}
        wanted = {(point.key, point.step): point.value for point in entry.points}
        if run is not None and not self._is_part_of(run, known, entry, wanted):
            self._client.delete_run(run.info.run_id)
            run, known = None, {}
        run_id = self._open(pending) if run is None else self._reopen(run, pending)
        self._fill(run_id, pending, {key: value for key, value in wanted.items() if key not in known})
        self._said.append(entry)
        return True

    def _points_of(self, run: Any) -> dict[tuple[str, int], float]:
        histories = (self._client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
        return {(metric.key, metric.step): metric.value for history in histories for metric in history}

    @staticmethod
    def _is_part_of(run: Any, known: Mapping[Any, float], entry: Entry, wanted: Mapping[Any, float]) -> bool:
        """Whether a run says nothing but what the entry says too: MLflow cannot take back a metric or a parameter."""
        same_points = all(wanted.get(key) == value for key, value in known.items())
        return same_points and all(entry.params.get(key) == value for key, value in run.data.params.items())

    def _open(self, pending: Pending) -> str:
        entry = pending.entry
        began = pending.timestamp - round(1000 * entry.seconds)
        tags = {**entry.tags, ENTRY_TAG: entry.name}
        run = self._client.create_run(self._id, start_time=began, tags=tags, run_name=entry.run_name)
        run_id = str(run.info.run_id)
        self._close(run_id, pending)
        return run_id

    def _close(self, run_id: str, pending: Pending) -> None:
        self._client.set_terminated(
            run_id, "FAILED" if pending.entry.failed else "FINISHED", end_time=pending.timestamp
        )

    def _reopen(self, run: Any, pending: Pending) -> str:
        """A run to complete: its status follows the entry, and a task that failed before is no failure any more."""
        run_id = str(run.info.run_id)
        for key in run.data.tags:
            if key.startswith(FAILURE_PREFIX) and key not in pending.entry.tags:
                self._client.delete_tag(run_id, key)
        self._close(run_id, pending)
        return run_id

    def _fill(self, run_id: str, pending: Pending, points: Mapping[tuple[str, int], float]) -> None:
        """Say everything. The content tag comes last: only a run that holds all of an entry has it."""
        from mlflow.entities import Metric, Param, RunTag

        entry = pending.entry
        self._log_datasets(run_id, entry)
        self._log_artifacts(run_id, entry)
        metrics = [Metric(key, value, pending.timestamp, step) for (key, step), value in points.items()]
        params = [Param(key, value) for key, value in entry.params.items()]
        tags = [RunTag(key, value) for key, value in {**entry.tags, CONTENT_TAG: entry.content}.items()]
        room = BATCH - len(params) - len(tags)
        for first in range(room, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics[first : first + BATCH])
        self._client.log_batch(run_id, metrics[:room], params, tags)

    def _log_datasets(self, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(name=data.name, digest=data.digest[:36], source_type="code", source=_source(data)),
                [InputTag("mlflow.data.context", data.context)],
            )
            for data in _one_per_dataset(entry)
        ]
        if inputs:
            self._client.log_inputs(run_id, inputs)

    def _log_artifacts(self, run_id: str, entry: Entry) -> None:
        there = [(Path(artifact.path), artifact.name) for artifact in entry.artifacts if Path(artifact.path).is_file()]
        if there:
            with _laid_out(there) as folder:
                self._client.log_artifacts(run_id, str(folder))

    def save_views(self) -> None:
        """Keep the saved charts as tags of the experiment, when something new was said."""
        if not self._said:
            return
        curves = [run for run in self._find_runs().values() if CURVE_TAG in run.data.tags]
        keys = {key for run in curves for key in run.data.metrics if key.startswith(CURVE_PREFIX)}
        lower = {task for run in curves for task in run.data.tags.get(LOWER_TAG, "").split()}
        if tasks := {key.removeprefix(CURVE_PREFIX) for key in keys - set(AXES)}:
            for key, value in view_tags(tasks, lower).items():
                self._client.set_experiment_tag(self._id, key, value)


def _source(data: Dataset) -> str:
    """The data by name and whole digest, in the form that MLflow's CodeDatasetSource reads."""
    return json.dumps({"tags": {"mlflow.source.name": f"{data.name}@{data.digest}"}})


def _one_per_dataset(entry: Entry) -> list[Dataset]:
    """MLflow keeps a dataset once per run: its contexts are joined."""
    grouped: dict[tuple[str, str], Dataset] = {}
    for data in entry.datasets:
        before = grouped.get((data.name, data.digest))
        context = data.context if before is None else f"{before.context}, {data.context}"
        grouped[data.name, data.digest] = replace(data, context=context)
    return list(grouped.values())


@contextlib.contextmanager
def _laid_out(files: Sequence[tuple[Path, str]]) -> Iterator[Path]:
    """The files under their artifact names in a folder for a while, so that one call sends them all."""
    with tempfile.TemporaryDirectory(prefix="earnest-artifacts-") as name:
        for path, artifact in files:
            target = Path(name) / artifact
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        yield Path(name)
