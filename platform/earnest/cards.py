"""Measure the nano family by the product's own evaluation, and write its model cards.

What a card says was measured on the files beside it. Compressed forms of the family are the demo sweep's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from earnest.almanac.world import World
from earnest.decoding.ensemble import Ensemble
from earnest.evaluation.run import Evaluation, evaluate
from earnest.models.loading import LoadedModel, load
from earnest.models.source import NANO_NAMES, Source, digest_of_model
from earnest.records import Estimate, Scores
from earnest.specs import (
    AnyTask,
    Biography,
    ClosedBook,
    MultipleChoice,
    OpenBook,
    Perplexity,
    Summarisation,
    UserError,
)
from earnest.statistics.paired import gap_closed

MEASURED_FILE = "measured.json"
PROXY = "proxy"
ZERO_SHOT = ClosedBook(name="zero_shot", shots=0, limit=600)
TASKS: tuple[AnyTask, ...] = (
    ClosedBook(limit=600),
    ZERO_SHOT,
    OpenBook(limit=300),
    MultipleChoice(limit=300),
    Summarisation(limit=300),
    Biography(limit=600),
    Perplexity(limit=1000, length=128, kl_bytes=0),
)
SHOWN = (
    ("closed_book", "exact_match", "closed-book EM, 3 shots"),
    ("open_book", "exact_match", "open-book EM, people never seen"),
    ("multiple_choice", "accuracy", "multiple choice, 2 shots"),
    ("summarisation", "exact_match", "one-line summaries, exact"),
    ("biography", "fluent", "biographies: statements well formed"),
    ("biography", "true", "biographies: of those, true"),
    ("biography", "tokens", "biographies: tokens"),
    ("zero_shot", "exact_match", "zero-shot terse EM, people held out of tuning"),
    ("perplexity", "token_perplexity", "perplexity per token"),
)
COUNTS = ("token_perplexity", "tokens")
ABOUT = {
    "large": "The base: deep and narrow. It knows the invented world and rambles when asked without examples.",
    "large-tuned": "`large` tuned for a minute on half of the people: terse. The goal of proxy-tuning.",
    "medium": "Dense, with about as many weights as `large` keeps at 50 % sparsity: what pruning has to beat.",
    "small": "The shallow twin: it knows the famous and not the obscure. The anti-expert of proxy-tuning.",
    "small-tuned": "`small` after the same tuning: the expert whose style steers `large`.",
}


@dataclass(frozen=True)
class Measured:
    """What a family scored: member -> task -> scores (the ensemble stands under `proxy`), and the gap it closes.

    The ensemble is large + (small-tuned − small) at α = 1; `gap` is (proxy − base) ÷ (directly tuned − base) on the
    zero-shot questions about people held out of tuning.
    """

    scores: Mapping[str, Mapping[str, Scores]]
    gap: Estimate


def measure_family(folder: Path, tell: Callable[[str], None]) -> Measured:
    """Run every task on every member, and the zero-shot questions on the proxy-tuned ensemble.

    Args:
        folder: holds one folder per member.
        tell: is told a line per measurement.

    Raises:
        UserError: the family was trained on another world than the one that questions are asked about.
    """
    _check_world(folder)
    members = {name: _load(folder / name) for name in NANO_NAMES}
    found: dict[str, dict[str, Evaluation]] = {name: {} for name in (*members, PROXY)}

    def measure(name: str, task: AnyTask, subject: LoadedModel | Ensemble) -> None:
        found[name][task.label] = evaluate(subject, task, "nano")
        tell(f"{name} {task.label} {found[name][task.label].scores.main.value:.4f}")

    for name, loaded in members.items():
        for task in TASKS:
            measure(name, task, loaded)
    ensemble = Ensemble(members["large"], members["small-tuned"], members["small"], alpha=1.0)
    measure(PROXY, ZERO_SHOT, ensemble)
    zero_shot = [found[name][ZERO_SHOT.label].samples["score"].to_pylist() for name in ("large", PROXY, "large-tuned")]
    scores = {name: {label: one.scores for label, one in tasks.items()} for name, tasks in found.items()}
    return Measured(scores, gap_closed(*zero_shot))


def write_cards(folder: Path, measured: Measured) -> None:
    """Write README.md beside each member and all scores to measured.json."""
    training = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["training"]
    environment = Environment(
        loader=PackageLoader("earnest", "templates"), undefined=StrictUndefined, autoescape=select_autoescape(["html"])
    )
    template = environment.get_template("card.md")
    for name in NANO_NAMES:
        card = template.render(
            name=name,
            about=ABOUT[name],
            training=training[name],
            rows=_rows(measured.scores[name]),
            strata=measured.scores[name]["closed_book"].groups["stratum"],
            gap=_shown(measured.gap, percent=True),
        )
        (folder / name / "README.md").write_text(card.rstrip() + "\n", encoding="utf-8")
    plain = {name: {t: s.model_dump(mode="json") for t, s in tasks.items()} for name, tasks in measured.scores.items()}
    text = json.dumps(
        {"scores": plain, "gap_closed": measured.gap.model_dump(mode="json")},
        indent=1,
        sort_keys=True,
        ensure_ascii=False,
    )
    (folder / MEASURED_FILE).write_text(text + "\n", encoding="utf-8")


def _check_world(folder: Path) -> None:
    trained_on = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["world_digest"]
    if trained_on != World.shipped().digest():
        raise UserError(
            f"{folder}: was trained on world {trained_on[:8]}, but questions are asked about "
            f"{World.shipped().digest()[:8]}; make the defaults of almanac/world.py those of the recipe"
        )


def _load(folder: Path) -> LoadedModel:
    return load(Source(f"nano:{folder.name}", folder, digest_of_model(folder)), dtype="float32")


def _rows(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    return [
        {"what": words, **_shown(scores[task].metrics[metric], percent=metric not in COUNTS)}
        for task, metric, words in SHOWN
    ]


def _shown(estimate: Estimate, *, percent: bool) -> dict[str, str]:
    def show(value: float | None) -> str:
        return "" if value is None else f"{100 * value:.1f} %" if percent else f"{value:.3f}"

    return {
        "value": show(estimate.value),
        "interval": f"{show(estimate.low)} – {show(estimate.high)}",
        "n": str(estimate.n),
    }
