"""TruthfulQA's likelihoods equal lm-eval's, and its letters are read as proxy-tuning reads them."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from earnest.decoding.ensemble import Ensemble
from earnest.evaluation.choices import best, score_options
from earnest.evaluation.engine import Engine
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import needed_columns, truthful_qa
from earnest.models.loading import LoadedModel
from earnest.specs import TruthfulQA, UserError, read_task
from evaluation.scripted import Scripted
from evaluation.tiny_llama import TOLERANCE, lines

LIKELIHOOD = TruthfulQA(data="truth")
LETTERS = TruthfulQA(data="truth", style="letters")


def test_prompts_likelihoods_and_both_metrics_equal_lm_eval(tiny_llama: LoadedModel, parity: Path) -> None:
    path = str(parity / "lmeval_inputs/truthfulqa_mc.parquet")
    expected = [lines(parity / f"lmeval_expected/fx_truthfulqa_{kind}.jsonl") for kind in ("mc1", "mc2")]
    items = truthful_qa.user_items(LIKELIHOOD, path)
    assert len(items) == len(expected[0]) == len(expected[1]) == 25
    for kind, truth in zip(("one", "all"), expected, strict=True):
        asked = [getattr(item, kind) for item in items]
        for item, found, line in zip(asked, score_options(Engine(tiny_llama), asked, None), truth, strict=True):
            reference = line[f"{tiny_llama.name}_bs8"]
            values = [likelihood.value for likelihood in found]
            assert (item.prompt, list(item.options)) == (line["prompt"], line["continuations"])
            assert values == pytest.approx(reference["loglikelihood"], abs=TOLERANCE)
            assert [likelihood.greedy for likelihood in found] == reference["is_greedy"]
            assert best(values, item.texts) == reference["pred"]
    result = evaluate(tiny_llama, LIKELIHOOD, path)
    pairs = zip(result.samples["score"].to_pylist(), result.samples["mc2"].to_pylist(), *expected, strict=True)
    for mc1, mc2, one, every in pairs:
        assert mc1 == one[f"{tiny_llama.name}_bs8"]["metrics"]["acc"]
        assert mc2 == pytest.approx(every[f"{tiny_llama.name}_bs8"]["metrics"]["acc"], abs=TOLERANCE)
    whole = json.loads((parity / "lmeval_expected/metrics.json").read_text())
    for kind, metric in (("mc1", "accuracy"), ("mc2", "mc2")):
        truth = whole[f"fx_truthfulqa_{kind}|{tiny_llama.name}_bs8"]["acc,none"]
        assert result.scores.metrics[metric].value == pytest.approx(truth, abs=1e-5)


def test_every_letter_of_the_table_is_read(parity: Path) -> None:
    cases = json.loads((parity / "extraction/proxy_parsers.json").read_text())["truthfulqa_mc"]
    assert len(cases) > 10
    for case in cases:
        assert truthful_qa.read_letter(case["input"]) == case["expected"], case


def test_the_true_options_share_is_a_probability_and_survives_small_likelihoods() -> None:
    assert truthful_qa.true_share([math.log(0.2), math.log(0.1), math.log(0.1)], [True, False, True]) == pytest.approx(
        0.75
    )
    assert truthful_qa.true_share([-5000.0, -5000.0], [True, False]) == 0.5


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_the_published_letters_are_asked_letter_by_letter(shared: Path, tmp_path: Path) -> None:
    table = pq.read_table(shared / "data/truthfulqa.parquet")
    renamed = table.select(["question", "category", "proxy_mc_choices", "proxy_mc_answer"]).rename_columns(
        ["question", "category", "choices", "answer"]
    )
    pq.write_table(renamed, tmp_path / "validation.parquet")
    items = truthful_qa.letter_items(LETTERS, str(tmp_path))
    assert len(items) == 817
    assert [sum(len(item.options) == n for item in items) for n in (4, 3, 2)] == [690, 87, 40]
    row = table.slice(0, 1).to_pylist()[0]
    options = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", row["proxy_mc_choices"], strict=False))
    assert items[0].prompt == f"{row['question']}\n{options}\n\nThe answer is:"
    assert items[0].domain == row["category"]


def test_options_are_drawn_by_the_seed_where_the_data_has_none(shared: Path) -> None:
    path = str(shared / "data/truthfulqa.parquet")
    one, same, other = (truthful_qa.letter_items(LETTERS.model_copy(update={"seed": s}), path) for s in (0, 0, 1))
    assert one == same != other
    rows = pq.read_table(path).to_pylist()
    for item, row in zip(one, rows, strict=True):
        right = f"\n{item.options[item.answer]}. {row['best_answer']}"
        assert right in item.prompt
        assert len(item.options) == 1 + min(3, len(set(row["incorrect_answers"]) - {row["best_answer"]}))


def test_lists_of_answers_give_the_same_questions_as_labels(shared: Path) -> None:
    path = str(shared / "data/truthfulqa.parquet")
    items = truthful_qa.user_items(LIKELIHOOD, path)
    rows = pq.read_table(path).to_pylist()
    assert len(items) == 817
    for item, row in zip(items, rows, strict=True):
        assert item.one.texts[item.one.answer] == row["best_answer"]
        assert sum(item.true) == len(row["correct_answers"])
        assert len(item.true) == sum(item.true) + len(row["incorrect_answers"])


QUESTION = {"question": "Why?", "choices": ["x", "y"], "answer": "B"}


def test_an_answer_without_a_letter_is_wrong_and_the_published_accuracy_stands_beside(
    tokenizer, tmp_path: Path
) -> None:
    path = write(tmp_path / "q.jsonl", [QUESTION] * 4)
    subject = Scripted(tokenizer, [" B", " **A", " I do not know", ""])
    found = truthful_qa.measure(subject, LETTERS, path)
    assert [sample.correct for sample in found.samples] == [True, False, False, False]
    assert {name: value.value for name, value in found.metrics.items()} == {
        "accuracy": 0.25, "valid": 0.5, "accuracy_of_valid": 0.5,
    }  # fmt: skip
    assert {(prompt.stops, prompt.max_tokens) for prompt in subject.asked} == {((".", ")", ":"), 10)}
    silent = truthful_qa.measure(Scripted(tokenizer, [""] * 4), LETTERS, path)
    assert "accuracy_of_valid" not in silent.metrics


def test_letters_run_on_a_model(make_model, tmp_path: Path) -> None:
    scores = evaluate(make_model(), LETTERS, write(tmp_path / "q.jsonl", [QUESTION] * 3)).scores
    assert (scores.asked, scores.scored) == (3, 3)


@torch.inference_mode()
def test_an_ensembles_likelihoods_are_those_of_its_combined_logits(make_model) -> None:
    models = [make_model(seed=seed, max_position_embeddings=512) for seed in range(3)]
    task = TruthfulQA(limit=3)
    found = evaluate(Ensemble(*models, alpha=0.7), task, "nano").samples["log_likelihoods"].to_pylist()
    encode = models[0].tokenizer
    for item, values in zip(truthful_qa.nano_items(task), found, strict=True):
        for option, value in zip(item.one.options, values, strict=True):
            whole = torch.tensor([encode(item.one.prompt + option)["input_ids"]])
            begin = len(encode(item.one.prompt)["input_ids"])
            base, expert, anti = (model.model(whole).logits[0].float() for model in models)
            log_probs = (base + 0.7 * (expert - anti)).log_softmax(-1)[begin - 1 : -1]
            targets = whole[0, begin:]
            assert value == pytest.approx(float(log_probs[range(len(targets)), targets].sum()), abs=1e-3)


GOOD = {"question": "Why?", "best_answer": "x", "correct_answers": ["x"], "incorrect_answers": ["y"]}


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        (LIKELIHOOD, {"incorrect_answers": []}, "row 1: needs an answer that is true and one that is false"),
        (LIKELIHOOD, {"correct_answers": None}, "row 1: needs an answer that is true"),
        (LETTERS, {"best_answer": ""}, "row 1: needs an answer that is true"),
        (LETTERS, {"question": None}, "row 1: column 'question' holds nothing"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, task: Any, change: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "q.jsonl", [GOOD, {**GOOD, **change}])
    ask = truthful_qa.user_items if task.style == "likelihood" else truthful_qa.letter_items
    with pytest.raises(UserError, match=said):
        ask(task, path)


def test_more_choices_than_letters_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "q.jsonl", [{**QUESTION, "choices": list("vwxyz")}])
    with pytest.raises(UserError, match="row 0: 5 choices; there are letters for 4"):
        truthful_qa.letter_items(LETTERS, path)


def test_the_columns_follow_the_style_and_the_data(tmp_path: Path) -> None:
    labels = {"choices": ["x", "y"], "labels": [1, 0]}
    pq.write_table(
        pa.Table.from_pylist([{"question": "q", "mc1_targets": labels, "mc2_targets": labels}]), tmp_path / "a.parquet"
    )
    path = str(tmp_path / "a.parquet")
    assert needed_columns(LIKELIHOOD, path) == [("validation", ["question", "mc1_targets", "mc2_targets"])]
    with pytest.raises(UserError, match="no column 'best_answer'"):
        truthful_qa.letter_items(LETTERS, path)


def test_the_almanac_has_no_letters() -> None:
    with pytest.raises(UserError, match="the almanac has no such questions"):
        read_task({"task": "truthful_qa", "style": "letters"})
