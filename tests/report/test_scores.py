"""One evaluation's scores are printed whole: metrics, kinds of tokens in their order, counts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from earnest.models.source import folder_of
from earnest.oneoff import evaluate_once
from earnest.records import Estimate, Part, Scores
from earnest.report.scores import score_lines
from earnest.specs import ClosedBook, MultipleChoice, Perplexity, UserError


def test_every_metric_and_every_kind_of_token_has_a_line() -> None:
    parts = {
        "grammar": Part(tokens=90, mean=Estimate(value=0.5, n=3)),
        "value": Part(tokens=10, mean=Estimate(value=2, n=3)),
    }
    scores = Scores(
        task="t", version=1, headline="nats", higher_is_better=False, asked=4, scored=3, truncated=1, failed=0,
        metrics={"nats": Estimate(value=0.65, stderr=0.1, low=0.45, high=0.85, n=3)},
        breakdowns={"nats_per_token": {"told": parts}},
    )  # fmt: skip
    assert list(score_lines(scores)) == [
        "nats                   0.6500 ± 0.1000  [0.4500, 0.8500]  n = 3",
        "nats per token: what the token tells",
        "  value                2.0000  10.0% of the tokens",
        "  grammar              0.5000  90.0% of the tokens",
        "asked 4, scored 3, truncated 1, failed 0",
    ]


def once(subject: str, task: Perplexity | ClosedBook | MultipleChoice, dense: str | None) -> Scores:
    result = evaluate_once(subject, task, dense=dense, dtype="auto", device="cpu", on_step=lambda *_: None)
    return result.scores


@pytest.mark.slow
def test_beside_a_dense_model_perplexity_comes_with_kl_and_answers_with_their_perplexity() -> None:
    scores = once("nano:small", Perplexity(limit=10), "nano:medium")
    assert scores.metrics["kl_to_dense"].value > 0.01
    assert "told" in scores.breakdowns["kl_to_dense"]
    assert once("nano:small", Perplexity(limit=10), "nano:small").metrics["kl_to_dense"].value == pytest.approx(
        0, abs=1e-6
    )
    own = once("nano:small", ClosedBook(limit=10), "nano:small").metrics["output_perplexity"].value
    assert 1 < own < once("nano:small", ClosedBook(limit=10), "nano:medium").metrics["output_perplexity"].value


def test_a_dense_model_with_nothing_to_read_is_refused() -> None:
    with pytest.raises(UserError, match="nothing to read in multiple_choice"):
        once("nano:small", MultipleChoice(limit=10), "nano:medium")


def test_a_dense_model_with_other_tokens_does_not_read_what_was_written(tmp_path: Path) -> None:
    other = shutil.copytree(folder_of("nano:small"), tmp_path / "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = list(vocabulary)[-2:]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"dense nano:small: has other tokens than .*other and cannot read"):
        once(str(other), ClosedBook(limit=2), "nano:small")
