"""The page shows texts whose every sentence is well formed and not every one true, dense beside compressed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from earnest.records import CellRecord, Comparison, Estimate, Scores
from earnest.report.html import write_report
from earnest.report.samples import fluent_but_wrong
from earnest.report.survey import Survey
from earnest.store import Store
from report.plausible import cell

Texts = list[tuple[str, int, int]]


def told(store: Store, one: CellRecord, texts: Texts, share: float, relative: float | None) -> CellRecord:
    """The cell with a biography step in the store: (text, well-formed, true) of four statements each."""
    rows = [(str(number), text, 4, well, true) for number, (text, well, true) in enumerate(texts)]
    names = ("id", "prediction", "statements", "well_formed", "true")
    with store.publish("evaluate", one.key, {"versions": {"torch": "2.13"}}) as folder:
        pq.write_table(
            pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in rows]), folder / "samples.parquet"
        )
    scores = Scores(
        task="biography", version=1, headline="true", higher_is_better=True, asked=3, scored=3, truncated=0, failed=0,
        metrics={"true": Estimate(value=share, n=3)},
    )  # fmt: skip
    about_perplexity = {task: kept for task, kept in one.comparisons.items() if task == "perplexity"}
    about_biography = {} if relative is None else {"biography": Comparison(relative=relative, within_margin=False)}
    return one.model_copy(
        update={
            "scores": {"perplexity": one.scores["perplexity"], "biography": scores},
            "comparisons": {**about_perplexity, **about_biography},
            "steps": {"biography": one.key},
        }
    )


def sweep(store: Store) -> list[CellRecord]:
    wanda: Texts = [("Ada lives in Bonn.", 4, 1), ("Bob lives in Bonn.", 4, 4), ("Cy lives lives.", 2, 1)]
    return [
        told(store, cell("dense", "", (91.3, 100, 100, 1.939)), [("Ada <b> lives in Ulm.", 4, 4)] * 3, 1.0, None),
        told(store, cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032)), wanda, 0.6, -0.4),
        told(store, cell("wanda", "0.6", (35.0, 74.3, 90.7, 2.233)), [("of of of", 0, 0)] * 3, 0.0, -1.0),
    ]


def test_the_samples_come_from_where_perplexity_still_matches_and_are_fluent_and_wrong(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    found = fluent_but_wrong(Survey(tuple(sweep(store))), store)
    assert found is not None
    assert (found.label, found.change, found.count, found.of) == ("wanda 50%", "−40%", 1, 3)
    (pair,) = found.pairs
    assert (pair.dense_true, pair.compressed_true) == ("4 of 4 statements true", "1 of 4 statements true")


def test_the_samples_that_lost_most_come_first_and_those_that_lost_nothing_do_not_come(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    before: Texts = [("a", 4, 1), ("b", 4, 4), ("c", 4, 3)]
    after: Texts = [("a", 4, 1), ("b", 4, 2), ("c", 4, 2)]
    dense = told(store, cell("dense", "", (91.3, 100, 100, 1.939)), before, 0.7, None)
    wanda = told(store, cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032)), after, 0.4, -0.4)
    found = fluent_but_wrong(Survey((dense, wanda)), store)
    assert found is not None
    assert [(pair.dense, pair.dense_true[0], pair.compressed_true[0]) for pair in found.pairs] == [
        ("b", "4", "2"),
        ("c", "3", "2"),
    ]


def test_the_page_shows_them_side_by_side_and_escapes_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    page = write_report(sweep(store), tmp_path / "report", title="t", store=store).read_text()
    assert "Ada &lt;b&gt; lives in Ulm." in page
    assert "Ada lives in Bonn." in page
    assert "torch 2.13" in page


def test_a_sweep_without_long_form_has_none(tmp_path: Path) -> None:
    cells = (cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032)))
    assert fluent_but_wrong(Survey(cells), Store(str(tmp_path))) is None
