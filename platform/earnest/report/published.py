"""Published figures beside the measured ones: for every cell and task of a sweep that a paper has a figure of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from earnest.published.figures import Figures, Published
from earnest.records import CellRecord, Estimate
from earnest.report.intervals import half_text, signed
from earnest.report.survey import figure_text, spoken


@dataclass(frozen=True)
class Beside:
    """A published figure and what was measured of the same subject, task and metric."""

    subject: str
    figures: Figures
    published: float
    measured: Estimate

    @property
    def difference(self) -> float:
        """Measured − published."""
        return self.measured.value - self.published

    @property
    def within(self) -> bool | None:
        """Whether the published figure lies in the measured one's 95 % interval; None where it has none."""
        if self.measured.low is None or self.measured.high is None:
            return None
        return self.measured.low <= self.published <= self.measured.high


def beside(cells: Sequence[CellRecord], published: Published) -> list[Beside]:
    """The published figures of which something was measured, in the file's order."""
    by_subject = {subject_of(cell): cell for cell in reversed(cells)}
    return [
        Beside(subject, figures, value, by_subject[subject].scores[figures.task].metrics[figures.metric])
        for figures in published.figures
        for subject, value in figures.values.items()
        if subject in by_subject and _is_measured(by_subject[subject], figures)
    ]


def _is_measured(cell: CellRecord, figures: Figures) -> bool:
    return figures.task in cell.scores and figures.metric in cell.scores[figures.task].metrics


def subject_of(cell: CellRecord) -> str:
    """A cell as files of published figures name it: "Llama-2-13b-hf + chat α 1", "vicuna-7b-v1.3 magnitude 20%"."""
    model = cell.model.rstrip("/").rpartition("/")[2].partition("@")[0]
    compressed = "" if cell.family == "dense" else f" {cell.base_label}"
    return model + compressed + cell.steering_label


def published_section(cells: Sequence[CellRecord], published: Published) -> dict[str, Any]:
    """What the page shows: the rows, and how many figures have no cell or no score beside them."""
    found = beside(cells, published)
    every = sum(len(figures.values) for figures in published.figures)
    return {
        "paper": published.paper,
        "rows": [_row(one) for one in found],
        "left": every - len(found),
        "notes": list(_notes(found)),
    }


def _row(one: Beside) -> dict[str, Any]:
    figures = one.figures
    headline = "judge_score" if figures.scale == "points" else figures.metric
    return {
        "subject": one.subject,
        "task": spoken(figures.task),
        "metric": spoken(figures.metric),
        "published": figure_text(one.published, headline),
        "of": figures.n or "–",
        "measured": figure_text(one.measured.value, headline),
        "half": half_text(one.measured, headline),
        "n": one.measured.n,
        "difference": signed(one.difference, headline),
        "apart": one.within is False,
    }


def _notes(found: Sequence[Beside]) -> Iterator[tuple[str, str]]:
    """Where each task's figures are from, and in what they differ from ours; each once."""
    seen = dict.fromkeys(one.figures.model_copy(update={"values": {"": 0.0}}).model_dump_json() for one in found)
    for text in seen:
        figures = Figures.model_validate_json(text)
        what = f"{spoken(figures.task)}, {spoken(figures.metric)}"
        yield what, f"{figures.how}: {figures.source}" + (f"; {figures.note}" if figures.note else "")
