"""What a run says of a cell against dense: the change with its interval, and what is shown of it."""

from __future__ import annotations

from earnest.tracking.entries import cell_entry
from report.plausible import cell


def test_a_run_says_what_is_shown_of_each_task() -> None:
    wanda = cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))
    entry = cell_entry(wanda, "nano:large")
    told = {name: value for name, value in entry.tags.items() if name.startswith("verdict.")}
    assert told == {
        "verdict.closed_book": "falls",
        "verdict.open_book": "matches",
        "verdict.multiple_choice": "not decided",
        "verdict.perplexity": "not decided",
    }
    points = {point.key: point.value for point in entry.points}
    found = [points[f"delta/{task}/verdict"] for task in ("closed_book", "multiple_choice", "open_book")]
    assert found == [-1.0, 0.0, 1.0]
    assert points["delta/closed_book/within_margin"] == 0.0
    assert points["delta/closed_book/change/low"] < points["delta/closed_book/change"] < -0.2
    assert points["delta/multiple_choice/needed"] == 2684
    assert "delta/closed_book/needed" not in points
