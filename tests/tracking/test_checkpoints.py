"""Checkpoints among MLflow's models, and the best of them in the registry, on a real server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from earnest.records import CellRecord, digest
from earnest.tracking.aliases import best_aliases, size_name
from earnest.tracking.entries import Checkpoint
from earnest.tracking.mlflow_runs import Tracker
from report.plausible import cell, steered_sweep
from tracking.servers import free_port, proxy, server

DENSE = cell("dense", "", (91.3, 100.0, 100.0, 1.939))
WANDA = cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))
MAGNITUDE = cell("magnitude", "0.5", (69.0, 98.0, 96.0, 2.018))
RTN = cell("rtn", "4", (88.0, 100.0, 99.7, 1.946))
CELLS = [DENSE, WANDA, MAGNITUDE, RTN]


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with server(tmp_path_factory.mktemp("server"), port):
        yield port


def checkpoints(cells: list[CellRecord], registered: str | None = None) -> dict[str, Checkpoint]:
    aliases = best_aliases(cells, "closed_book") if registered else {}
    return {
        one.key: Checkpoint(
            step=digest(one.key), name=f"{one.model} {one.label}", where=f"/store/compress/{digest(one.key)}",
            registered=registered if one.key in aliases else None, aliases=aliases.get(one.key, ()),
        )
        for one in cells
        if one.family != "dense"
    }  # fmt: skip


@pytest.mark.slow
def test_every_checkpoint_is_one_logged_model_with_the_data_behind_its_scores(port: int, tmp_path: Path) -> None:
    with proxy(port) as between:
        between.faults["logged-models"] = ("lose", 1)  # the first call looks for one; then one is made
        client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
        tracker = Tracker(between.url, "models", str(tmp_path), pytest.fail)
        tracker.record(CELLS, {}, checkpoints(CELLS))
        assert tracker.record(CELLS, {}, checkpoints(CELLS)) == 0
    experiment = client.get_experiment_by_name("models").experiment_id
    found = {model.name: model for model in client.search_logged_models([experiment])}
    assert sorted(found) == [
        "nano-large magnitude 50%".replace("%", ""),
        "nano-large rtn 4 bits g32",
        "nano-large wanda 50",
    ]
    wanda = found["nano-large wanda 50"]
    assert str(wanda.status) == "READY"
    assert wanda.params["method"] == "wanda"
    assert "Falls in closed_book" in wanda.tags["mlflow.note.content"]
    scores = [metric for metric in wanda.metrics if metric.key == "score/closed_book"]
    assert [(metric.value, metric.dataset_name, metric.dataset_digest) for metric in scores] == [
        (0.653, "nano", digest("nano"))
    ]
    assert not [metric.key for metric in wanda.metrics if metric.key.startswith("delta/")]
    run = client.get_run(wanda.source_run_id)
    assert run.info.run_name == "nano:large wanda 50%"
    assert [output.model_id for output in run.outputs.model_outputs] == [wanda.model_id]
    assert len(client.get_metric_history(run.info.run_id, "score/closed_book")) == 1


@pytest.mark.slow
def test_a_new_verdict_on_a_checkpoint_makes_no_second_model(port: int, tmp_path: Path) -> None:
    tracker = Tracker(f"http://127.0.0.1:{port}", "verdicts", str(tmp_path), pytest.fail)
    tracker.record(CELLS, {}, checkpoints(CELLS))
    comparisons = {task: c.model_copy(update={"p": 0.25}) for task, c in WANDA.comparisons.items()}
    changed = [DENSE, WANDA.model_copy(update={"comparisons": comparisons}), MAGNITUDE, RTN]
    tracker.record(changed, {}, checkpoints(changed))
    client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
    experiment = client.get_experiment_by_name("verdicts").experiment_id
    models = client.search_logged_models([experiment])
    assert len(models) == 3
    for model in models:
        assert len([metric for metric in model.metrics if metric.key == "score/closed_book"]) == 1
    assert len(client.search_runs([experiment], "tags.`earnest.state` = 'superseded'")) == 1


@pytest.mark.slow
def test_the_best_of_each_size_is_a_version_under_its_alias(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}"
    client = MlflowClient(tracking_uri=url)
    warnings: list[str] = []
    with proxy(port) as between:
        between.faults["model-versions/create"] = ("lose", 1)
        tracker = Tracker(between.url, "registered", str(tmp_path / "a"), warnings.append)
        tracker.record(CELLS, {}, checkpoints(CELLS, "small-model"))
    versions = client.search_model_versions("name = 'small-model'")
    assert sorted(v.tags["earnest.checkpoint"].rsplit("/", 1)[1] for v in versions) == sorted(
        digest(one.key) for one in (MAGNITUDE, RTN)
    )
    best = client.get_model_version_by_alias("small-model", "best-50pct")
    assert best.tags["earnest.step.compress"] == digest(MAGNITUDE.key)
    assert client.get_model_version_by_alias("small-model", "best-4bit").tags["earnest.step.compress"] == digest(
        RTN.key
    )
    better = cell("sparsegpt", "0.5", (74.0, 99.0, 97.0, 1.998))
    more = [*CELLS, better]
    Tracker(url, "registered", str(tmp_path / "a"), warnings.append).record(more, {}, checkpoints(more, "small-model"))
    best = client.get_model_version_by_alias("small-model", "best-50pct")
    assert best.tags["earnest.step.compress"] == digest(better.key)
    assert warnings == []
    other = Tracker(url, "others", str(tmp_path / "b"), warnings.append)
    other.record([DENSE, WANDA], {}, checkpoints([DENSE, WANDA], "small-model"))
    assert client.get_model_version_by_alias("small-model", "best-50pct").version == best.version
    assert warnings == [f"small-model@best-50pct is version {best.version}, which is not this sweep's; it stays there"]


def test_aliases_go_to_the_best_score_of_each_size() -> None:
    steered = steered_sweep()
    assert best_aliases([*CELLS, *steered[-4:]], "closed_book") == {
        MAGNITUDE.key: ("best-50pct",),
        RTN.key: ("best-4bit",),
    }
    failed = RTN.model_copy(update={"failures": {"perplexity": "out of memory"}})
    assert best_aliases([DENSE, failed], "perplexity") == {}
    assert best_aliases([WANDA, MAGNITUDE], "perplexity") == {MAGNITUDE.key: ("best-50pct",)}  # lower is better


@pytest.mark.parametrize(
    ("method", "ratio", "name"),
    [("wanda", "2:4", "2-4"), ("wanda", "0.5", "50pct"), ("gptq", "4", "4bit"), ("dense", "", None)],
)
def test_a_size_has_a_name_that_mlflow_takes_for_an_alias(method: str, ratio: str, name: str | None) -> None:
    assert size_name(cell(method, ratio, (50.0, 50.0, 50.0, 2.0))) == name
