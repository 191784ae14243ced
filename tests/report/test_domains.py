"""What the page says of domains is what was found of them: shown only where it is, undecided where it is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from earnest.report.domains import Domains, blocks_figure, domain_sections, domains_figure
from earnest.report.survey import Survey
from report.lost import losses
from report.plausible import DOMAINS, cell, sweep_cells

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def domains() -> Domains:
    cells = sweep_cells()
    return Domains(Survey(tuple(cells)), tuple(losses(cells).find()))


def texts(figure: object) -> set[str]:
    return {text.get_text() for axes in figure.axes for text in axes.texts}  # type: ignore[attr-defined]


def test_the_table_tells_of_the_cell_that_perplexity_hides_and_of_the_worst_domain_first(domains: Domains) -> None:
    (part,) = domain_sections(domains)
    assert domains.survey.blind_spot is not None
    assert part["focus"] == domains.survey.blind_spot[0].label
    rows = [row for row in part["groups"] if row["grouping"] == "domain"]
    assert part["uneven"] == [
        "That domains lose unequally is not decided (adjusted p 0.210).",
        "That strata lose unequally is shown (adjusted p < 0.001).",
    ]
    changes = [float(row["relative"].strip("%").replace("−", "-")) for row in rows]
    assert len(rows) == len(DOMAINS)
    assert changes == sorted(changes)
    assert {row["verdict"] for row in part["groups"]} <= {"falls", "not decided"}
    assert all((row["verdict"] == "falls") == (float(row["p"]) <= 0.05) for row in part["groups"])


def test_a_judges_points_are_no_percent() -> None:
    cells = sweep_cells()
    for one in cells:
        scores = one.scores["closed_book"]
        judged = scores.model_copy(update={"headline": "judge_score", "metrics": {"judge_score": scores.main}})
        one.scores["closed_book"] = judged
    (part,) = domain_sections(Domains(Survey(tuple(cells)), tuple(losses(cells).find())))
    row = part["groups"][0]
    lost = float(row["subject"]) - float(row["dense"])
    value, _, interval = row["difference"].partition(" ")
    assert float(value.replace("−", "-")) == pytest.approx(lost, abs=0.011)
    assert interval == "[−0.30, +0.10]"


def test_a_reason_that_no_cell_measured_is_named_apart(domains: Domains) -> None:
    (part,) = domain_sections(domains)
    samples, over_domains = part["reasons"]
    assert samples["names"] == ["rarity of the fact", "unseen in calibration"]
    assert samples["absent"] == ["length of the answer"]
    assert over_domains["names"] == ["different answers"]
    rarity, unseen = samples["rows"][0]["cells"]
    assert rarity == {"text": "+12.4 [9.6, 15.3]", "shown": True}
    assert unseen == {"text": "−0.4 [−3.0, 2.0]", "shown": False}


def test_the_map_has_a_square_for_every_cell_and_group(domains: Domains) -> None:
    figure = domains_figure(domains, "closed_book")
    assert len(figure.axes[0].texts) == 27 * (len(DOMAINS) + 2)
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()][-2:] == ["tail", "head"]


def test_a_block_without_a_share_has_no_bar(domains: Domains) -> None:
    ((one, loss),) = domains.localised()
    figure = blocks_figure(one, loss)
    assert [round(bar.get_height(), 2) for bar in figure.axes[0].patches] == [-0.02, 0.2, 0.5]
    assert texts(figure) >= {"−2%", "20%", "50%"}
    alone = blocks_figure(one, loss.model_copy(update={"groups": ()}))
    assert len(alone.axes) == 1


def test_without_losses_nothing_is_said() -> None:
    survey = Survey((cell("dense", "", (91.3, 100.0, 100.0, 1.939)),))
    assert domain_sections(Domains(survey)) == []
    assert list(replace(Domains(survey), losses=()).localised()) == []
