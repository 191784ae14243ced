"""What every registered task promises of data, whichever it is: documented columns are read and refused alike."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from earnest.evaluation.tasks import FILES, items_of, needed_columns
from earnest.evaluation.traits import read_frequencies, traits_of
from earnest.models.loading import load_tokenizer
from earnest.models.source import folder_of
from earnest.preflight import check_task
from earnest.specs import TASKS, AnyTask, UserError, read_task

# A row that any task can ask: each reads the columns that it knows.
ROW = {
    "question": "Is 1 odd?", "answer": "#### 1", "answers": ["1"], "choices": ["1", "2"], "subject": "parity",
    "text": "One is odd.", "passage": "One is odd.", "summary": "Odd.", "prompt": "def f():\n", "task_id": "t",
    "entry_point": "f", "test": "def check(f): pass", "code_context": "def test_execution(solution): pass",
    "instruction": "Say 1.", "reference": "1", "turns": ["Say 1."], "best_answer": "1",
    "correct_answers": ["1"], "incorrect_answers": ["2"],
}  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "mmlu": {"shots": 0}, "gsm8k": {"shots": 0}, "closed_book": {"shots": 0}, "open_book": {"shots": 0},
    "multiple_choice": {"shots": 0}, "toxigen": {"classifier": "c"}, "human_eval": {"execute": True},
    "ds_1000": {"execute": True, "python": "python3"},
}  # fmt: skip
OWN_DATA = {"biography", "lm_eval"}  # the almanac's people; what a benchmark brings
WITHOUT_ROWS = {"perplexity"}  # a user's rows are one text
NAMES = [str(spec.model_fields["task"].default) for spec in TASKS]
ASKED = [name for name in NAMES if name not in OWN_DATA]


def task_of(name: str, path: Path, rows: list[Mapping[str, Any]], **fields: Any) -> tuple[AnyTask, str]:
    file = path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_task({"task": name, "data": str(file), "split": "test", **OPTIONS.get(name, {}), **fields}), str(file)


def test_every_task_has_a_file() -> None:
    assert set(FILES) == set(TASKS)


@pytest.mark.parametrize("name", ASKED)
def test_every_task_reads_domain_stratum_and_frequency(name: str, tmp_path: Path) -> None:
    row = {**ROW, "answer": "1"} if name in {"multiple_choice", "mmlu", "truthful_qa"} else ROW
    task, path = task_of(name, tmp_path, [{**row, "domain": "odd", "stratum": "tail", "frequency": 3}])
    check_task(task, path)
    assert needed_columns(task, path)[0][0] == "test"
    (item,) = items_of(task, path)
    if name in WITHOUT_ROWS:
        return
    item = getattr(item, "one", item)  # TruthfulQA asks its questions in two ways
    known = item if isinstance(item, Mapping) else vars(item)
    row_of = known.get("row", known)  # sums keep their row
    assert (row_of["domain"], row_of["stratum"], row_of["frequency"]) == ("odd", "tail", 3.0)


@pytest.mark.parametrize("name", ASKED)
@pytest.mark.parametrize("frequency", ["often", -1, True])
def test_every_task_refuses_a_frequency_that_is_none(name: str, frequency: object, tmp_path: Path) -> None:
    row = {**ROW, "answer": "1"} if name in {"multiple_choice", "mmlu", "truthful_qa"} else ROW
    task, path = task_of(name, tmp_path, [{**row, "frequency": frequency}])
    with pytest.raises(UserError, match=rf"row 0: frequency is {frequency!r}; give how often the fact is mentioned"):
        check_task(task, path)


def test_frequencies_are_read_of_the_split_that_is_asked(tmp_path: Path) -> None:
    rows = [{**ROW, "answer": "1", "frequency": number} for number in (4, 5)]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = read_task({"task": "mmlu", "data": str(tmp_path), "shots": 0})
    assert read_frequencies(task, str(tmp_path)) == [4.0, 5.0]
    tokenizer = load_tokenizer(folder_of("nano:small"), "nano:small")
    assert [one.frequency for one in traits_of(task, str(tmp_path), tokenizer, None).values()] == [4.0, 5.0]
