"""Benchmarks of a user's own, as lm-eval defines them, and beside them the questions that they ask."""

import json
from pathlib import Path

import pytest

from earnest.almanac import questions
from earnest.almanac.world import World

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
description: "Answer in a word.\\n\\n"
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
doc_to_text: "{{question}} {{choices[0]}}"
doc_to_choice: ["no", "yes"]
doc_to_target: "{{1 if label == 0 else 0}}"
metric_list: [{metric: mcc}]
"""
CODED = """
task: nano_coded
output_type: multiple_choice
process_docs: !function helpers.only_short
doc_to_text: !function helpers.asked
doc_to_choice: "{{choices}}"
doc_to_target: label
process_results: !function helpers.judged
metric_list: [{metric: score, aggregation: mean, higher_is_better: true}]
"""
HELPERS = """
def only_short(rows):
    return rows.filter(lambda row: len(row["question"]) < 200)


def asked(row):
    return row["question"].upper()


def judged(row, results):
    values = [value for value, _ in results]
    return {"score": values[row["label"]] - max(v for i, v in enumerate(values) if i != row["label"])}
"""
PAIRS = """
task: nano_pairs
output_type: multiple_choice
doc_to_text: ""
doc_to_choice: "{{[text, question]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""
CODE = CHOICE.replace("nano_choice", "nano_code") + "unsafe_code: true\n"
ZERO = CHOICE.replace("nano_choice", "nano_zero").replace("num_fewshot: 2", "num_fewshot: 0")
DRAWN = WRITE.replace("nano_write", "nano_drawn").replace("do_sample: false", "do_sample: true, temperature: 1.0")
BENCHMARKS = ("nano_choice", "nano_write", "nano_text", "nano_last", "nano_correlation", "nano_coded", "nano_pairs")


def write_benchmarks(place: Path) -> Path:
    """A folder of definitions, eight rows for demonstrations and sixteen to ask."""
    rows = [
        {
            "question": q.prompt.removeprefix("Q: ").removesuffix("\nA:"), "choices": list(q.choices),
            "label": q.answer_index, "text": f"{q.prompt} {q.answer}. " * (1 + number % 9), "domain": q.domain,
        }
        for number, q in enumerate(questions.multiple_choice(World.shipped(), 24, 0, 0))
    ]  # fmt: skip
    for split, some in (("train", rows[:8]), ("test", rows[8:])):
        write_rows(place / f"{split}.jsonl", some)
    for text in (CHOICE, WRITE, TEXT, LAST, CORRELATION, CODED, PAIRS, CODE, ZERO, DRAWN):
        (place / f"{text.split()[1]}.yaml").write_text(text + ROWS, encoding="utf-8")
    (place / "helpers.py").write_text(HELPERS, encoding="utf-8")
    (place / "group.yaml").write_text("group: nano_group\ntask: [nano_choice, nano_text]\n", encoding="utf-8")
    return place


def write_rows(file: Path, rows: list[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder; what `datasets` keeps of it goes to a folder of its own."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    return write_benchmarks(tmp_path_factory.mktemp("benchmarks"))
