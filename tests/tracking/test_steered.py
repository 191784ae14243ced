"""A steered cell is a run of its own: its pair and alpha are parameters, what it gains are metrics."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from earnest.tracking.curves import curve_entries
from earnest.tracking.entries import cell_entry
from earnest.tracking.mlflow_runs import Tracker
from report.plausible import steered_sweep

CELLS = steered_sweep()


def test_alpha_is_a_parameter_and_gap_closed_a_metric() -> None:
    cell = next(one for one in CELLS if one.label == "dense + tuned α 1")
    entry = cell_entry(cell, "nano:large")
    wanted = {"alpha": "1", "pair": "tuned", "expert": "nano:small-tuned", "antiexpert": "nano:small"}
    assert wanted.items() <= entry.params.items()
    points = {point.key: point.value for point in entry.points}
    assert points["gap_closed/closed_book"] == pytest.approx((65 - 10.3) / (71 - 10.3))
    assert points["gap_closed/closed_book/high"] > points["gap_closed/closed_book"]
    assert points["tokens_changed/closed_book"] == 0.42
    assert entry.run_name == "nano:large dense + tuned α 1"
    assert entry.tags["method"] == "dense + tuned α 1"


def test_a_steered_curve_begins_at_dense_under_the_same_pair() -> None:
    curves = {entry.run_name: entry for entry in curve_entries(CELLS)}
    assert set(curves) == {"wanda", "rtn g32", "wanda + tuned α 1", "rtn g32 + tuned α 1"}
    scores = {
        name: [round(100 * p.value, 1) for p in entry.points if p.key == "curve/closed_book"]
        for name, entry in curves.items()
    }
    assert scores["wanda"] == [10.3, 9.0, 7.0]
    assert scores["wanda + tuned α 1"] == [65.0, 60.0, 45.0]


def test_cells_without_a_pair_say_nothing_of_alpha() -> None:
    assert "alpha" not in cell_entry(CELLS[0], "nano:large").params


@pytest.mark.slow
def test_mlflow_holds_a_run_for_every_steered_cell(tmp_path: Path) -> None:
    Tracker(None, "proxy", str(tmp_path), pytest.fail).record(CELLS)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        alphas = database.execute("select value from params where key = 'alpha' order by value").fetchall()
        states = database.execute("select distinct status from runs").fetchall()
    assert [alpha for (alpha,) in alphas] == ["0", "0.5", "1", "1", "1", "1", "1", "2", "adaptive"]
    assert states == [("FINISHED",)]
