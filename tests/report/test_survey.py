"""What the report says in words and numbers follows from the cells."""

from __future__ import annotations

import pytest

from earnest.report.survey import Survey, figure_text, percent_change
from earnest.report.verdicts import undecided_line
from report.plausible import cell, sweep_cells


def test_the_finding_names_the_cell_where_perplexity_is_shown_to_match_and_a_task_to_have_lost_most() -> None:
    """At 50% perplexity is 4.8% higher: within the margin, but not shown to be."""
    assert Survey(tuple(sweep_cells())).finding == "wanda 40%: perplexity +1.7%, closed book −12%"


def test_the_finding_of_a_sweep_that_lost_nothing_says_so() -> None:
    cells = (cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("rtn", "8", (91.0, 100.0, 100.0, 1.939)))
    assert Survey(cells).finding == "Nothing lost more than 5%: every score is shown to match dense"


def test_what_is_not_decided_is_no_finding() -> None:
    cells = (cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("rtn", "4", (85.0, 100.0, 100.0, 1.939)))
    assert Survey(cells).finding == "Nothing is shown to lose more than 5%; 3 of 4 scores are shown to match"
    unjudged = tuple(
        one.model_copy(
            update={"comparisons": {k: c.model_copy(update={"verdict": None}) for k, c in one.comparisons.items()}}
        )
        for one in sweep_cells()
    )
    assert "0 of" in Survey(unjudged).finding
    assert {claim.shown for claim in Survey(unjudged).claims(Survey(unjudged).curves[0])} == {None}


def test_what_would_decide_is_counted_in_what_is_tested() -> None:
    cells = (cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("rtn", "4", (85.0, 100.0, 100.0, 1.939)))
    open_one = cells[1].comparisons["closed_book"]
    assert undecided_line(Survey(cells)) == "Not decided: closed book 1 of 1 at n = 300 (n ≈ 2,700 for half)."
    clustered = open_one.model_copy(update={"units": 57, "samples": 300})
    cells[1].comparisons["closed_book"] = clustered
    assert undecided_line(Survey(cells)).endswith("1 of 1 at clusters = 57 (clusters ≈ 2,700 for half).")


def test_a_control_is_not_the_finding() -> None:
    cells = (cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("random", "0.1", (50.7, 93.0, 81.0, 1.95)))
    assert Survey(cells).blind_spot is None


def test_a_claim_is_solid_as_far_as_it_is_shown_and_open_as_far_as_nothing_is() -> None:
    figures = {"0.2": 91.0, "0.3": 88.0, "0.4": 86.0, "0.5": 91.0, "0.6": 60.0, "0.7": 91.0}
    cells = [cell("wanda", ratio, (closed, 100.0, 100.0, 1.94)) for ratio, closed in figures.items()]
    survey = Survey((cell("dense", "", (91.3, 100.0, 100.0, 1.939)), *cells))
    (claim,) = (one for one in survey.claims(survey.curves[0]) if one.task == "closed_book")
    assert claim.ratios == "20% (50%?)"
    assert claim.saved < claim.at_most < cells[-2].saved


def test_seeds_that_disagree_leave_a_point_open() -> None:
    seeds = [cell("wanda", "0.5", (closed, 100, 100, 1.94), seed=seed) for seed, closed in enumerate((91.0, 60.0))]
    (curve,) = Survey((cell("dense", "", (91.3, 100.0, 100.0, 1.939)), *seeds)).curves
    assert not curve.points[0].no_worse("closed_book")
    assert not curve.points[0].falls("closed_book")


def test_a_claim_reaches_only_to_the_first_point_that_falls() -> None:
    figures = {"0.2": 91.0, "0.3": 60.0, "0.4": 91.0}
    cells = [cell("wanda", ratio, (closed, 100.0, 100.0, 1.94)) for ratio, closed in figures.items()]
    survey = Survey((cell("dense", "", (91.3, 100.0, 100.0, 1.939)), *cells))
    assert {claim.task: claim.ratios for claim in survey.claims(survey.curves[0])} == {
        "perplexity": "40%",
        "closed_book": "20%",
        "open_book": "40%",
        "multiple_choice": "40%",
    }


def test_seeds_are_one_point_and_patterns_a_curve_of_their_own() -> None:
    seeds = [cell("wanda", "0.5", (closed, 98.7, 95.3, 2.032), seed=seed) for seed, closed in enumerate((64.0, 66.0))]
    survey = Survey((*seeds, cell("wanda", "2:4", (41.0, 86.0, 89.3, 2.289))))
    points = {curve.name: curve.points for curve in survey.curves}
    assert {name: len(p) for name, p in points.items()} == {"wanda": 1, "wanda 2:4": 1}
    score = points["wanda"][0].score("closed_book")
    assert score is not None
    assert score.value == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("relative", "text"),
    [
        (-0.2374, "−24%"),
        (0.0412, "+4.1%"),
        (0.0, "0%"),
        (-0.0001, "0%"),
        (-0.0995, "−10%"),
        (9.92, "+992%"),
        (25.0, "+25×"),
        (None, ""),
    ],
)
def test_changes_read_as_people_write_them(relative: float | None, text: str) -> None:
    assert percent_change(relative) == text


def test_a_judges_score_is_no_share() -> None:
    figures = ((0.5, "win_rate"), (7.25, "judge_score"), (1.5, "token_perplexity"), (27.31, "bleu"))
    assert [figure_text(*each) for each in figures] == ["50.0", "7.25", "1.500", "27.310"]


def test_charts_draw_shares_as_percent_and_a_judges_score_as_it_is() -> None:
    cells = tuple(sweep_cells())
    judged = tuple(
        one.model_copy(
            update={"scores": {t: s.model_copy(update={"headline": "judge_score"}) for t, s in one.scores.items()}}
        )
        for one in cells
    )
    assert [Survey(cells).scale(task) for task in ("closed_book", "perplexity")] == [100.0, 1.0]
    assert Survey(judged).scale("closed_book") == 1.0
