"""Checkpoints among MLflow's models: one per compressed checkpoint, its scores with the data they stand for.

On request a checkpoint also becomes a version of a registered model, under aliases such as `best-4bit`. As runs, both
are found again by a key of ours; an alias that points to somebody else's version is left where it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from earnest.records import digest
from earnest.tracking.entries import Checkpoint, Entry, Point
from earnest.tracking.runs import KEY_TAG, PAGE, STORE_TAG, SWEEP_TAG

MODEL_TYPE = "compressed checkpoint"
_KEPT = ("score/", "size/", "compression/")  # what is true of a checkpoint, whatever it is compared with


class Checkpoints:
    """The logged models of one experiment, and the registered ones.

    Args:
        client: an MLflow client.
        experiment_id: the experiment's.
        warn: told a line of what is left alone because it is somebody else's.
    """

    def __init__(self, client: Any, experiment_id: str, warn: Callable[[str], None]) -> None:
        self._client, self._id, self._warn = client, experiment_id, warn

    def of(self, entry: Entry, checkpoint: Checkpoint, run_id: str) -> Any:
        """The logged model of an entry's checkpoint, made where there is none."""
        tags = _tags(entry, checkpoint)
        found = self._find(tags[KEY_TAG])
        if not found:
            self._client.create_logged_model(
                self._id, _model_name(checkpoint.name), source_run_id=run_id, tags=tags, params=dict(entry.params),
                model_type=MODEL_TYPE,
            )  # fmt: skip
            found = self._find(tags[KEY_TAG])
        model, *twins = sorted(found, key=lambda one: (-len(one.metrics or ()), one.creation_timestamp, one.model_id))
        for twin in twins:
            if not twin.metrics:  # its making was answered into the void
                self._client.delete_logged_model(twin.model_id)
        if str(model.status) != "READY":
            self._client.finalize_logged_model(model.model_id, "READY")
        self._tie(run_id, str(model.model_id))
        return model

    def _tie(self, run_id: str, model_id: str) -> None:
        """Name the model as the run's. MLflow refuses to be told so twice."""
        from mlflow.entities import LoggedModelOutput

        tied = self._client.get_run(run_id).outputs.model_outputs
        if model_id not in [output.model_id for output in tied]:
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])

    def describe(self, model_id: str, note: str) -> None:
        """Keep a description with a logged model."""
        self._client.set_logged_model_tags(model_id, {"mlflow.note.content": note})

    def _find(self, key: str) -> list[Any]:
        return list(self._client.search_logged_models([self._id], f"tags.`{KEY_TAG}` = '{key}'", max_results=PAGE))

    # --- the registry -------------------------------------------------------------------------------------------------

    def register(self, entry: Entry, checkpoint: Checkpoint, model: Any, run_id: str) -> None:
        """Make the checkpoint a version of the registered model that it asks for, under its aliases."""
        if checkpoint.registered is None:
            return
        name = checkpoint.registered
        self._make_registered_model(name)
        tags = _tags(entry, checkpoint)
        version = self._version(name, tags[KEY_TAG])
        if version is None:
            # Without a server, MLflow looks for "models:/…" at the URI of the process, and not at the client's.
            served = str(self._client.tracking_uri).startswith("http")
            source = f"models:/{model.model_id}" if served else model.artifact_location
            self._client.create_model_version(
                name, source, run_id=run_id, tags=tags, description=entry.note, model_id=model.model_id,
                await_creation_for=0,
            )  # fmt: skip
            version = self._version(name, tags[KEY_TAG])
        for alias in checkpoint.aliases:
            self._set_alias(name, alias, version, entry)

    def _make_registered_model(self, name: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _version(self, name: str, key: str) -> Any:
        """The first version with this key; a second one, whose making was answered into the void, is removed."""
        found = self._client.search_model_versions(f"name = '{name}' AND tags.`{KEY_TAG}` = '{key}'")
        versions = sorted(found, key=lambda version: int(version.version))
        for twin in versions[1:]:
            self._client.delete_model_version(name, twin.version)
        return versions[0] if versions else None

    def _set_alias(self, name: str, alias: str, version: Any, entry: Entry) -> None:
        aliases: Mapping[str, Any] = self._client.get_registered_model(name).aliases
        if alias in aliases:
            if str(aliases[alias]) == str(version.version):
                return
            holder = self._client.get_model_version(name, aliases[alias])
            if (holder.tags.get(STORE_TAG), holder.tags.get(SWEEP_TAG)) != (entry.store, entry.sweep):
                self._warn(f"{name}@{alias} is version {holder.version}, which is not this sweep's; it stays there")
                return
        self._client.set_registered_model_alias(name, alias, version.version)


def model_points(entry: Entry, model: Any) -> set[Point]:
    """The entry's points that a logged model does not hold yet."""
    known = {(metric.key, metric.value) for metric in model.metrics or ()}
    return {p for p in entry.points if p.key.startswith(_KEPT) and (p.key, p.value) not in known}


def _tags(entry: Entry, checkpoint: Checkpoint) -> dict[str, str]:
    key = digest([entry.store, entry.sweep, "checkpoint", checkpoint.step])
    return {
        KEY_TAG: key,
        STORE_TAG: entry.store,
        SWEEP_TAG: entry.sweep,
        "earnest.step.compress": checkpoint.step,
        "earnest.checkpoint": checkpoint.where,
    }


def _model_name(name: str) -> str:
    """A name that MLflow takes for a logged model.

    >>> _model_name("nano:large wanda 2:4")
    'nano-large wanda 2-4'
    """
    return re.sub(r"""[/:.%"']+""", "-", name).strip("- ")
