"""A conversation with MLflow about one experiment: find our runs, make or complete one, keep the saved charts.

Nothing depends on remembering what was sent: a run whose content tag equals the entry's is left alone, one that lacks
points gets them, one that says something else is superseded by a new one. A run is closed in the same breath in which
it is made, and filled afterwards: whatever dies, no run stays RUNNING.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

from earnest.records import digest
from earnest.tracking.checkpoints import Checkpoints, model_points
from earnest.tracking.curves import CURVE_TAG, LOWER_TAG
from earnest.tracking.entries import FAILURE_PREFIX, Entry, Point
from earnest.tracking.files import laid_out
from earnest.tracking.inputs import dataset_inputs, dataset_of
from earnest.tracking.outbox import Pending
from earnest.tracking.runs import (
    CONTENT_TAG,
    CURRENT,
    NOTED_TAG,
    STATE_TAG,
    OwnRuns,
    identity_tags,
    is_complete,
    is_superseded,
)
from earnest.tracking.views import AXES, CURVE_PREFIX, list_tags, view_tags

BATCH = 1000  # what MLflow takes in one call: metrics, parameters and tags together
MAX_TAG = 5000
NOTE_TAG, NOTE_DIGEST_TAG = "mlflow.note.content", "earnest.note"
STEP_TAG, ARTIFACTS_TAG = "earnest.step", "earnest.artifacts"
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
    """One experiment on a reachable MLflow.

    Args:
        uri: MLflow's tracking URI.
        experiment: its name; made where there is none.
        artifacts: where its artifacts go; MLflow's own place by default.
        warn: told a line of what is left alone or left out.
    """

    def __init__(self, uri: str, experiment: str, artifacts: str | None, warn: Callable[[str], None]) -> None:
        quiet_environment()
        from mlflow import MlflowClient

        self._client, self._warn = MlflowClient(tracking_uri=uri), warn
        self._id = self._experiment_id(experiment, artifacts)
        self.runs = OwnRuns(self._client, self._id)
        self._checkpoints = Checkpoints(self._client, self._id, warn)
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

    # --- saying -------------------------------------------------------------------------------------------------------

    def say(self, pending: Pending) -> bool:
        """Make the entry's run, or complete it. Returns False when MLflow knows all of it already."""
        entry = pending.entry
        mine = self.runs.of(entry)
        same = next((run for run in mine if is_complete(run, entry.content)), None)
        if same is not None:
            return self.runs.make_current(same, mine)
        current = [run for run in mine if not is_superseded(run)]
        wanted = {(point.key, point.step): point.value for point in entry.points}
        run, known = next(
            ((run, known) for run in current if self._is_part_of(run, known := self._points_of(run), entry, wanted)),
            (None, {}),
        )
        if run is None and current and entry.interim:
            return False  # the whole truth comes at the sweep's end
        filled = self._open(pending) if run is None else self._reopen(run, pending)
        run_id = str(filled.info.run_id)
        self._fill(filled, pending, {key: value for key, value in wanted.items() if key not in known})
        for other in current:
            if run is None and is_complete(other):
                self.runs.supersede(other, run_id)
        self._said.append(entry)
        return True

    def settle(self) -> None:
        """Leave one current run per key."""
        self.runs.settle()

    def _points_of(self, run: Any) -> dict[tuple[str, int], float]:
        if STEP_TAG in run.data.tags:  # all of its points stand at one step
            return {(key, int(run.data.tags[STEP_TAG])): value for key, value in run.data.metrics.items()}
        histories = (self._client.get_metric_history(run.info.run_id, key) for key in run.data.metrics)
        return {(metric.key, metric.step): metric.value for history in histories for metric in history}

    @staticmethod
    def _is_part_of(run: Any, known: Mapping[Any, float], entry: Entry, wanted: Mapping[Any, float]) -> bool:
        """Whether a run says nothing but what the entry says too: MLflow cannot take back a metric or a parameter."""
        same_points = all(wanted.get(key) == value for key, value in known.items())
        return same_points and all(entry.params.get(key) == value for key, value in run.data.params.items())

    def _open(self, pending: Pending) -> Any:
        entry = pending.entry
        began = pending.timestamp - round(1000 * entry.seconds)
        tags = {**entry.origin, **entry.tags, **identity_tags(entry)}
        self.runs.note_made(entry)
        run = self._client.create_run(self._id, start_time=began, tags=tags, run_name=entry.run_name)
        self._close(str(run.info.run_id), pending)
        return run

    def _close(self, run_id: str, pending: Pending) -> None:
        self._client.set_terminated(
            run_id, "FAILED" if pending.entry.failed else "FINISHED", end_time=pending.timestamp
        )

    def _reopen(self, run: Any, pending: Pending) -> Any:
        """A run to complete: its status follows the entry, and what failed before is no failure any more."""
        run_id = str(run.info.run_id)
        for key in run.data.tags:
            if key.startswith(FAILURE_PREFIX) and key not in pending.entry.tags:
                self._client.delete_tag(run_id, key)
        self._close(run_id, pending)
        return run

    def _fill(self, run: Any, pending: Pending, points: Mapping[tuple[str, int], float]) -> None:
        """Say everything. The content tag comes last: only a run that holds all of an entry has it.

        Metrics have the time at which the run began: what two senders say of it at once is then the same, kept once.
        """
        from mlflow.entities import Metric, Param, RunTag

        entry, run_id, there = pending.entry, str(run.info.run_id), run.data.tags
        if entry.datasets:
            self._client.log_inputs(run_id, dataset_inputs(entry))
        sent = self._log_artifacts(run_id, entry, there)
        logged = {(metric.key, metric.step): metric for metric in self._model_metrics(run, entry)}
        plain = {
            at: Metric(at[0], value, run.info.start_time, at[1]) for at, value in points.items() if at not in logged
        }
        metrics = [*logged.values(), *plain.values()]
        params = [Param(key, value) for key, value in entry.params.items()]
        said = {**entry.tags, **identity_tags(entry), **sent, **_note_tags(entry, there), **_step_tags(entry)}
        closing = {CONTENT_TAG: entry.content, NOTED_TAG: str(pending.timestamp), STATE_TAG: CURRENT}
        tags = [RunTag(key, value) for key, value in {**said, **closing}.items()]
        room = BATCH - len(params) - len(tags)
        for first in range(room, len(metrics), BATCH):
            self._client.log_batch(run_id, metrics[first : first + BATCH])
        self._client.log_batch(run_id, metrics[:room], params, tags)

    def _model_metrics(self, run: Any, entry: Entry) -> list[Any]:
        """The scores and sizes that the logged model of an entry's checkpoint does not hold yet, each with its data."""
        from mlflow.entities import Metric

        if entry.checkpoint is None:
            return []
        run_id = str(run.info.run_id)
        model = self._checkpoints.of(entry, entry.checkpoint, run_id)
        self._checkpoints.describe(model.model_id, entry.note)
        self._checkpoints.register(entry, entry.checkpoint, model, run_id)

        def made(point: Point) -> Any:
            data = dataset_of(entry, point.key)
            return Metric(
                point.key, point.value, run.info.start_time, point.step, model_id=model.model_id,
                dataset_name=data and data.name, dataset_digest=data and data.digest[:36],
            )  # fmt: skip

        return [made(point) for point in sorted(model_points(entry, model), key=lambda point: point.key)]

    def _log_artifacts(self, run_id: str, entry: Entry, there: Mapping[str, str]) -> dict[str, str]:
        """Send the files that the run does not hold yet. Returns the tag that says which it holds."""
        held: dict[str, str] = json.loads(there.get(ARTIFACTS_TAG, "{}"))
        missing = [artifact for artifact in entry.artifacts if held.get(artifact.name) != artifact.sha256[:12]]
        with laid_out(missing, self._warn) as (folder, sent):
            if sent:
                self._client.log_artifacts(run_id, str(folder))
        said = json.dumps(held | {artifact.name: artifact.sha256[:12] for artifact in sent}, sort_keys=True)
        return {ARTIFACTS_TAG: said} if len(said) <= MAX_TAG else {}

    # --- views and progress -------------------------------------------------------------------------------------------

    def save_views(self) -> None:
        """Keep the saved charts and the reviewer's list as tags of the experiment, when something new was said."""
        if not self._said:
            return
        curves = [entry for entry in self._said if CURVE_TAG in entry.tags]
        tags = list_tags() if len(curves) < len(self._said) else {}
        if curves:
            query = f"tags.`{CURVE_TAG}` = '1' AND tags.`{STATE_TAG}` = '{CURRENT}'"
            runs = self._client.search_runs([self._id], query, max_results=BATCH)
            keys = {key for run in runs for key in run.data.metrics if key.startswith(CURVE_PREFIX)}
            lower = {task for run in runs for task in run.data.tags.get(LOWER_TAG, "").split()}
            tasks = {key.removeprefix(CURVE_PREFIX) for key in keys - set(AXES)}
            tags |= view_tags(tasks, lower) if tasks else {}
        for key, value in tags.items():
            self._client.set_experiment_tag(self._id, key, value)

    def show_progress(self, sweep: str, store: str, text: str) -> None:
        """Say in the experiment's description how far a sweep is; a description that a person wrote is left alone."""
        kept = self._client.get_experiment(self._id).tags
        key = f"earnest.progress.{sweep}.{store[:8]}"
        lines = {name: value for name, value in kept.items() if name.startswith("earnest.progress.")} | {key: text}
        self._client.set_experiment_tag(self._id, key, text)
        if digest(kept.get(NOTE_TAG, "")) in (kept.get(NOTE_DIGEST_TAG), digest("")):
            note = "\n\n".join(value for _, value in sorted(lines.items()))
            self._client.set_experiment_tag(self._id, NOTE_DIGEST_TAG, digest(note))
            self._client.set_experiment_tag(self._id, NOTE_TAG, note)


def _note_tags(entry: Entry, there: Mapping[str, str]) -> dict[str, str]:
    """The run's description, unless a person has written another since."""
    if NOTE_TAG in there and digest(there[NOTE_TAG]) != there.get(NOTE_DIGEST_TAG):
        return {}
    note = entry.note[:MAX_TAG]
    return {NOTE_TAG: note, NOTE_DIGEST_TAG: digest(note)} if note else {}


def _step_tags(entry: Entry) -> dict[str, str]:
    steps = {point.step for point in entry.points}
    return {STEP_TAG: str(steps.pop())} if len(steps) == 1 else {}
