"""The data that a run looked at, in MLflow's terms."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from earnest.tracking.entries import Dataset, Entry


def dataset_inputs(entry: Entry) -> list[Any]:
    """An entry's data as MLflow's inputs. MLflow keeps a dataset once per run: its contexts are joined."""
    from mlflow.entities import Dataset as MlflowDataset
    from mlflow.entities import DatasetInput, InputTag

    return [
        DatasetInput(
            MlflowDataset(name=data.name, digest=data.digest[:36], source_type="code", source=_source(data)),
            [InputTag("mlflow.data.context", data.context)],
        )
        for data in _one_per_dataset(entry)
    ]


def dataset_of(entry: Entry, key: str) -> Dataset | None:
    """The data behind a metric such as "score/mmlu/stderr"; None where it stands for no task."""
    behind = [d for d in entry.datasets if f"{key}/".startswith(f"score/{d.context}/")]
    return max(behind, key=lambda data: len(data.context), default=None)


def _source(data: Dataset) -> str:
    """The data by name and whole digest, in the form that MLflow's CodeDatasetSource reads."""
    return json.dumps({"tags": {"mlflow.source.name": f"{data.name}@{data.digest}"}})


def _one_per_dataset(entry: Entry) -> list[Dataset]:
    grouped: dict[tuple[str, str], Dataset] = {}
    for data in entry.datasets:
        before = grouped.get((data.name, data.digest))
        context = data.context if before is None else f"{before.context}, {data.context}"
        grouped[data.name, data.digest] = replace(data, context=context)
    return list(grouped.values())
