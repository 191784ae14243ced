"""Any benchmark of lm-eval on our engine: what lm-eval finds with its own model, we find with any subject."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from earnest.almanac import questions
from earnest.almanac.world import World
from earnest.evaluation.harness.figures import metric_name
from earnest.evaluation.run import Evaluation, evaluate
from earnest.models.loading import LoadedModel
from earnest.specs import LMEval

ROWS = """
dataset_path: json
dataset_kwargs:
  data_files: {train: train.jsonl, test: test.jsonl}
training_split: train
test_split: test
"""
CHOICE = """
task: nano_choice
output_type: multiple_choice
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
num_fewshot: 2
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_mutual_info, aggregation: mean, higher_is_better: true}
"""
WRITE = """
task: nano_write
output_type: generate_until
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices[label]}}"
num_fewshot: 1
generation_kwargs: {until: ["\\n", "Question:"], max_gen_toks: 12, do_sample: false}
filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "^ ?([A-Z]\\\\w+)"}, {function: take_first}]}
  - {name: flexible-extract, filter: [{function: regex, regex_pattern: "(\\\\w+)"}, {function: take_first}]}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
TEXT = """
task: nano_text
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
LAST = """
task: nano_last
output_type: loglikelihood
doc_to_text: "{{question}}"
doc_to_target: " {{choices[label]}}"
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""
CORRELATION = """
task: nano_correlation
output_type: multiple_choice
doc_to_text: "{{question}} Is it {{choices[0]}}?"
doc_to_choice: ["no", "yes"]
doc_to_target: "{{1 if label == 0 else 0}}"
metric_list: [{metric: mcc}]
"""
CODE = CHOICE.replace("nano_choice", "nano_code") + "unsafe_code: true\n"
BENCHMARKS = ("nano_choice", "nano_write", "nano_text", "nano_last", "nano_correlation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder: benchmarks, and beside them what they ask."""
    import datasets

    place = tmp_path_factory.mktemp("benchmarks")
    datasets.config.HF_DATASETS_CACHE = place / "cache"
    datasets.disable_progress_bars()
    asked = questions.multiple_choice(World.shipped(), 24, 0, 0)
    rows = [
        {
            "question": q.prompt.removeprefix("Q: ").removesuffix("\nA:"), "choices": list(q.choices),
            "label": q.answer_index, "text": f"{q.prompt} {q.answer}. " * (1 + number % 9), "domain": q.domain,
        }
        for number, q in enumerate(asked)
    ]  # fmt: skip
    for split, some in (("train", rows[:8]), ("test", rows[8:])):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (place / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    for name, text in zip((*BENCHMARKS, "nano_code"), (CHOICE, WRITE, TEXT, LAST, CORRELATION, CODE), strict=True):
        (place / f"{name}.yaml").write_text(text + ROWS, encoding="utf-8")
    (place / "group.yaml").write_text("group: nano_group\ntask: [nano_choice, nano_text]\n", encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def model(make_model: Callable[..., LoadedModel]) -> LoadedModel:
    return make_model(max_position_embeddings=256)


def asked(benchmark: str, folder: Path, **fields: Any) -> LMEval:
    return LMEval(benchmark=benchmark, include=str(folder), **fields)


def by_lm_eval(lm: Any, benchmark: str, folder: Path, **options: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(lm, tasks=[benchmark], task_manager=manager, bootstrap_iters=0, **options)
    assert found is not None
    return found


def hugging_face(model: LoadedModel) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model.model, tokenizer=model.tokenizer, batch_size=4, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_answers_likelihoods_and_metrics_equal_lm_evals_own(
    model: LoadedModel, folder: Path, benchmark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)  # where lm-eval looks for data files
    theirs = by_lm_eval(hugging_face(model), benchmark, folder)
    ours = evaluate(model, asked(benchmark, folder), "lm_eval")
    check_equal(ours, theirs, benchmark)


def check_equal(ours: Evaluation, theirs: dict[str, Any], benchmark: str) -> None:
    metrics = {key: value for key, value in theirs["results"][benchmark].items() if "," in key and "_stderr" not in key}
    named = {metric_name(*key.split(",")): value for key, value in metrics.items()}
    assert {name: ours.scores.metrics[name].value for name in named} == pytest.approx(named, rel=1e-4)
    assert ours.scores.headline == next(iter(named))
    first = theirs["samples"][benchmark][0]["filter"]
    samples = [one for one in theirs["samples"][benchmark] if one["filter"] == first]
    rows = ours.samples.to_pylist()
    assert [int(row["id"]) for row in rows] == [one["doc_id"] for one in samples]
    for row, one in zip(rows, samples, strict=True):
        check_sample(row, one)


def check_sample(row: dict[str, Any], one: dict[str, Any]) -> None:
    if isinstance(one["resps"][0][0], str):
        assert row["text"] == one["resps"][0][0]
        assert row["prediction"] == one["filtered_resps"][0]
    elif isinstance(one["resps"][0][0], tuple):
        assert row["log_likelihoods"] == pytest.approx([each[0][0] for each in one["resps"]], abs=1e-4)
    else:
        assert math.fsum(row["log_likelihoods"]) == pytest.approx(one["resps"][0][0], abs=1e-3)
    for metric in one["metrics"]:
        if isinstance(one[metric], int | float) and f"{metric}_stderr" not in row and one["filter"] == "none":
            assert metric == "perplexity" or row[metric] == one[metric]
