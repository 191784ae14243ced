"""What papers published stands beside what was measured of the same model, task and metric; nothing else does."""

import json
from pathlib import Path

import pytest

from earnest.published.figures import HERE, Figures, Published, read_published
from earnest.records import CellRecord
from earnest.report.html import write_report
from earnest.report.published import beside, published_section, subject_of
from earnest.specs import UserError
from report.plausible import accuracy, steered, sweep_cells

PAPER = Published(
    paper="arXiv 1",
    figures=(
        Figures(
            task="gsm8k", metric="exact_match", n=100, how="read", source="a log", note="counts differently",
            values={"Llama-2-13b-hf": 0.5, "Llama-2-13b-hf + tuned α 1": 0.911, "Llama-2-70b-hf": 0.7},
        ),
        Figures(task="gsm8k", metric="novelty", how="read", source="a log", values={"Llama-2-13b-hf": 0.5}),
    ),
)  # fmt: skip


def of(cell: CellRecord, percent: float) -> CellRecord:
    scores = accuracy(percent, "gsm8k").model_copy(update={"task": "gsm8k"})
    return cell.model_copy(update={"model": "/models/Llama-2-13b-hf", "scores": {"gsm8k": scores}})


@pytest.fixture
def cells() -> list[CellRecord]:
    dense, pruned = sweep_cells()[:2]
    return [of(dense, 40), of(pruned, 30), of(steered(dense, 1.0, 65.3), 90)]


def test_subjects_are_named_by_model_compression_and_pair(cells: list[CellRecord]) -> None:
    names = ["Llama-2-13b-hf", "Llama-2-13b-hf magnitude 20%", "Llama-2-13b-hf + tuned α 1"]
    assert [subject_of(cell) for cell in cells] == names
    hub = cells[0].model_copy(update={"model": "meta-llama/Llama-2-13b-hf@main"})
    assert subject_of(hub) == "Llama-2-13b-hf"


def test_a_figure_stands_beside_the_same_subject_task_and_metric(cells: list[CellRecord]) -> None:
    dense, proxy = beside(cells, PAPER)
    assert (dense.published, dense.measured.value, dense.within) == (0.5, 0.4, False)
    assert dense.difference == pytest.approx(-0.1)
    assert (proxy.published, proxy.measured.value, proxy.within) == (0.911, 0.9, True)
    section = published_section(cells, PAPER)
    assert section["left"] == 2  # another model, and a metric that was not measured
    assert [row["difference"] for row in section["rows"]] == ["−10.0", "−1.1"]
    assert section["notes"] == [("gsm8k, exact match", "read: a log; counts differently")]


@pytest.mark.slow
def test_the_report_has_the_section_only_where_figures_are_named(cells: list[CellRecord], tmp_path: Path) -> None:
    without = write_report(cells, tmp_path, title="t").read_text(encoding="utf-8")
    assert "Published, and measured here" not in without
    page = write_report(cells, tmp_path, title="t", published=PAPER).read_text(encoding="utf-8")
    assert "<td>Llama-2-13b-hf + tuned α 1</td><td>gsm8k</td><td>exact match</td><td>100</td><td>91.1</td>" in page
    assert "2 published figures have nothing beside them here" in page


def test_a_file_that_does_not_ship_is_refused_with_those_that_do() -> None:
    with pytest.raises(UserError, match="shipped are llm_kick, proxy_tuning; or name"):
        read_published("proxytuning")


def test_shipped_figures_are_those_of_the_logs(shared: Path) -> None:
    anchors = json.loads((shared / "data/published_anchors.json").read_text())
    read = {
        (one.task, one.metric, subject): value
        for name in ("proxy_tuning", "llm_kick")
        for one in read_published(name).figures
        for subject, value in one.values.items()
    }
    assert sorted(path.stem for path in HERE.glob("*.toml")) == ["llm_kick", "proxy_tuning"]
    proxy, base = "Llama-2-13b-hf + chat α 1", "Llama-2-70b-hf"
    gsm, mc = anchors["gsm"], anchors["truthfulqa/mc"]
    assert read["gsm8k", "proxy_tuning_match", proxy] == gsm["dexperts-13B"]["exact_match"]
    assert read["gsm8k", "proxy_tuning_match", "Llama-2-70b-gsm"] == gsm["llama2-gsm-70B"]["exact_match"]
    assert read["alpaca_farm", "win_rate", proxy] == anchors["alpaca_farm"]["dexperts-13B"]["win_rate"] / 100
    assert read["toxigen", "toxic", base] == anchors["toxigen"]["llama2-70B"]["overall"]
    assert read["truthful_qa", "accuracy_of_valid", base] == mc["llama2-70B"]["acc"]
    assert read["truthful_qa", "accuracy", base] == pytest.approx(
        300 / 817
    )  # 709 of 817 answered, 42.31 % of them right
    code = anchors["codex_humaneval"]["codellama-7B-t0.8"]["pass@10"]
    assert read["human_eval", "pass_at_10", "CodeLlama-7b-Python-hf"] == code
    assert read["trivia_qa", "kick_containment", "vicuna-7b-v1.3 magnitude 20%"] == 0.5
