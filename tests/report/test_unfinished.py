"""Nothing is claimed of what was not measured, and what failed is told from what did not run yet."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from rich.console import Console

from earnest.records import CellRecord
from earnest.report.claims import bars_of
from earnest.report.export import export_cells
from earnest.report.html import write_report
from earnest.report.survey import Survey
from earnest.report.table import print_table
from report.plausible import TASKS, cell

DENSE = cell("dense", "", (91.3, 100.0, 100.0, 1.939))
GOOD = (91.0, 100.0, 100.0, 1.939)


def unmeasured(one: CellRecord, *tasks: str, compressed: bool = True, reason: str = "") -> CellRecord:
    """The cell without some scores, and without a size where it is not compressed either."""
    gone = [*tasks, *([] if compressed else ["compress"])]
    return one.model_copy(
        update={
            "size": one.size if compressed else None,
            "scores": {task: scores for task, scores in one.scores.items() if task not in tasks},
            "comparisons": {task: made for task, made in one.comparisons.items() if task not in tasks},
            "failures": dict.fromkeys(gone, reason) if reason else {},
            "waiting": {} if reason else dict.fromkeys(gone, "not run yet"),
            "steps": {**one.steps, "compress": f"compress {one.key}"},
        }
    )


def curve(*cells: CellRecord) -> Survey:
    return Survey((DENSE, *cells))


def ratios(survey: Survey, task: str = "closed_book") -> str:
    (claim,) = (one for one in survey.claims(survey.curves[0]) if one.task == task)
    return claim.ratios


def test_a_claim_ends_before_a_ratio_that_was_not_measured() -> None:
    first, second, third = (cell("wanda", ratio, GOOD) for ratio in ("0.2", "0.3", "0.4"))
    assert ratios(curve(first, second, third)) == "40%"
    assert ratios(curve(first, unmeasured(second, "closed_book"), third)) == "20%, 30% not measured"
    assert ratios(curve(unmeasured(first, "closed_book"), second, third)) == "20% not measured"
    assert ratios(curve(first, second, unmeasured(third, "closed_book"))) == "30%, 40% not measured"


@pytest.mark.parametrize("reason", ["", "out of memory"])
def test_a_ratio_that_was_not_even_compressed_is_no_less_missing(reason: str) -> None:
    first, second, third = (cell("wanda", ratio, GOOD) for ratio in ("0.2", "0.3", "0.4"))
    gap = unmeasured(second, *TASKS, compressed=False, reason=reason)
    assert ratios(curve(first, gap, third)) == "20%, 30% not measured"
    survey = curve(gap, third)
    assert ratios(survey) == "30% not measured"
    assert {bar.claim.at_most for bar in bars_of(survey, survey.curves[0])} == {0.0}


def test_a_ratio_whose_seeds_are_not_all_measured_is_not_shown() -> None:
    seeds = [cell("wanda", "0.3", GOOD, seed=seed) for seed in (0, 1)]
    assert ratios(curve(cell("wanda", "0.2", GOOD), *seeds)) == "30%"
    half = [seeds[0], unmeasured(seeds[1], "closed_book")]
    assert ratios(curve(cell("wanda", "0.2", GOOD), *half)) == "20%, 30% not measured"


def test_a_fall_that_is_shown_ends_a_claim_as_before() -> None:
    low = cell("wanda", "0.3", (20.0, 100.0, 100.0, 1.939))
    later = unmeasured(cell("wanda", "0.4", GOOD), *TASKS, compressed=False)
    assert ratios(curve(cell("wanda", "0.2", GOOD), low, later)) == "20%"


def test_the_finding_counts_what_is_not_measured() -> None:
    survey = curve(cell("rtn", "8", GOOD), unmeasured(cell("rtn", "4", GOOD), "closed_book", "open_book"))
    expected = "Nothing is shown to lose more than 5%; 6 of 6 scores are shown to match; 2 more are not measured"
    assert survey.finding == expected
    nothing = curve(unmeasured(cell("rtn", "8", GOOD), *TASKS, compressed=False))
    assert nothing.finding == "Nothing is compared with dense yet"


def test_steps_that_cells_share_are_counted_once() -> None:
    one = unmeasured(cell("rtn", "8", GOOD), "closed_book")
    other = unmeasured(cell("rtn", "4", GOOD), "closed_book", "open_book")
    shared = other.model_copy(update={"steps": {**other.steps, "closed_book": one.steps["closed_book"]}})
    running = shared.model_copy(update={"waiting": {**shared.waiting, "open_book": "running"}})
    assert curve(one, running).unfinished == "Not measured yet: 1 step has not run, 1 step is running."
    assert curve(cell("rtn", "8", GOOD)).unfinished == ""


def test_table_page_and_csv_tell_failed_running_and_not_run_yet_apart(tmp_path: Path) -> None:
    failed = unmeasured(cell("wanda", "0.2", GOOD), "closed_book", reason="out of memory")
    later = unmeasured(cell("wanda", "0.3", GOOD), "open_book")
    now = unmeasured(cell("wanda", "0.4", GOOD), "open_book", "multiple_choice")
    now = now.model_copy(update={"waiting": {**now.waiting, "multiple_choice": "running"}})
    cells = [DENSE, failed, later, now]
    console = Console(record=True, width=200, file=(tmp_path / "table").open("w"))
    print_table(cells, console)
    said = console.export_text()
    assert (said.count("failed"), said.count("not run yet"), said.count("running")) == (1, 2, 2)
    page = write_report(cells, tmp_path / "page", title="s").read_text()
    assert "1 steps failed; they are listed below." in page
    assert "Not measured yet: 2 steps have not run, 1 step is running." in page
    assert page.count(">failed</td>") == 1
    export_cells(cells, tmp_path)
    rows = list(csv.DictReader((tmp_path / "cells.csv").open()))
    states = {(row["nominal"], row["task"]): row["state"] for row in rows if row["state"] != "done"}
    assert states == {
        ("20%", "closed_book"): "failed",
        ("30%", "open_book"): "not run yet",
        ("40%", "open_book"): "not run yet",
        ("40%", "multiple_choice"): "running",
    }
    assert {row["value"] for row in rows if row["state"] != "done"} == {""}
