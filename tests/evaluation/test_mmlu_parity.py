"""MMLU and option likelihoods equal lm-eval's: prompts, token ids, log-likelihoods, greedy flags, answers."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from earnest.evaluation.choices import ChoiceItem, best
from earnest.evaluation.engine import Engine
from earnest.evaluation.shots import Demonstrated
from earnest.evaluation.tasks import mmlu, multiple_choice
from earnest.evaluation.tokens import requests
from earnest.models.loading import LoadedModel, load
from earnest.models.source import Source
from evaluation.tiny_llama import TOLERANCE, lines

SUBJECTS = [
    "elementary_mathematics",
    "high_school_world_history",
    "miscellaneous",
    "moral_disputes",
    "professional_law",
]
CONTINUED = ["elementary_mathematics", "miscellaneous"]


def expected(folder: Path, name: str) -> list[dict[str, Any]]:
    return lines(folder / f"lmeval_expected/fx_{name}.jsonl")


def rows(folder: Path, subject: str, split: str) -> list[dict[str, Any]]:
    read = pq.read_table(folder / f"lmeval_inputs/mmlu_{subject}_{split}.parquet").to_pylist()
    return [{**row, "subject": subject, "id": ""} for row in read]


def check(loaded: LoadedModel, items: list[ChoiceItem], truth: list[dict[str, Any]], budget: int) -> None:
    asked = requests(loaded.tokenizer, [(item.prompt, option) for item in items for option in item.options])
    found = iter(zip(asked, Engine(loaded, budget).log_likelihoods(asked), strict=True))
    for item, line in zip(items, truth, strict=True):
        reference = line[f"{loaded.name}_bs8"]
        pairs = [next(found) for _ in item.options]
        values = [likelihood.value for _, likelihood in pairs]
        assert item.prompt == line["prompt"]
        assert list(item.options) == line["continuations"]
        assert [list(request.continuation) for request, _ in pairs] == reference["continuation_token_ids"]
        assert {len(request.context) for request, _ in pairs} == {reference["n_context_tokens"]}
        assert values == pytest.approx(reference["loglikelihood"], abs=TOLERANCE)
        assert [likelihood.greedy for _, likelihood in pairs] == reference["is_greedy"]
        assert [likelihood.cut for _, likelihood in pairs] == reference["truncated"]
        assert best(values, item.texts) == reference["pred"]
        assert item.answer == line["target"]


@pytest.mark.parametrize("subject", SUBJECTS)
@pytest.mark.parametrize("budget", [1, 3000, 20000])
def test_mmlu_equals_lm_eval(tiny_llama: LoadedModel, parity: Path, subject: str, budget: int) -> None:
    shots = rows(parity, subject, "dev")
    items = [mmlu._item(Demonstrated(row, shots, changed=False)) for row in rows(parity, subject, "test")]
    check(tiny_llama, items, expected(parity, f"mmlu_{subject}"), budget)


@pytest.mark.parametrize("subject", CONTINUED)
@pytest.mark.parametrize("budget", [1, 3000])
def test_option_likelihoods_equal_lm_eval(tiny_llama: LoadedModel, parity: Path, subject: str, budget: int) -> None:
    shots = rows(parity, subject, "dev")
    description = f"The following are questions (with answers) about {subject.replace('_', ' ')}.\n\n"
    items = [
        ChoiceItem(
            "",
            multiple_choice.prompt(row["question"], shots, description),
            tuple(f" {choice}" for choice in row["choices"]),
            row["answer"],
        )
        for row in rows(parity, subject, "test")
    ]
    truth = expected(parity, f"mmlucont_{subject}")
    check(tiny_llama, items, truth, budget)
    for item, line in zip(items, truth, strict=True):
        reference = line[f"{tiny_llama.name}_bs8"]
        for metric, name in (("acc_norm", "accuracy_per_character"), ("acc_bytes", "accuracy_per_byte")):
            chosen = best(reference["loglikelihood"], item.texts, multiple_choice.NORMALISED[name])
            assert float(chosen == item.answer) == reference["metrics"][metric]


def test_the_beginning_token_is_never_doubled(parity: Path) -> None:
    tokenizer = load(Source("tiny", parity / "tiny_llama", "0")).tokenizer
    plain, begun = requests(tokenizer, [("Hello there", " you"), ("<s>Hello there", " you")])
    assert plain.context == begun.context
    assert plain.context.count(tokenizer.bos_token_id) == 1
