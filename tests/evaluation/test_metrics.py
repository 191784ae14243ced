"""Answers are judged as TriviaQA's official evaluation judges them."""

import json
from pathlib import Path

import pytest

from earnest.evaluation.metrics import (
    exact_match,
    kick_containment,
    kick_substring,
    lm_eval_match,
    normalise,
    proxy_tuning_match,
    squad_f1,
    squad_match,
    squad_normalise,
    token_f1,
)


def test_answers_are_judged_as_the_official_evaluation_does(shared: Path) -> None:
    lines = (shared / "parity/evaluation/extraction/trivia_squad_factoid.jsonl").read_text().splitlines()
    for case in map(json.loads, lines):
        prediction, aliases = case["prediction"], case["aliases"]
        assert normalise(prediction) == case["trivia_normalized"], case
        assert exact_match(prediction, aliases) == bool(case["trivia_official_em"]), case
        assert token_f1(prediction, aliases) == pytest.approx(case["trivia_official_f1"]), case
        assert token_f1(prediction, aliases) == pytest.approx(case["llmkick_icrqa_f1"]), case
        assert kick_containment(prediction, aliases) == bool(case["llmkick_icrqa_em"]), case
        assert kick_substring(prediction, aliases) == bool(case["llmkick_factoid_match"]), case
        assert lm_eval_match(case["lm_eval_remove_whitespace"], aliases) == bool(case["lm_eval_triviaqa_em"]), case
        assert proxy_tuning_match(prediction, aliases) == bool(case["proxy_triviaqa_em"]), case
        assert squad_normalise(prediction) == case["squad_normalized"], case
        assert squad_match(prediction, aliases) == bool(case["squad_em"]), case
        assert squad_f1(prediction, aliases) == pytest.approx(case["squad_f1"]), case
    assert len(lines) >= 20


def test_exact_match_never_looks_inside_a_word(shared: Path) -> None:
    """Plainly equal answers stay equal, whatever normalisation does to them; lm-eval's own match is met exactly."""
    lines = (shared / "parity/evaluation/extraction/exact_match_pairs.jsonl").read_text().splitlines()
    for case in map(json.loads, lines):
        assert lm_eval_match(case["prediction"], [case["reference"]]) == bool(case["triviaqa_kwargs_em"]), case
        if case["prediction"] == case["reference"]:
            assert exact_match(case["prediction"], [case["reference"]])
    assert not exact_match("1000.0", ["1000"])
    assert not exact_match("par", ["paris"])


def test_an_empty_answer_is_wrong_and_only_containment_lets_it_pass() -> None:
    assert not exact_match("", ["Paris"])
    assert token_f1("", ["Paris"]) == 0.0
    assert kick_containment("", ["Paris"])
