"""The saved charts and the saved list of runs: MLflow shared views as data, kept in tags of an experiment.

The charts show the current curves, each in its method's colour, over the true share of bytes saved; the list shows the
current cells. The format is MLflow's own page state; `earnest dashboard` opens the pages on it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

from earnest.tracking.curves import CURVE_TAG, FLUENT
from earnest.tracking.runs import CURRENT, STATE_TAG

VIEW_KEY = "earnest"
CURVE_PREFIX = "curve/"
SAVED, SIZE = "curve/saved", "curve/size_mib"
AXES = (SAVED, SIZE, "curve/saved_of_touched")


def view_tags(tasks: Collection[str], lower_is_better: Collection[str]) -> dict[str, str]:
    """Experiment tags that hold the saved view for these tasks.

    Three sections: perplexity beside knowledge, every score against the share of bytes saved, and against the size.
    Where a task tells fluent from true, both stand beside perplexity.
    """
    told = {task.removesuffix(f"/{FLUENT}") for task in tasks if task.endswith(f"/{FLUENT}")}
    ordered = sorted(
        tasks, key=lambda task: (task not in lower_is_better, task.split("/")[0] not in told, "/" not in task, task)
    )
    first = next((n for n, task in enumerate(ordered) if task not in lower_is_better), 0) + 2 if told else 2
    sections = {
        "beside": ("Perplexity | fluent | true" if told else "Perplexity | knowledge", ordered[:first]),
        "saved": ("By bytes saved", ordered[first:]),
        "size": ("By size in MiB", ordered),
    }
    kept = {key: section for key, section in sections.items() if section[1]}
    charts = [
        _line(
            f"{key}-{task}",
            key,
            task,
            axis=SIZE if key == "size" else SAVED,
            scale="log" if task in lower_is_better else "linear",
        )
        for key, (_, shown) in kept.items()
        for task in shown
    ]
    hidden = [*AXES, *(f"score/{task}" for task in ordered)]
    state = _state([_section(key, title) for key, (title, _) in kept.items()], [*charts, *map(_hidden, hidden)])
    return _tags_of(state)


def list_tags() -> dict[str, str]:
    """Experiment tags that hold the saved list of current cells."""
    state = _state([], [], f"tags.`{STATE_TAG}` = '{CURRENT}'")
    return _tags_of(state)


def _tags_of(state: dict[str, Any]) -> dict[str, str]:
    return {
        f"mlflow.sharedViewState.{VIEW_KEY}": json.dumps(state, separators=(",", ":"), sort_keys=True),
        "mlflow.experimentKind": "custom_model_development",
    }


def view_path(experiment_id: str, mode: str = "CHART") -> str:
    """The page of the saved view, relative to the server's address: of the charts, or as a "TABLE"."""
    opened = f"viewStateShareKey={VIEW_KEY}&compareRunsMode={mode}&workflowType=machine_learning"
    return f"/#/experiments/{experiment_id}/runs?{opened}"


def _section(key: str, title: str) -> dict[str, Any]:
    return {
        "uuid": key,
        "name": title,
        "display": True,
        "isReordered": False,
        "deleted": False,
        "isGenerated": False,
        "columns": 2,
    }


def _line(uuid: str, section: str, task: str, *, axis: str, scale: str) -> dict[str, Any]:
    return {
        "uuid": uuid, "type": "LINE", "runsCountToCompare": 40, "metricSectionId": section, "deleted": False,
        "isGenerated": False, "metricKey": f"curve/{task}", "selectedMetricKeys": [f"curve/{task}"],
        "lineSmoothness": 0, "xAxisScaleType": "linear", "scaleType": scale, "range": {}, "xAxisKey": "metric",
        "selectedXAxisMetricKey": axis, "displayPoints": True, "yAxisKey": "metric", "yAxisExpressions": [],
        "ignoreOutliers": False, "useGlobalXaxisKey": False, "useGlobalLineSmoothing": False,
    }  # fmt: skip


def _hidden(metric: str) -> dict[str, Any]:
    """MLflow adds a chart for every metric that no card mentions; a deleted card mentions it."""
    return {
        "uuid": f"hidden-{metric}", "type": "LINE", "metricSectionId": "saved", "deleted": True, "isGenerated": True,
        "metricKey": metric, "selectedMetricKeys": [metric], "runsCountToCompare": 1,
    }  # fmt: skip


def _state(
    sections: Sequence[dict[str, Any]],
    charts: Sequence[dict[str, Any]],
    query: str = f"tags.`{CURVE_TAG}` = '1' AND tags.`{STATE_TAG}` = '{CURRENT}'",
) -> dict[str, Any]:
    return {
        "searchFilter": query, "orderByKey": "attributes.start_time", "orderByAsc": True,
        "startTime": "ALL", "lifecycleFilter": "Active", "datasetsFilter": [], "modelVersionFilter": "All Runs",
        "selectedColumns": ["tags.`method`"], "runsHidden": [], "runsVisibilityMap": {}, "runsHiddenMode": "SHOW_ALL",
        "groupBy": None, "hideEmptyCharts": True, "isAccordionReordered": False, "viewMaximized": False,
        "runListHidden": False, "compareRunSections": list(sections), "compareRunCharts": list(charts),
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }  # fmt: skip
