"""Measure the nano family by the product's own evaluation, and write its model cards.

What a card says was measured on the files beside it. Compressed forms of the family are the demo sweep's business.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from earnest.decoding.ensemble import Ensemble
from earnest.evaluation.run import evaluate
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
)

MEASURED_FILE = "measured.json"
TASKS: tuple[AnyTask, ...] = (
    ClosedBook(limit=600),
    ClosedBook(name="zero_shot", shots=0, limit=600),
    OpenBook(limit=300),
    MultipleChoice(limit=300),
    Summarisation(limit=300),
    Biography(limit=300),
    Perplexity(limit=400, length=128, kl_bytes=0),
)
SHOWN = (
    ("closed_book", "exact_match", "closed-book EM, 3 shots"),
    ("open_book", "exact_match", "open-book EM, people never seen"),
    ("multiple_choice", "accuracy", "multiple choice, 2 shots"),
    ("summarisation", "exact_match", "one-line summaries, exact"),
    ("biography", "fluent", "biographies: statements well formed"),
    ("biography", "true", "biographies: of those, true"),
    ("zero_shot", "exact_match", "zero-shot terse EM, people held out of tuning"),
    ("perplexity", "token_perplexity", "perplexity per token"),
)
ABOUT = {
    "large": "The base: deep and narrow. It knows the invented world and rambles when asked without examples.",
    "large-tuned": "`large` tuned for a minute on half of the people: terse. The goal of proxy-tuning.",
    "medium": "Dense, with about as many weights as `large` keeps at 50 % sparsity: what pruning has to beat.",
    "small": "The shallow twin: it knows the famous and not the obscure. The anti-expert of proxy-tuning.",
    "small-tuned": "`small` after the same tuning: the expert whose style steers `large`.",
}

Measured = dict[str, dict[str, Scores]]


def measure_family(folder: Path, tell: Callable[[str], None]) -> Measured:
    """Run every task on every member, and the zero-shot questions on the proxy-tuned ensemble.

    Args:
        folder: holds one folder per member.
        tell: is told a line per measurement.

    Returns:
        member -> task -> scores; the ensemble large + (small-tuned − small) at α = 1 stands under `proxy`.
    """
    members = {name: _load(folder / name) for name in NANO_NAMES}
    measured: Measured = {name: {} for name in members}
    for name, loaded in members.items():
        for task in TASKS:
            measured[name][task.label] = evaluate(loaded, task, "nano").scores
            tell(f"{name} {task.label} {measured[name][task.label].main.value:.4f}")
    ensemble = Ensemble(members["large"], members["small-tuned"], members["small"], alpha=1.0)
    zero_shot = next(task for task in TASKS if task.label == "zero_shot")
    measured["proxy"] = {"zero_shot": evaluate(members["large"], zero_shot, "nano", distribution=ensemble).scores}
    tell(f"proxy zero_shot {measured['proxy']['zero_shot'].main.value:.4f}")
    return measured


def gap_closed(measured: Mapping[str, Mapping[str, Scores]]) -> float:
    """(proxy − base) ÷ (directly tuned − base) on the zero-shot questions about people held out of tuning."""
    base, tuned, proxy = (measured[name]["zero_shot"].main.value for name in ("large", "large-tuned", "proxy"))
    return (proxy - base) / (tuned - base)


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
            rows=_rows(measured[name]),
            strata=measured[name]["closed_book"].groups["stratum"],
            gap=gap_closed(measured),
        )
        (folder / name / "README.md").write_text(card, encoding="utf-8")
    plain = {name: {t: s.model_dump(mode="json") for t, s in tasks.items()} for name, tasks in measured.items()}
    text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MEASURED_FILE).write_text(text + "\n", encoding="utf-8")


def _load(folder: Path) -> LoadedModel:
    return load(Source(f"nano:{folder.name}", folder, digest_of_model(folder)))


def _rows(scores: Mapping[str, Scores]) -> list[dict[str, Any]]:
    return [
        {"what": words, **_shown(scores[task].metrics[metric], percent=metric != "token_perplexity")}
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
