"""The report: one self-contained page, with the exports and figures beside it.

Nothing on the page is fetched from anywhere, and nothing on it is typed by hand: the headline, the captions and the
list of what was measured come from the cells. The same cells give the same bytes.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from earnest.losses import Losses
from earnest.palette import ink
from earnest.plan import EVALUATE
from earnest.published.figures import Published
from earnest.records import CellRecord, Estimate, digest
from earnest.report.domains import Domains, domain_sections
from earnest.report.export import export_cells
from earnest.report.figures import Drawn, draw_figures
from earnest.report.fluent import FluentButWrong, fluent_but_wrong
from earnest.report.gains import Gains, Row
from earnest.report.ink import BAND, LINE, MUTED, PAPER, TEXT
from earnest.report.intervals import half_text
from earnest.report.published import published_section
from earnest.report.survey import (
    Survey,
    computed_in,
    figure_text,
    missing,
    percent_change,
    score_text,
    spoken,
)
from earnest.report.verdicts import FALLS, SHOWN, explained, hint, legend, mark, rests_on, undecided_line
from earnest.report.writing import moved_tables, writing_tables
from earnest.store import Store

PAGE = "report.html"
MAX_DATA_BYTES = 2_000_000
FIGURE_KINDS = ("claims", "saved", "asked", "domains", "blocks")
_HERE = Path(__file__).parent


def write_report(
    cells: Sequence[CellRecord],
    folder: Path,
    *,
    title: str,
    store: Store | None = None,
    losses: Losses | None = None,
    published: Published | None = None,
) -> Path:
    """Write report.html, cells.parquet, cells.csv and figures/ into a folder, and return the page's path.

    A report of the same cells, written by the same code, is left as it is.

    Args:
        cells: as `earnest.cells.collect` gives them; failed and missing ones are shown as such.
        folder: made if it is not there.
        title: the sweep's name.
        store: where sample texts and library versions are read from; the page does without them where None.
        losses: where it was lost; only found if the page is to be written.
        published: figures to stand beside the measured ones.
    """
    page, content = folder / PAGE, _content(cells, title, losses, published)
    if page.is_file() and f'content="{content}"' in page.read_text(encoding="utf-8")[:1000]:
        return page
    folder.mkdir(parents=True, exist_ok=True)
    survey = Survey(tuple(cells))
    export_cells(cells, folder)
    domains = Domains(survey, tuple(losses.find()) if losses else ())
    figures = draw_figures(survey, folder / "figures", domains.losses)
    text = _render(
        survey,
        figures,
        domains,
        title=title,
        content=content,
        fluent=fluent_but_wrong(survey, store) if store else None,
        versions=_versions(survey, store),
        data=_data_uri(folder / "cells.csv"),
        published=published_section(cells, published) if published else None,
    )
    writing = page.with_suffix(".tmp")
    writing.write_text(text, encoding="utf-8")
    writing.replace(page)
    return page


def _content(cells: Sequence[CellRecord], title: str, losses: Losses | None, published: Published | None) -> str:
    """The digest of all that decides the page: the cells, what stands beside them, and the code that draws them."""
    code = [sha256(path.read_bytes()).hexdigest() for path in sorted(_HERE.glob("*.*"))]
    beside = published.model_dump_json() if published else ""
    return digest([title, code, [cell.model_dump_json() for cell in cells], losses.digest if losses else "", beside])


def _data_uri(csv: Path) -> str | None:
    """The table as a link that holds it, so that it works in a copy of the page; None where it is too large."""
    content = csv.read_bytes()
    return f"data:text/csv;base64,{b64encode(content).decode()}" if len(content) < MAX_DATA_BYTES else None


def _versions(survey: Survey, store: Store | None) -> dict[str, str]:
    if store is None or survey.dense is None:
        return {}
    finished = [step for task, step in survey.dense.steps.items() if task in survey.dense.scores]
    steps = [store.read_step(EVALUATE, step)["spec"] for step in finished if store.has(EVALUATE, step)]
    return dict(steps[0].get("versions", {})) if steps else {}


def _render(
    survey: Survey,
    figures: Sequence[Drawn],
    domains: Domains,
    *,
    title: str,
    content: str,
    fluent: FluentButWrong | None,
    versions: Mapping[str, str],
    data: str | None,
    published: dict[str, Any] | None,
) -> str:
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("template.html").render(
        title=title,
        content=content,
        survey=survey,
        finding=Gains(survey).finding or survey.finding,
        spoken=spoken,
        figures={kind: list(_figures(figures, kind)) for kind in FIGURE_KINDS},
        gains=_gains(Gains(survey), figures),
        domains=domain_sections(domains),
        rows=[_row(survey, cell) for cell in survey.cells],
        measured=[_measured(survey, task) for task in survey.tasks],
        datasets=_datasets(survey),
        models=dict.fromkeys((cell.model, cell.model_digest) for cell in survey.cells),
        seconds=_seconds(survey),
        fluent=fluent,
        writing=writing_tables(survey),
        moved=moved_tables(survey),
        published=published,
        versions=versions,
        data=data,
        any_not_fluent=any(map(survey.not_fluent, survey.tasks)),
        legend=legend(survey),
        undecided=" ".join(filter(None, (rests_on(survey), undecided_line(survey)))),
        computed=computed_in(survey),
        inks=_css_colours(survey),
    )


@dataclass(frozen=True)
class _Shown:
    """A figure as the template needs it."""

    name: str
    svg: Markup
    caption: str


def _figures(figures: Iterable[Drawn], kind: str) -> Iterable[_Shown]:
    return (_shown(figure) for figure in figures if figure.name.split("-")[0] == kind)


def _shown(figure: Drawn) -> _Shown:
    # The SVG is drawn by this program from numbers and names that matplotlib escapes.
    return _Shown(figure.name, Markup(figure.svg), figure.caption)  # noqa: S704


def _css_colours(survey: Survey) -> list[tuple[str, str, str]]:
    """CSS variables: (name, colour on light pages, colour on dark pages)."""
    page = {"text": TEXT, "muted": MUTED, "line": LINE, "paper": PAPER, "band": BAND}
    methods = {f"m-{name}": ink(name) for name in dict.fromkeys(["dense", "gptq", *(c.method for c in survey.cells)])}
    return [(name, each.light, each.dark) for name, each in {**page, **methods}.items()]


_CLASSES = {SHOWN: "", FALLS: "lost"}


# --- the table ------------------------------------------------------------------------------------------------------


def _row(survey: Survey, cell: CellRecord) -> dict[str, Any]:
    size = cell.size
    return {
        "method": cell.method,
        "name": cell.model + cell.steering_label if cell.family == "dense" else cell.curve,
        "asked": cell.nominal + (f", seed {cell.seed}" if cell.seed else ""),
        "dtype": cell.dtype,
        "saved": None if size is None else size.saved,
        "of_touched": None if size is None else size.saved_of_touched,
        "sparsity": None if size is None else size.sparsity,
        "bits": None if size is None else size.bits_per_weight,
        "stored": None if size is None else size.file_bytes,
        "scores": [_score(cell, task) for task in survey.tasks],
    }


def _score(cell: CellRecord, task: str) -> dict[str, Any]:
    if task not in cell.scores:
        word, reason = missing(cell, task)
        return {"sort": None, "text": word, "reason": reason}
    scores, comparison = cell.scores[task], cell.comparisons.get(task)
    if not scores.means_something:
        reason = f"{scores.metrics['fluent'].value:.1%} of the statements are well formed"
        return {"sort": None, "text": "not fluent", "reason": reason}
    retention = comparison.retention if comparison else None
    kept = f"{retention.value:.1%} of dense's right answers kept" if retention else ""
    return {
        "sort": scores.main.value,
        "text": score_text(scores),
        "half": half_text(scores.main, scores.headline),
        "change": percent_change(comparison.relative) if comparison else "",
        "mark": mark(comparison) + hint(comparison) if comparison else "",
        "shown": _CLASSES.get(mark(comparison), "open") if comparison else "",
        "why": "; ".join(filter(None, (explained(comparison, scores.headline) if comparison else "", kept))),
        "reason": "",
    }


# --- what pairs gain ------------------------------------------------------------------------------------------------


def _gains(gains: Gains, figures: Sequence[Drawn]) -> list[dict[str, Any]]:
    """One part per task: its figures, its table, and the words that the pair changes."""
    shifts = dict(gains.shifts)
    return [
        {
            "task": task,
            "figures": [_shown(figure) for figure in figures if figure.name in _names(gains, task)[:2]],
            "further": [_shown(figure) for figure in figures if figure.name in _names(gains, task)[2:]],
            "rows": [_gain_row(row, gains.survey.headline(task)) for row in gains.rows(task)],
            "shift": shifts.get(task),
            "where": gains.main.label if gains.main else "",
        }
        for task in gains.tasks
    ]


def _names(gains: Gains, task: str) -> list[str]:
    """What the figures of one task are called."""
    return [f"alpha-{task}", *(f"recovery-{task}-{number}" for number in range(len(gains.strengths)))]


def _gain_row(row: Row, headline: str) -> dict[str, Any]:
    cell = row.cell
    return {
        "method": cell.method,
        "base": cell.model if cell.family == "dense" else cell.base_label,
        "seed": f", seed {cell.seed}" if cell.seed else "",
        "saved": f"{cell.saved:.1%}" if cell.size else "–",
        "of_touched": f"{cell.saved_of_touched:.1%}" if cell.size else "–",
        "strength": cell.steering_label.removeprefix(" + "),
        "without": _text(row.without, headline),
        "score": "not fluent" if row.score is None else figure_text(row.score.value, headline),
        "half": half_text(row.score, headline),
        "target": _text(row.target, headline),
        "gap_closed": _share_text(row.gap_closed),
        "won_back": _share_text(row.won_back),
        "changed": "–" if row.shift is None else f"{row.shift.changed.value:.1%}",
        "nats": "–" if row.shift is None else f"{row.shift.shift.value:.2f}",
    }


def _text(estimate: Estimate | None, headline: str) -> str:
    return "–" if estimate is None else figure_text(estimate.value, headline)


def _share_text(estimate: Estimate | None) -> str:
    """A share of a gap with its interval, as in "91.4% [85.8, 97.2]"."""
    if estimate is None:
        return "–"
    spread = "" if estimate.low is None else f" [{100 * estimate.low:.1f}, {100 * (estimate.high or 0.0):.1f}]"
    return f"{100 * estimate.value:.1f}%{spread}"


# --- how it was measured --------------------------------------------------------------------------------------------


def _measured(survey: Survey, task: str) -> dict[str, Any]:
    """One task's counts over all cells: the fewest asked and scored, the most truncated and failed."""
    every = [cell.scores[task] for cell in survey.cells if task in cell.scores]
    return {
        "task": spoken(task),
        "metric": every[0].headline.replace("_", " "),
        "version": every[0].version,
        "asked": min(scores.asked for scores in every),
        "scored": min(scores.scored for scores in every),
        "truncated": max(scores.truncated for scores in every),
        "failed": max(scores.failed for scores in every),
        "cells": len(every),
    }


def _datasets(survey: Survey) -> list[tuple[str, str, str]]:
    """Every dataset once: (name, digest, what for)."""
    uses: dict[str, dict[str, None]] = {}
    for cell in survey.cells:
        for use, where in cell.datasets.items():
            uses.setdefault(where, {})[spoken(use)] = None
    return [(*where.rsplit("@", 1), ", ".join(names)) for where, names in sorted(uses.items())]  # type: ignore[misc]


def _seconds(survey: Survey) -> float:
    """Seconds of all steps, each counted once."""
    steps = {cell.steps.get(name, name): value for cell in survey.cells for name, value in cell.seconds.items()}
    return sum(steps.values())
