"""Fluent and true stand beside perplexity: in MLflow's curves and charts, in the exports, in the terminal."""

from __future__ import annotations

import json
from io import StringIO

from rich.console import Console

from earnest.records import CellRecord, Comparison, Estimate, Part, Scores
from earnest.report.export import cell_rows
from earnest.report.table import print_table
from earnest.tracking.curves import curve_entries
from earnest.tracking.views import VIEW_KEY, view_tags
from report.plausible import cell


def told(one: CellRecord, fluent: float, true: float) -> CellRecord:
    """The cell with biographies beside perplexity and closed book."""
    kept = {task: one.scores[task] for task in ("closed_book", "perplexity")}
    metrics = {"true": Estimate(value=true, n=90), "fluent": Estimate(value=fluent, n=90)}
    scores = Scores(
        task="biography", version=1, headline="true", higher_is_better=True, asked=90, scored=90, truncated=0, failed=0,
        metrics=metrics, breakdowns={"nats_per_token": {"told": {"value": Part(tokens=9, mean=metrics["true"])}}},
    )  # fmt: skip
    comparisons = {"biography": Comparison(relative=true / 0.94 - 1, within_margin=False, verdict="falls")}
    return one.model_copy(update={"scores": {**kept, "biography": scores}, "comparisons": comparisons})


DENSE = told(cell("dense", "", (91.3, 100, 100, 1.939)), 1.0, 0.94)
WANDA = told(cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032)), 0.971, 0.745)


def test_a_curve_holds_both_shares() -> None:
    (entry,) = curve_entries([DENSE, WANDA])
    points = {(point.key, point.step): point.value for point in entry.points}
    steps = sorted({step for _, step in points})
    assert [points["curve/biography/fluent", step] for step in steps] == [1.0, 0.971]
    assert [points["curve/biography", step] for step in steps] == [0.94, 0.745]


def test_the_charts_show_both_beside_perplexity() -> None:
    tags = view_tags({"closed_book", "biography", "biography/fluent", "perplexity"}, {"perplexity"})
    state = json.loads(tags[f"mlflow.sharedViewState.{VIEW_KEY}"])
    first = state["compareRunSections"][0]
    assert first["name"] == "Perplexity | fluent | true"
    shown = [chart["metricKey"] for chart in state["compareRunCharts"] if chart["metricSectionId"] == first["uuid"]]
    assert shown == ["curve/perplexity", "curve/biography/fluent", "curve/biography"]


def test_the_terminal_shows_both_after_perplexity() -> None:
    console = Console(file=StringIO(), width=140, color_system=None)
    print_table([DENSE, WANDA], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    head = printed.split("\n")[0]
    assert head.index("perplexity") < head.index("biography: fluent → true") < head.index("closed book")
    assert "97.1 → 74.5  −21%✗" in printed


def test_the_exports_hold_both_and_every_kind_of_token() -> None:
    rows = [row for row in cell_rows(WANDA) if row["task"] == "biography"]
    assert [(row["metric"], row.get("group"), row["value"]) for row in rows] == [
        ("true", None, 0.745), ("fluent", None, 0.971), ("nats_per_token", "told: value", 0.745),
    ]  # fmt: skip
