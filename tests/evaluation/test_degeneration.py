"""Repetition, variety, abstention and confidence of written texts, by hand and by reference."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from earnest.decoding.ensemble import Ensemble
from earnest.decoding.generation import Generation
from earnest.decoding.sampling import Likeliest, TokenLogprobs
from earnest.evaluation.choices import ChoiceItem, choice_sample
from earnest.evaluation.degeneration import (
    calibration,
    declines,
    distinct,
    repetition,
    text_columns,
    text_metrics,
    with_texts,
)
from earnest.evaluation.engine import Engine, LogLikelihood
from earnest.evaluation.run import evaluate
from earnest.evaluation.samples import Sample, unscored
from earnest.evaluation.tasks import closed_book
from earnest.evaluation.tokens import Request
from earnest.models.loading import load
from earnest.models.source import resolve
from earnest.specs import ClosedBook, Instruction, RuleJudge


def made(text: str, ids: str, finish: str = "stop", nats: tuple[float, ...] = ()) -> Generation:
    told = tuple(TokenLogprobs(0, Likeliest(value, ()), Likeliest(0.0, ())) for value in nats)
    return Generation(text, tuple(map(ord, ids)), finish, logprobs=told)  # type: ignore[arg-type]


def test_repetition_is_the_share_of_ngrams_that_were_there_before() -> None:
    # "abcabc": the bigrams ab bc ca ab bc are three different ones, the trigrams abc bca cab abc three of four.
    assert repetition("abcabc", 2) == pytest.approx(1 - 3 / 5)
    assert repetition("abcabc", 3) == pytest.approx(1 - 3 / 4)
    assert repetition("aaaaaaaa", 4) == pytest.approx(1 - 1 / 5)
    assert repetition("abcd", 4) == 0.0
    assert repetition("abc", 4) is None


def test_variety_counts_over_all_texts_together() -> None:
    # Unigrams a b b c: three of four. Bigrams ab bc: all different.
    assert distinct(["ab", "bc"], 1) == pytest.approx(3 / 4)
    assert distinct(["ab", "bc"], 2) == 1.0
    assert distinct(["ab", "ab"], 2) == pytest.approx(1 / 2)
    assert distinct(["a", ""], 2) is None


@pytest.mark.parametrize(
    "text", ["I don't know.", " i do NOT know who he was", "I\u2019m not sure\nVienna", "Unknown."]
)
def test_an_answer_that_declines_is_told_by_how_it_begins(text: str) -> None:
    assert declines(text)


@pytest.mark.parametrize("text", ["Vienna", "The Unknown Soldier", "", "Vienna\nI don't know", "I don't knowingly lie"])
def test_other_answers_do_not_decline(text: str) -> None:
    assert not declines(text)


def test_each_way_of_not_answering_is_a_column_and_a_share() -> None:
    texts = [made(" \n", "ab"), made("I don't know", "abc"), made("and and and", "aaaa", "length"), made("Vienna", "a")]
    columns = [text_columns(one, None) for one in texts]
    assert [[c[name] for name in ("empty", "declined", "unfinished")] for c in columns] == [
        [True, False, False], [False, True, False], [False, False, True], [False, False, False],
    ]  # fmt: skip
    metrics = text_metrics(texts)
    assert [metrics[name].value for name in ("empty", "declined", "unfinished")] == [0.25, 0.25, 0.25]
    assert metrics["tokens"].value == (2 + 3 + 4 + 1) / 4
    assert (metrics["rep_2"].n, metrics["rep_4"].n, metrics["rep_4"].value) == (3, 1, 0.0)


def test_confidence_is_the_geometric_mean_of_the_tokens_probabilities() -> None:
    half_and_eighth = made("ab", "ab", nats=(math.log(1 / 2), math.log(1 / 8)))
    assert text_columns(half_and_eighth, True)["confidence"] == pytest.approx(1 / 4)
    assert text_columns(half_and_eighth, None)["confidence"] is None
    assert text_columns(made("ab", "ab"), True)["confidence"] is None


def test_nothing_is_said_of_the_text_of_a_broken_model() -> None:
    broken = unscored(Sample("1", "p", more={"f1": 1.0, "tokens": 2, "finish": "not_finite"}))
    (sample,) = with_texts([broken], [made("!!", "aa", "not_finite")])
    assert (sample.more["rep_2"], sample.more["empty"], sample.more["tokens"]) == (None, None, 2)
    assert text_metrics([made("!!", "aa", "not_finite")]) == {}


def test_a_sample_says_what_was_asked_and_not_what_was_shown_before() -> None:
    shown = "Q: Who?\nA: Ada\nQ: Where was Ada born?\nA:"
    (sample,) = with_texts([Sample("1", shown, correct=True)], [made("Ulm", "ab")])
    assert sample.more["asked"] == "Q: Where was Ada born?\nA:"
    (blank,) = with_texts([Sample("1", "Answer.\n\nWhere was Ada born?\n\nAnswer:", correct=True)], [made("Ulm", "ab")])
    assert blank.more["asked"] == "Where was Ada born?\nAnswer:"
    (long,) = with_texts([Sample("1", "x" * 900 + "?", correct=True)], [made("Ulm", "ab")])
    assert long.more["asked"] == "x" * 299 + "?"


def test_options_are_calibrated_as_the_reference_says(shared: Path) -> None:
    for case in json.loads((shared / "parity/statistics/calibration.json").read_text())["multiclass"]:
        options = tuple(f" {i}" for i in range(len(case["probs"][0])))
        rows = zip(np.log(np.maximum(case["probs"], 1e-300)), case["labels"], strict=True)
        samples = [
            choice_sample(ChoiceItem("", "", options, label), [LogLikelihood(v - 3.0, False, 0) for v in row])
            for row, label in rows
        ]
        found = calibration(samples)
        assert found["ece_10"].value == pytest.approx(case["ece_10"], abs=1e-9)
        assert found["ece_15"].value == pytest.approx(case["ece_15"], abs=1e-9)
        assert found["brier"].value == pytest.approx(case["brier_multiclass"], abs=1e-9)
        assert found["ece_10"].low is not None
        assert found["ece_10"].low <= found["ece_10"].value


def test_generated_answers_are_calibrated_by_right_and_wrong() -> None:
    samples = [
        Sample(str(i), "", correct=right, score=float(right), more={"confidence": sure})
        for i, (sure, right) in enumerate([(0.9, True), (0.9, False), (0.2, False)])
    ]
    found = calibration(samples)
    assert found["brier"].value == pytest.approx((0.1**2 + 0.9**2 + 0.2**2) / 3)
    assert found["ece_10"].value == pytest.approx((2 * abs(0.5 - 0.9) + 0.2) / 3)
    assert calibration([Sample("1", "", score=0.5)]) == {}


def test_an_ensemble_may_write_several_texts_for_one_sample(make_model, tmp_path: Path) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"turns": ["Write.", "Again."], "reference": ["One.", "Two."]}) + "\n")
    task = Instruction(data=str(path), judges=(RuleJudge(),), max_tokens=4)
    models = [make_model(seed=seed, max_position_embeddings=512) for seed in range(3)]
    result = evaluate(Ensemble(*models, alpha=0.5), task, str(path))
    assert result.scores.token_shift is not None
    assert (result.scores.asked, result.scores.metrics["unfinished"].n) == (1, 2)
    assert "rep_2" not in result.samples.column_names


@pytest.mark.slow
def test_the_confidence_of_an_answer_is_what_the_model_says_when_it_reads_it_again() -> None:
    engine = Engine(load(resolve("nano:small"), device="cpu", dtype="float32"))
    closed_book.measure(engine, ClosedBook(limit=12), "nano")
    again = engine.log_likelihoods([Request(prompt.ids, text.ids) for prompt, text in engine.written])
    for (_, text), found in zip(engine.written, again, strict=True):
        assert found.value is not None
        assert text_columns(text, True)["confidence"] == pytest.approx(math.exp(found.value / len(text.ids)), rel=1e-4)
