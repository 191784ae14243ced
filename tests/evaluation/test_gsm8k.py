"""Sums are asked, read and scored as lm-eval and proxy-tuning do, and by the number's value."""

import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from earnest.decoding.ensemble import Ensemble
from earnest.evaluation.engine import Engine
from earnest.evaluation.numbers import (
    flexible_number,
    lm_eval_equal,
    proxy_tuning_equal,
    proxy_tuning_number,
    same_value,
    strict_number,
    value_of,
)
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import gsm8k, needed_columns
from earnest.evaluation.tasks.gsm8k import matches
from earnest.models.loading import LoadedModel
from earnest.specs import GSM8K, UserError, read_task
from evaluation.scripted import Scripted
from evaluation.tiny_llama import lines

LM_EVAL = GSM8K(data="gsm8k", max_tokens=40)
PROXY = GSM8K(data="gsm8k", style="proxy_tuning")
FILTERS = {"strict-match": (strict_number, "strict_match"), "flexible-extract": (flexible_number, "flexible_match")}


@pytest.fixture(scope="module")
def folder(parity: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("gsm8k")
    for split in ("train", "test"):
        shutil.copy(parity / f"lmeval_inputs/gsm8k_{split}.parquet", target / f"{split}.parquet")
    return str(target)


@pytest.mark.parametrize("name", FILTERS)
def test_prompts_generations_and_answers_equal_lm_eval(
    tiny_llama: LoadedModel, parity: Path, folder: str, name: str
) -> None:
    config = (f"{tiny_llama.name}_bs8", name)
    expected = [
        line for line in lines(parity / "lmeval_expected/fx_gsm8k.jsonl") if (line["config"], line["filter"]) == config
    ]
    engine = Engine(tiny_llama)
    found = gsm8k.measure(engine, LM_EVAL, folder)
    assert len(found.samples) == len(expected) == 16
    extract, metric = FILTERS[name]
    for sample, (prompt, generation), line in zip(found.samples, engine.written, expected, strict=True):
        assert sample.prompt == line["prompt"]
        assert prompt.stops == tuple(line["gen_kwargs"]["until"])
        assert generation.text == line["generation"]
        assert [extract(generation.text)] == line["filtered"]
        assert float(sample.more[metric] or 0) == line["exact_match"]


@pytest.mark.parametrize(("name", "share"), [("strict-match", 0.1875), ("flexible-extract", 0.625)])
def test_scripted_answers_score_as_in_lm_eval(tokenizer, parity: Path, folder: str, name: str, share: float) -> None:
    scripted = lines(parity / "lmeval_expected/scripted_generations.jsonl")
    expected = [line for line in scripted if (line["task"], line["filter"]) == ("fx_gsm8k", name)]
    found = gsm8k.measure(Scripted(tokenizer, [line["reply"] for line in expected]), LM_EVAL, folder)
    extract, metric = FILTERS[name]
    assert [[extract(line["reply"])] for line in expected] == [line["filtered"] for line in expected]
    assert [float(s.more[metric] or 0) for s in found.samples] == [line["exact_match"] for line in expected]
    assert found.metrics[metric].value == share
    assert found.metrics["exact_match"].value == 0.1875


def test_every_extraction_of_the_table_is_met(parity: Path) -> None:
    cases = lines(parity / "extraction/gsm8k_extraction.jsonl")
    assert len(cases) > 100
    for case in cases:
        text, gold = case["input"], case["gold"]
        strict, flexible, proxy = strict_number(text), flexible_number(text), proxy_tuning_number(text)
        assert (strict, lm_eval_equal(strict, gold)) == (case["lm_eval_strict"], bool(case["lm_eval_strict_em"])), case
        assert (flexible, lm_eval_equal(flexible, gold)) == (
            case["lm_eval_flexible"],
            bool(case["lm_eval_flexible_em"]),
        ), case
        assert (proxy, proxy_tuning_equal(proxy, gold)) == (case["proxy_tuning"], bool(case["proxy_tuning_em"])), case


def test_every_pair_of_the_table_is_equal_or_not_as_in_lm_eval(parity: Path) -> None:
    for case in lines(parity / "extraction/exact_match_pairs.jsonl"):
        assert lm_eval_equal(case["prediction"], case["reference"]) == bool(case["gsm8k_kwargs_em"]), case


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 18.00", "18"), ("-5", "-5"), ("\u22125 degrees", "-5"), ("-$5", "-5"), ("5-3", "3"),
        ("1,234.50", "1234.5"),
        ("$1,000,000.00 left", "1000000"), ("3,4,5", "5"), ("it is .5", "0.5"), ("0.5.", "0.5"), ("7.", "7"),
        ("none", None), ("...", None), ("$", None), ("-", None), ("\u0661", "1"),
    ],
)  # fmt: skip
def test_a_number_is_worth_what_it_says(text: str, value: str | None) -> None:
    assert value_of(text) == (None if value is None else Decimal(value))


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_proxy_tunings_question_stands_alone_and_its_faults_are_not_ours(tokenizer, tmp_path: Path) -> None:
    rows = [{"question": "How cold?", "answer": "It froze.\n#### -1,005"}] * 4
    replies = [" It is 1005.", " -1,005.00 degrees\n\nQuestion: 3?", " Cold.", ""]
    subject = Scripted(tokenizer, replies)
    found = gsm8k.measure(subject, PROXY, write(tmp_path / "q.jsonl", rows))
    assert found.samples[0].prompt == "Answer the following question.\n\nQuestion: How cold?\nAnswer:"
    assert [sample.correct for sample in found.samples] == [False, True, False, False]
    assert [sample.more["proxy_tuning_match"] for sample in found.samples] == [True, False, False, False]
    assert {sample.gold for sample in found.samples} == {"-1005"}
    assert {prompt.max_tokens for prompt in subject.asked} == {512}


def test_the_real_test_set_runs_on_an_ensemble(make_model, shared: Path) -> None:
    ensemble = Ensemble(*(make_model(seed=seed, max_position_embeddings=512) for seed in range(3)), alpha=0.5)
    task = GSM8K(data="gsm8k", style="proxy_tuning", limit=3, max_tokens=4)
    scores = evaluate(ensemble, task, str(shared / "data/gsm8k_test.parquet")).scores
    assert (scores.asked, scores.scored, scores.headline) == (3, 3, "exact_match")
    assert scores.token_shift is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": "none"}, "row 1: the answer ends in 'none', not a number; end it with ####"),
        ({"answer": ""}, "row 1: a row has no answer"),
        ({"question": None}, "row 1: column 'question' holds nothing"),
        ({"id": "a"}, "rows 0 and 1 have the same id 'a'"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = [{"id": "a", "question": "x", "answer": "1"}, {"id": "b", "question": "x", "answer": "1", **change}]
    with pytest.raises(UserError, match=said):
        gsm8k.asked_rows(PROXY, write(tmp_path / "q.jsonl", rows))


def test_shots_come_from_a_split_of_their_own(folder: str) -> None:
    assert needed_columns(LM_EVAL, folder) == [("test", ["question", "answer"]), ("train", ["question", "answer"])]
    assert needed_columns(PROXY, folder) == [("test", ["question", "answer"])]


def test_shots_from_the_asked_questions_are_refused(parity: Path) -> None:
    """A single file is every split: an item could demonstrate itself, answer included."""
    path = str(parity / "lmeval_inputs/gsm8k_test.parquet")
    with pytest.raises(UserError, match="has no train split for 5 shots; give a folder that has one, or set shots = 0"):
        gsm8k.measure(Scripted(None, []), LM_EVAL, path)


def test_the_almanac_has_no_sums() -> None:
    with pytest.raises(UserError, match="the almanac has no such questions; name a file, a folder or a hub id"):
        read_task({"task": "gsm8k", "data": "nano"})
    with pytest.raises(UserError, match="data: Field required"):
        read_task({"task": "gsm8k"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("it is \uff11\uff0c\uff10\uff10\uff10", "1000"), ("\u0661\u066c\u0660\u0660\u0660", "1000"),
        ("\u0663\u066b\u0665", "3.5"), ("\u0664\u0662", "42"), ("1\u202f000", "1000"),
        ("1\u00a0000\u00a0000", "1000000"), ("1'000", "1000"), ("1\u2019000", "1000"), ("1{,}000", "1000"),
        ("\u22125", "-5"), ("\uff0d5", "-5"), ("5\u200b", "5"), ("1,000.", "1000"), ("1000.00", "1000"),
    ],
)  # fmt: skip
def test_a_number_is_read_in_any_script(text: str, value: str) -> None:
    found = value_of(text)
    assert found is not None
    assert found == Decimal(value)


@pytest.mark.parametrize("text", ["", "...", "no number", "$", "-", "\u00bd"])
def test_no_number_equals_nothing(text: str) -> None:
    assert value_of(text) is None
    assert not same_value(text, text)
    assert not any(matches(text, "#### 5").values())
