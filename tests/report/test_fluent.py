"""The page shows answers that read well and are false beside dense's right ones, and counts them in every cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.records import CellRecord, Comparison, Estimate, Part, Scores
from earnest.report.fluent import Form, Told, fluent_but_wrong, is_fluent
from earnest.report.html import write_report
from earnest.report.survey import Survey
from earnest.report.writing import moved_tables, writing_tables
from earnest.store import Store
from report.plausible import cell

Row = dict[str, Any]
PLAIN: Row = {
    "gold": "Ulm", "domain": "", "asked": "Q: Where was Ada born?\nA:", "confidence": 0.5, "empty": False,
    "declined": False, "tokens": 3, "finish": "stop", "rep_2": 0.0, "rep_3": None, "rep_4": None,
}  # fmt: skip


def answer(name: str, prediction: str, *, right: bool = False, **more: Any) -> Row:
    return {**PLAIN, "id": name, "prediction": prediction, "correct": right, **more}


def biography(name: str, prediction: str, verdicts: str, **more: Any) -> Row:
    well, true = sum(sign != "x" for sign in verdicts), verdicts.count("t")
    counts = {"statements": len(verdicts), "well_formed": well, "true": true, "verdicts": verdicts}
    return {**answer(name, prediction), "correct": None, **counts, **more}


def told(store: Store, one: CellRecord, tasks: dict[str, list[Row]], relative: float | None = None) -> CellRecord:
    """The cell with its answers to some tasks in the store."""
    scores, steps = {"perplexity": one.scores["perplexity"]}, dict[str, str]()
    for task, rows in tasks.items():
        steps[task] = f"{one.key}{task}"
        with store.publish("evaluate", steps[task], {"versions": {"torch": "2.13"}}) as folder:
            pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")
        headline = "true" if task == "biography" else "exact_match"
        value = Estimate(value=0.745, n=len(rows))
        fluent = {"fluent": Estimate(value=0.971, n=len(rows))} if task == "biography" else {}
        scores[task] = Scores(
            task=task, version=1, headline=headline, higher_is_better=True, asked=3, scored=3, truncated=0, failed=0,
            metrics={headline: value, "unfinished": Estimate(value=0.0, n=3), **fluent},
        )  # fmt: skip
    about = {task: Comparison(relative=relative, within_margin=False, verdict="falls") for task in tasks}
    comparisons = {} if relative is None else {"perplexity": one.comparisons["perplexity"], **about}
    return one.model_copy(update={"scores": scores, "comparisons": comparisons, "steps": steps, "datasets": {}})


DENSE = cell("dense", "", (91.3, 100, 100, 1.939))
WANDA = cell("wanda", "0.5", (65.3, 98.7, 95.3, 2.032))
RANDOM = cell("random", "0.2", (16.7, 57.3, 60.3, 4.375))
RIGHT = [answer(name, "Ulm", right=True) for name in "abcd"]


def pairs_of(found: Told, task: str = "closed_book") -> list[tuple[str, str]]:
    return [(pair.id, pair.compressed[0].text) for pair in found.pairs[task]]


def test_wrong_answers_are_counted_and_the_most_confident_ones_come_first(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    wrong = [
        answer("a", "Bonn", confidence=0.3), answer("b", "Köln", confidence=0.9), answer("c", ""  , empty=True),
        answer("d", "Ulm", right=True),
    ]  # fmt: skip
    before = [*RIGHT[:3], answer("d", "Bonn")]
    cells = (told(store, DENSE, {"closed_book": before}), told(store, WANDA, {"closed_book": wrong}, -0.4))
    found = fluent_but_wrong(Survey(cells), store)
    assert found is not None
    assert found.first is not None
    assert [each.counts["closed_book"].text for each in found.cells] == ["1 of 1 (100%)", "2 of 3 (67%)"]
    assert pairs_of(found.first) == [("b", "Köln"), ("a", "Bonn")]
    pair = found.first.pairs["closed_book"][0]
    assert (pair.dense[0].text, pair.dense[0].sign, pair.compressed[0].sign) == ("Ulm", "t", "f")
    assert (pair.gold, pair.compressed_note) == ("Ulm", "wrong, 90% sure")


@pytest.mark.parametrize(
    "giving_away",
    [
        {"prediction": "Bonn Bonn Bonn Bonn", "tokens": 5, "rep_2": 0.75},
        {"finish": "length"},
        {"empty": True, "prediction": ""},
        {"declined": True, "prediction": "I don't know"},
        {"tokens": 40},
        {"prediction": "...?"},
        {"prediction": "Bon\ufffd"},
        {"finish": "not_finite"},
    ],
    ids=["repeats itself", "unfinished", "empty", "declined", "too long", "no word", "half a character", "broken"],
)
def test_an_answer_whose_form_gives_it_away_is_not_fluent(giving_away: Row) -> None:
    form = Form.of(RIGHT)
    assert is_fluent(answer("a", "Bonn"), form, own_world=False)
    assert not is_fluent({**answer("a", "Bonn"), **giving_away}, form, own_world=False)


def test_of_the_almanac_only_its_values_are_well_formed() -> None:
    form = Form.of(RIGHT)
    assert is_fluent(answer("a", "botany", domain="city"), form, own_world=True)
    assert not is_fluent(answer("a", "Bonn", domain="city"), form, own_world=True)


def test_a_biography_is_fluent_where_every_sentence_is_well_formed() -> None:
    form = Form.of([biography("a", "A. B.", "tt")])
    assert is_fluent(biography("a", "A. B.", "tf"), form, own_world=True)
    assert not is_fluent(biography("a", "A. B.", "tx"), form, own_world=True)
    assert not is_fluent(biography("a", "", ""), form, own_world=True)


def test_false_sentences_are_marked_and_those_that_lost_most_come_first(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    before = [biography("a", "A. B.", "tt"), biography("b", "C. D.", "tt"), biography("c", "E. F.", "tf")]
    after = [biography("a", "A. X.", "tf"), biography("b", "Y. Z.", "ff"), biography("c", "E. F.", "tf")]
    cells = (told(store, DENSE, {"biography": before}), told(store, WANDA, {"biography": after}, -0.4))
    found = fluent_but_wrong(Survey(cells), store)
    assert found is not None
    assert found.first is not None
    assert found.first.counts["biography"].text == "3 of 3 (100%)"
    assert pairs_of(found.first, "biography") == [("b", "Y."), ("a", "A.")]
    assert [part.sign for part in found.first.pairs["biography"][1].compressed] == ["t", "f"]
    assert found.first.pairs["biography"][0].compressed_note == "0 of 2 sentences true"


@pytest.mark.slow
def test_the_page_shows_them_side_by_side_and_escapes_them(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "store"))
    before = {"closed_book": RIGHT, "biography": [biography("a", "Ada was born in Ulm.", "t")]}
    after = {
        "closed_book": [answer(name, "<b>Bonn") for name in "abcd"],
        "biography": [biography("a", "Ada was born in Bonn.", "f")],
    }
    cells = [told(store, DENSE, before), told(store, WANDA, after, -0.4), told(store, RANDOM, after, -0.9)]
    page = write_report(cells, tmp_path / "report", title="t", store=store).read_text()
    assert "&lt;b&gt;Bonn" in page
    assert "<b>Bonn" not in page
    assert '<span class="false" title="false">Ada was born in Bonn.</span>' in page
    assert "Where was Ada born?" in page
    assert "4 of 4 (100%)" in page
    assert "97.1 → 74.5" in page
    assert "torch 2.13" in page
    assert "<summary>random" not in page, "controls are counted, not shown"


def test_samples_of_which_the_form_is_not_told_are_left_out(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    bare = [{name: row[name] for name in ("id", "prediction", "gold", "correct")} for row in RIGHT]
    cells = (told(store, DENSE, {"closed_book": RIGHT}), told(store, WANDA, {"closed_book": bare}, -0.4))
    found = fluent_but_wrong(Survey(cells), store)
    assert found is not None
    assert [dict(each.counts).keys() for each in found.cells] == [{"closed_book"}, set()]


def test_a_sweep_without_written_answers_has_none(tmp_path: Path) -> None:
    assert fluent_but_wrong(Survey((DENSE, WANDA)), Store(str(tmp_path))) is None


def test_how_answers_are_written_stands_in_a_table_per_task() -> None:
    estimates = {"tokens": Estimate(value=2.5, n=3), "rep_4": Estimate(value=0.125, low=0.1, high=0.15, n=3)}
    scores = DENSE.scores["closed_book"]
    one = DENSE.model_copy(
        update={"scores": {"closed_book": scores.model_copy(update={"metrics": {**scores.metrics, **estimates}})}}
    )
    (table,) = writing_tables(Survey((one,)))
    assert table["headings"] == ["tokens", "rep-4"]
    assert table["rows"][0]["figures"] == [{"text": "2.5", "half": ""}, {"text": "12.5", "half": "2.5"}]


def test_kinds_of_tokens_stand_in_their_order_with_dense_above() -> None:
    def parts(**values: float) -> dict[str, Part]:
        return {
            name.replace("_", " "): Part(tokens=50, mean=Estimate(value=value, n=9)) for name, value in values.items()
        }

    def moved(one: CellRecord, **metrics: dict[str, Part]) -> CellRecord:
        found = {name: {"told": kinds} for name, kinds in metrics.items()}
        return one.model_copy(
            update={"scores": {"perplexity": one.scores["perplexity"].model_copy(update={"breakdowns": found})}}
        )

    dense = moved(DENSE, nats_per_token=parts(grammar=0.4, value=1.0))
    wanda = moved(WANDA, nats_per_token=parts(grammar=0.5, value=3.0), kl_to_dense=parts(grammar=0.01, value=1.5))
    (table,) = moved_tables(Survey((dense, wanda)))
    assert table["headings"] == ["value (50%)", "grammar (50%)"]
    assert [[figure["text"] for figure in row["figures"]] for row in table["rows"]] == [
        ["–", "–"],
        ["1.5000", "0.0100"],
    ]
    assert moved_tables(Survey((dense,))) == []
