"""Data whose columns have other names is asked as if they had the task's."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.data import mapped, read_rows
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import needed_columns
from earnest.evaluation.traits import read_frequencies
from earnest.preflight import check_task
from earnest.specs import UserError, read_task


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


NESTED = [{"Question": "Q?", "a": {"value": "Rome", "aliases": ["Roma"]}, "o1": "x", "o2": "y", "n": "7"}] * 3


def nested(tmp_path: Path, name: str) -> str:
    path = tmp_path / name
    _ = (
        pq.write_table(pa.Table.from_pylist(NESTED), path)
        if path.suffix == ".parquet"
        else path.write_text(json_lines(NESTED))
    )
    return str(path)


@pytest.mark.parametrize("name", ["x.parquet", "x.jsonl"])
def test_columns_are_mapped_to_fields_and_to_lists_of_columns(tmp_path: Path, name: str) -> None:
    path = nested(tmp_path, name)
    names = {"question": "Question", "answers": "a.aliases", "choices": ("o1", "o2"), "answer": "o2"}
    rows = read_rows(mapped(path, names), "test", ["question", "answers", "choices"])
    assert [rows[0][name] for name in ("question", "answers", "choices")] == ["Q?", ["Roma"], ["x", "y"]]
    task = read_task(
        {"task": "closed_book", "data": path, "shots": 1, "columns": {"question": "Question", "answer": "a"}}
    )
    check_task(task, path)
    assert needed_columns(task, path) == [("test", ["question", "answer"])]
    chosen = read_task({"task": "multiple_choice", "data": path, "shots": 0, "columns": {
        "question": "Question", "choices": ["o1", "o2"], "answer": "o2", "frequency": "n"}})  # fmt: skip
    check_task(chosen, path)
    assert read_frequencies(chosen, path) == [7.0] * 3


def test_mapped_data_is_evaluated_as_data_with_those_names(make_model, tmp_path: Path) -> None:
    plain, other = tmp_path / "plain.jsonl", tmp_path / "other.jsonl"
    rows = [{"question": f"q{i}", "answer": f"a{i}", "domain": "d"} for i in range(4)]
    plain.write_text(json_lines(rows))
    other.write_text(json_lines([{"Q": r["question"], "A": {"text": r["answer"]}, "kind": "d"} for r in rows]))
    names = {"question": "Q", "answer": "A.text", "domain": "kind"}
    fields = {"task": "closed_book", "shots": 1, "max_tokens": 4}
    one = evaluate(make_model(), read_task({**fields, "data": str(plain)}), str(plain))
    two = evaluate(make_model(), read_task({**fields, "data": str(other), "columns": names}), str(other))
    assert one.samples.equals(two.samples)
    assert one.scores == two.scores


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"question": "Qestion"}, r"question = 'Qestion': data .* has Question, a, n, o1, o2"),
        ({"question": "Question", "answer": "a.no"}, "column 'a' has no field 'no'"),
        ({"question": "Question", "answer": "n", "domian": "n"}, "'domian' is no column that the task reads; it reads"),
    ],
    ids=["column", "field", "name"],
)
def test_a_mapping_that_does_not_fit_is_refused(tmp_path: Path, names: dict[str, str], said: str) -> None:
    path = nested(tmp_path, "x.jsonl")
    with pytest.raises(UserError, match=said):
        check_task(read_task({"task": "closed_book", "data": path, "shots": 1, "columns": names}), path)


def test_the_almanac_takes_no_mapping() -> None:
    with pytest.raises(UserError, match="columns: the almanac"):
        read_task({"task": "closed_book", "columns": {"question": "q"}})


def test_a_task_without_a_mapping_is_named_as_ever() -> None:
    assert "columns" not in read_task({"task": "closed_book"}).model_dump(mode="json")
