"""The report says what pairs gain, on any sweep that steers something, and mixes steered cells with no others."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from earnest.report.gains import Gains
from earnest.report.html import write_report
from earnest.report.steering import alpha_figure, recovery_figure
from earnest.report.survey import Survey
from earnest.report.table import print_table
from report.plausible import steered_sweep, sweep_cells


@pytest.fixture(scope="module")
def gains() -> Gains:
    return Gains(Survey(tuple(steered_sweep())))


def test_steered_cells_are_no_part_of_the_curves_of_compression(gains: Gains) -> None:
    survey = gains.survey
    assert [curve.name for curve in survey.curves] == ["wanda", "rtn g32"]
    assert survey.dense is survey.cells[0]
    assert [cell.model for cell in survey.references] == ["nano:large-tuned", "nano:small-tuned"]


def test_the_finding_is_what_the_pair_does_at_its_usual_alpha(gains: Gains) -> None:
    assert gains.finding == (
        "nano:large + tuned α 1: closed book 10.3 → 65.0, 90% of the gap to nano:large-tuned closed"
    )
    assert Gains(Survey(tuple(sweep_cells()))).finding is None


def test_a_line_over_alpha_begins_at_the_base_and_keeps_adaptive_apart(gains: Gains) -> None:
    (line,) = gains.alpha_lines("closed_book")
    assert [(alpha, round(100 * e.value, 1)) for alpha, e in line.points] == [
        (0.0, 10.3), (0.5, 50.0), (1.0, 65.0), (2.0, 55.0),
    ]  # fmt: skip
    assert line.adaptive is not None
    assert line.adaptive.value == 0.66
    axes = alpha_figure(gains, "closed_book").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "0.5", "1", "2", "adaptive"]


def test_a_recovery_holds_the_same_ratios_without_and_with_the_pair(gains: Gains) -> None:
    assert gains.strengths == ["tuned α 1"]
    recoveries = gains.recoveries("tuned α 1")
    assert [(one.without.name, one.steered.name) for one in recoveries] == [
        ("wanda", "wanda + tuned α 1"), ("rtn g32", "rtn g32 + tuned α 1"),
    ]  # fmt: skip
    for one in recoveries:
        assert [point.nominal for point in one.without.points] == [point.nominal for point in one.steered.points]
    above, below = recovery_figure(gains, "closed_book", "tuned α 1").axes
    solid = [line.get_ydata()[-1] for line in above.lines if line.get_linestyle() == "-"]
    assert solid == pytest.approx([45.0, 20.0])
    shares = [line.get_ydata()[-1] for line in below.lines]
    assert shares == pytest.approx([(45 - 7) / (71 - 7), (20 - 3) / (71 - 3)])


def test_where_no_gap_is_shown_the_figure_says_so() -> None:
    cells = [
        cell.model_copy(
            update={
                "gains": {t: g.model_copy(update={"gap_closed": None, "won_back": None}) for t, g in cell.gains.items()}
            }
        )
        for cell in steered_sweep()
    ]
    gains = Gains(Survey(tuple(cells)))
    below = recovery_figure(gains, "closed_book", "tuned α 1").axes[1]
    assert [text.get_text() for text in below.texts] == ["no gap is shown"]
    assert gains.finding is None


def test_the_page_holds_every_gain_with_its_interval_and_the_words(tmp_path: Path) -> None:
    page = write_report(steered_sweep(), tmp_path, title="t").read_text()
    assert "90.1% [86.1, 94.1]" in page
    assert "&lt;Vienna&gt;" in page
    assert re.search(r"<h1>nano:large \+ tuned α 1: closed book", page)
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert {"alpha-closed_book.svg", "recovery-closed_book-0.svg"} <= names


def test_a_sweep_without_pairs_says_nothing_of_them(tmp_path: Path) -> None:
    assert "What the pairs gain" not in write_report(sweep_cells()[:3], tmp_path, title="t").read_text()


def test_the_exports_hold_pair_alpha_and_gains(tmp_path: Path) -> None:
    write_report(steered_sweep(), tmp_path, title="t")
    rows = pq.read_table(tmp_path / "cells.parquet").to_pylist()
    row = next(r for r in rows if r["is_headline"] and (r["curve"], r["alpha"]) == ("dense + tuned α 1", "1"))
    assert (row["pair"], row["expert"], row["target"]) == ("tuned", "nano:small-tuned", "nano:large-tuned")
    assert row["gap_closed"] == pytest.approx((65 - 10.3) / (71 - 10.3))
    assert (row["tokens_changed"], row["gap_closed_low"]) == (0.42, pytest.approx(row["gap_closed"] - 0.04))


def test_the_terminal_has_a_line_for_every_steered_cell() -> None:
    console = Console(file=StringIO(), width=120, color_system=None)
    print_table(steered_sweep(), console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"nano:large +tuned α adaptive +66\.0 \( 92%\)", printed)
    assert re.search(r"wanda 50% +tuned α 1 +45\.0 \( 59%\)", printed)
    assert "65.0, 90% of the gap" in printed
