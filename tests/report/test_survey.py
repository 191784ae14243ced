"""What the report says in words and numbers follows from the cells."""

from __future__ import annotations

import pytest

from earnest.report.survey import Survey, figure_text, percent_change
from report.plausible import cell, sweep_cells


def test_the_finding_names_the_cell_where_perplexity_matches_and_a_task_lost_most() -> None:
    assert Survey(tuple(sweep_cells())).finding == "wanda 50%: perplexity +4.8%, closed book −28%"


def test_the_finding_of_a_sweep_that_lost_nothing_says_so() -> None:
    cells = (cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("rtn", "8", (91.0, 100.0, 100.0, 1.939)))
    assert Survey(cells).finding == "Nothing lost more than 5%: every score still matches dense"


def test_a_control_is_not_the_finding() -> None:
    cells = (cell("dense", "", (91.3, 100.0, 100.0, 1.939)), cell("random", "0.1", (50.7, 93.0, 81.0, 1.95)))
    assert Survey(cells).blind_spot is None


def test_a_claim_reaches_only_to_the_first_point_that_does_not_match() -> None:
    figures = {"0.2": 91.0, "0.3": 60.0, "0.4": 91.0}
    cells = [cell("wanda", ratio, (closed, 100.0, 100.0, 1.94)) for ratio, closed in figures.items()]
    survey = Survey((cell("dense", "", (91.3, 100.0, 100.0, 1.939)), *cells))
    last = {claim.task: claim.last.nominal if claim.last else None for claim in survey.claims(survey.curves[0])}
    assert last == {"perplexity": "40%", "closed_book": "20%", "open_book": "40%", "multiple_choice": "40%"}


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
    shown = [figure_text(*each) for each in ((0.5, "win_rate"), (7.25, "judge_score"), (1.5, "token_perplexity"))]
    assert shown == ["50.0", "7.25", "1.500"]
