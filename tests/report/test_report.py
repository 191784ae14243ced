"""The report stands on any sweep, whole or broken, and reads well on a phone in the dark."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
from base64 import b64decode
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from matplotlib.collections import PathCollection
from rich.console import Console

from earnest.records import CellRecord, Comparison, Estimate
from earnest.report.html import write_report
from earnest.report.panels import saved_figure
from earnest.report.survey import Survey
from earnest.report.table import print_table
from report.lost import losses
from report.plausible import cell, sweep_cells

pytestmark = pytest.mark.slow

DENSE = cell("dense", "", (91.3, 100.0, 100.0, 1.939))
WANDA = cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))


def only(one: CellRecord, *tasks: str) -> CellRecord:
    kept = {
        name: {task: getattr(one, name)[task] for task in tasks if task in getattr(one, name)}
        for name in ("scores", "comparisons", "steps")
    }
    return one.model_copy(update=kept)


def unjudged(one: CellRecord) -> CellRecord:
    """The cell as it was written down before there were verdicts."""
    before = ("relative", "within_margin", "retention", "flips", "kl")
    kept = {task: {name: getattr(c, name) for name in before} for task, c in one.comparisons.items()}
    return one.model_copy(update={"comparisons": {task: Comparison(**fields) for task, fields in kept.items()}})


BROKEN = WANDA.model_copy(
    update={"scores": {}, "comparisons": {}, "size": None, "failures": {"compress": "out of <memory>"}}
)
SWEEPS = {
    "dense only": [DENSE],
    "one task": [only(DENSE, "closed_book"), only(WANDA, "closed_book")],
    "perplexity alone": [only(DENSE, "perplexity"), only(WANDA, "perplexity")],
    "a pattern alone": [DENSE, cell("magnitude", "2:4", (43.3, 82.3, 90.0, 2.314))],
    "everything failed": [BROKEN],
    "dense failed": [DENSE.model_copy(update={"scores": {}, "failures": {"closed_book": "lost"}}), WANDA],
    "one cell failed": [DENSE, BROKEN, cell("rtn", "4", (88.0, 100.0, 99.7, 1.946))],
    "a new method": [DENSE, WANDA.model_copy(update={"method": "newcomer"})],
    "cells without verdicts": [DENSE, unjudged(WANDA)],
    "nothing": [],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(sweep_cells(), folder, title="demo", losses=losses(sweep_cells()))


@pytest.mark.parametrize("name", SWEEPS)
def test_any_sweep_has_a_report_and_a_table(name: str, tmp_path: Path) -> None:
    page = write_report(SWEEPS[name], tmp_path, title=name).read_text()
    assert "<h1>" in page
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL).lower().replace("nano", "").replace(
        "isnan", ""
    )
    print_table(SWEEPS[name], Console(file=StringIO(), width=120))


def test_what_failed_stands_on_the_page_with_its_reason(tmp_path: Path) -> None:
    page = write_report(SWEEPS["one cell failed"], tmp_path, title="t").read_text()
    assert "out of &lt;memory&gt;" in page
    assert "1 steps failed" in page


def test_the_page_fetches_nothing(report: Path) -> None:
    page = report.read_text()
    assert not re.search(r"(?:src|href)=\"(?!#|data:text/csv;base64,)", page)
    assert not re.search(r"url\((?!#)|@import", page)


def test_a_copy_of_the_page_alone_still_holds_the_data(report: Path) -> None:
    link = re.search(r'download="cells.csv" href="data:text/csv;base64,([^"]+)"', report.read_text())
    assert link is not None
    assert b64decode(link[1]) == (report.parent / "cells.csv").read_bytes()


def babbling(one: CellRecord, fluent: float) -> CellRecord:
    """The cell with closed-book texts of which this share is well formed."""
    scores = one.scores["closed_book"]
    metrics = {**scores.metrics, "fluent": Estimate(value=fluent, n=300)}
    return one.model_copy(
        update={"scores": {**one.scores, "closed_book": scores.model_copy(update={"metrics": metrics})}}
    )


RANDOM = [
    cell("random", "0.1", (50.7, 93.0, 81.0, 2.147)),
    babbling(cell("random", "0.2", (96.1, 57.3, 60.3, 4.375)), 0.004),
    babbling(cell("random", "0.3", (3.0, 6.0, 41.0, 21.165)), 0.5),
]


def test_a_score_of_texts_that_are_not_fluent_is_not_given(tmp_path: Path) -> None:
    page = write_report([DENSE, *RANDOM], tmp_path, title="t").read_text()
    assert "96.1" not in re.sub(r"href=\"data:[^\"]+|<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert '<td title="0.4% of the statements are well formed">not fluent</td>' in page
    assert page.count("Left out as not fluent (fewer than half of the statements well formed): random 20%.") == 2
    console = Console(file=StringIO(), width=160, color_system=None)
    print_table([DENSE, *RANDOM], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "96.1" not in printed
    assert printed.count("not fluent") == 1


def test_a_curve_has_a_gap_where_the_model_is_not_fluent() -> None:
    figure = saved_figure(Survey((DENSE, *RANDOM)), "closed_book")
    (line,) = (line for line in figure.axes[0].lines if line.get_marker() == "o")
    shown = [round(float(y), 1) if y == y else None for y in line.get_ydata()]
    assert shown == [91.3, 50.7, None, 3.0]


def test_points_that_are_not_decided_are_hollow() -> None:
    cells = [cell("wanda", ratio, (closed, 100.0, 100.0, 1.94)) for ratio, closed in (("0.2", 91.0), ("0.3", 87.0))]
    figure = saved_figure(Survey((DENSE, *cells)), "closed_book")
    (hollow,) = (one for one in figure.axes[0].collections if isinstance(one, PathCollection))
    assert hollow.get_offsets().tolist() == [[pytest.approx(cells[1].saved), pytest.approx(87.0)]]


def test_a_score_that_is_not_fluent_is_no_match_and_no_loss() -> None:
    survey = Survey((DENSE, *RANDOM))
    (curve,) = survey.curves
    assert not curve.points[1].no_worse("closed_book")
    assert curve.points[1].falls("closed_book")
    assert survey.loss(RANDOM[1], "closed_book") is None
    assert survey.loss(RANDOM[2], "closed_book") is not None


def test_the_same_cells_give_the_same_bytes(report: Path, tmp_path: Path) -> None:
    again = write_report(sweep_cells(), tmp_path, title="demo", losses=losses(sweep_cells()))
    assert again.read_bytes() == report.read_bytes()
    svg = "figures/saved-closed_book.svg"
    assert (tmp_path / svg).read_bytes() == (report.parent / svg).read_bytes()


def test_a_report_of_unchanged_cells_is_left_alone(report: Path) -> None:
    before = report.stat().st_mtime_ns
    write_report(sweep_cells(), report.parent, title="demo", losses=losses(sweep_cells()))
    assert report.stat().st_mtime_ns == before


def test_the_exports_hold_every_score_of_every_cell(report: Path) -> None:
    rows = pq.read_table(report.parent / "cells.parquet").to_pylist()
    headlines = [row for row in rows if row["is_headline"]]
    assert len(headlines) == 30 * 4
    wanda = next(r for r in headlines if (r["method"], r["nominal"], r["task"]) == ("wanda", "50%", "closed_book"))
    assert (wanda["value"], wanda["n"], wanda["within_margin"], wanda["verdict"]) == (0.653, 300, False, "falls")
    assert (wanda["change"], wanda["units"], wanda["needed"]) == (pytest.approx(0.653 - 0.913), 300, None)
    with (report.parent / "cells.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)


def test_every_figure_is_there_in_light_dark_and_as_a_picture(report: Path) -> None:
    names = {path.name for path in (report.parent / "figures").iterdir()}
    for figure in (
        "claims",
        "saved-perplexity",
        "saved-closed_book",
        "asked-closed_book",
        "domains-closed_book",
        "blocks-closed_book-0",
    ):
        assert {f"{figure}.svg", f"{figure}-dark.svg", f"{figure}.png"} <= names


@pytest.mark.parametrize("width", [120, 160])
def test_the_table_fits_its_console(width: int) -> None:
    console = Console(file=StringIO(), width=width, color_system=None)
    print_table(sweep_cells(), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert max(map(len, lines)) <= width
    row = next(line for line in lines if line.startswith("wanda") and "50%" in line)
    assert {"65.3", "−28%✗", "+4.8%?", "−1.3%✓"} <= set(row.split())


def test_a_change_within_noise_is_marked_and_figures_still_line_up() -> None:
    """One sign ends each cell; what else there is to know stands before the change."""
    noisy = cell("rtn", "4", (90.8, 100.0, 100.0, 1.95))
    comparison = noisy.comparisons["closed_book"].model_copy(update={"noise": 0.02})
    noisy = noisy.model_copy(update={"comparisons": {**noisy.comparisons, "closed_book": comparison}})
    console = Console(file=StringIO(), width=100, color_system=None)
    print_table([DENSE, WANDA, noisy], console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    rows = [line for line in printed.splitlines() if line.startswith(("wanda", "rtn"))][:2]
    assert "~−0.5%✓" in rows[1]
    assert rows[0].index("✗") == rows[1].index("✓", 40)
    assert "~ no larger than seeds or batches alone make it." in " ".join(printed.split())


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.parametrize("width", [360, 1280])
def test_no_page_is_wider_than_its_window(report: Path, tmp_path: Path, width: int) -> None:
    """The page is shown in a frame of the given width, because a headless window is never narrower than 500 pixels."""
    probe = tmp_path / "probe.html"
    probe.write_text(
        f"""<iframe id=f style="width:{width}px;height:800px;border:0" src="{report.as_uri()}"></iframe><script>
        f.onload = () => {{ const d = f.contentDocument.documentElement;
          document.title = d.scrollWidth + " " + d.clientWidth; document.body.append(document.title) }}</script>"""
    )
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += " --disable-component-update --disable-sync --allow-file-access-from-files --force-dark-mode"
    flags += " --virtual-time-budget=5000 --dump-dom"
    command = [
        "chromium",
        *flags.split(),
        "--force-dark-mode",
        f"--user-data-dir={tmp_path / 'profile'}",
        probe.as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout
    found = re.search(r"<title>(\d+) (\d+)</title>", shown)
    assert found is not None
    assert int(found[1]) <= int(found[2])
