"""Bad data is refused before a model is loaded, for every task, in a line that names file, row and remedy."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.compression.calibration import check_rows
from earnest.evaluation.rows import question_rows
from earnest.preflight import check_task
from earnest.specs import TASKS, Calibration, UserError, read_task

QUESTION = {"id": "a", "question": "Why?", "answer": "So."}
CHOICE = {"id": "a", "question": "Why?", "choices": ["x", "y"], "answer": "y"}
SUMMARY = {"id": "a", "article": "A long story.", "highlights": "Short."}
TRUTHS = {"correct_answers": ["So."], "incorrect_answers": ["No."]}
CODE = {"execute": True, "python": "python3"}

# Per task: its settings, a good row, the column that is asked, and the column that holds what is right.
FAMILIES: list[tuple[str, dict[str, Any], dict[str, Any], str, str | None]] = [
    ("perplexity", {}, {"text": "Some text."}, "text", None),
    ("closed_book", {"shots": 0}, QUESTION, "question", "answer"),
    ("open_book", {"shots": 0}, {**QUESTION, "passage": "It is so."}, "passage", "answer"),
    ("multiple_choice", {"shots": 0}, CHOICE, "question", "answer"),
    ("mmlu", {"shots": 0}, {**CHOICE, "subject": "law"}, "question", "answer"),
    ("summarisation", {}, SUMMARY, "article", "highlights"),
    ("trivia_qa", {}, QUESTION, "question", "answer"),
    ("factoid_qa", {}, QUESTION, "question", "answer"),
    ("gsm8k", {"shots": 0}, {**QUESTION, "answer": "1 + 1 = 2 #### 2"}, "question", "answer"),
    ("truthful_qa", {}, {"id": "a", "question": "Why?", "best_answer": "So.", **TRUTHS}, "question", "best_answer"),
    ("truthful_qa", {"style": "letters"}, CHOICE, "question", "answer"),
    ("truthful_qa_open", {}, {"id": "a", "question": "Why?", **TRUTHS}, "question", "correct_answers"),
    ("toxigen", {"classifier": "c"}, {"id": "a", "prompt": "- one"}, "prompt", None),
    ("human_eval", CODE, {"task_id": "a", "prompt": "def f():", "entry_point": "f", "test": "check"}, "prompt", "test"),
    ("ds_1000", CODE, {"id": "a", "prompt": "x =", "code_context": "test_execution()"}, "prompt", "code_context"),
    ("instruction", {}, {"id": "a", "turns": ["Say x."], "reference": ["x"]}, "turns", "reference"),
    ("judged_summaries", {}, SUMMARY, "article", "highlights"),
    ("alpaca_farm", {}, {"id": "a", "instruction": "Say x.", "output": "x"}, "instruction", "output"),
]
families = pytest.mark.parametrize(
    ("name", "settings", "row", "asked", "gold"), FAMILIES, ids=[f"{f[0]}{f[1].get('style', '')}" for f in FAMILIES]
)
WITHOUT_ROWS = {"biography", "lm_eval"}  # about the almanac's people; as a benchmark of its own reads them


def test_every_task_that_reads_rows_is_here() -> None:
    assert {name for name, *_ in FAMILIES} | WITHOUT_ROWS == {spec.model_fields["task"].default for spec in TASKS}


def rows_with(row: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """A good row, and one that is not."""
    identity = {name: "b" for name in ("id", "task_id") if name in row}
    return [row, {**row, **identity, **changes}]


def bad_rows(row: dict[str, Any], asked: str, gold: str | None) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Faults of the second row, each with what the message must hold."""
    good, second = rows_with(row)
    yield f"no column {asked!r}", [good, {name: second[name] for name in second if name != asked}]
    for value in (None, math.nan, 7, {"a": 1}):
        yield "row 1", rows_with(row, **{asked: value})
    if asked != "text":  # a blank line of a running text is none of a question
        yield "row 1", rows_with(row, **{asked: " "})
    for value in ("", None, [], math.nan, " ", [""], {"a": 1}) if gold else ():
        yield "row 1", rows_with(row, **{str(gold): value})
    for value in (["x"], [], None, "xy", ["x", None], {"a": 1}) if "choices" in row else ():
        yield "row 1", rows_with(row, choices=value, answer=0)
    for value in ([], None, 7, [None], [7], [" "]) if "incorrect_answers" in row else ():
        yield "row 1", rows_with(row, incorrect_answers=value)
    if asked != "text":
        yield "rows 0 and 1 have the same", [row, row]
    for value in (None, math.nan) if "id" in row else ():
        yield "row 1 has no id", rows_with(row, id=value)
    if "id" in row:
        yield "rows 0 and 1 have the same id [1]", [{**row, "id": [1]}] * 2


def bad_bytes(row: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Files that hold no rows, or no text."""
    line = json.dumps(row).encode() + b"\n"
    yield ":2: not UTF-8", line + b'{"x": "\xff"}\n'
    yield "is empty", b""
    yield ":2: not JSON", line + b"\x00\x01\n"
    yield ":2: list, not an object", line + b"[1]\n"


def refusal(settings: dict[str, Any], name: str, file: Path) -> str:
    """What the check before a run says of a file; it must be short, and name it."""
    with pytest.raises(UserError) as refused:
        check_task(read_task({"task": name, "data": str(file), **settings}), str(file))
    said = str(refused.value)
    assert str(file) in said
    assert len(said.splitlines()) <= 2
    assert ";" in said  # the remedy
    return said


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@families
def test_a_row_that_cannot_be_asked_or_judged_is_named(
    name: str, settings: dict[str, Any], row: dict[str, Any], asked: str, gold: str | None, tmp_path: Path
) -> None:
    good = write(tmp_path / "rows.jsonl", rows_with(row))
    check_task(read_task({"task": name, "data": str(good), **settings}), str(good))
    for said, rows in bad_rows(row, asked, gold):
        assert said in refusal(settings, name, write(tmp_path / "rows.jsonl", rows)), rows[1]


@families
def test_a_file_that_holds_no_rows_or_no_text_is_named(
    name: str, settings: dict[str, Any], row: dict[str, Any], asked: str, gold: str | None, tmp_path: Path
) -> None:
    for said, content in bad_bytes(row):
        (tmp_path / "rows.jsonl").write_bytes(content)
        assert said in refusal(settings, name, tmp_path / "rows.jsonl"), content
    table, column = pa.Table.from_pylist(rows_with(row)), pa.array([b"\xff\xfe", b"ok"], pa.binary())
    place = table.schema.names.index(asked)
    for said, bad in {
        "bytes": table.set_column(place, asked, column),
        "not UTF-8": table.set_column(place, asked, column.view(pa.string())),
        "empty": table.slice(0, 0),
    }.items():
        pq.write_table(bad, tmp_path / "rows.parquet")
        refused = refusal(settings, name, tmp_path / "rows.parquet")
        assert said in refused or (said == "bytes" and "row 0" in refused)


@families
def test_of_a_folder_of_splits_the_file_is_named(
    name: str, settings: dict[str, Any], row: dict[str, Any], asked: str, gold: str | None, tmp_path: Path
) -> None:
    split = read_task({"task": name, "data": str(tmp_path), **settings}).split
    file = write(tmp_path / f"{split}.jsonl", rows_with(row, **{asked: None}))
    with pytest.raises(UserError, match=f"{file}: row 1"):
        check_task(read_task({"task": name, "data": str(tmp_path), **settings}), str(tmp_path))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": None}, "row 1: column 'text' holds nothing"),
        ({"text": math.nan}, "row 1: column 'text' holds float"),
        ({"words": "a"}, "row 1: has no column 'text'"),
    ],
)
def test_a_row_that_cannot_be_calibrated_on_is_named(row: dict[str, Any], said: str, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"text": "A row."}, row])
    with pytest.raises(UserError, match=said):
        check_rows(Calibration(data=str(file)), str(file))


def test_token_ids_that_are_none_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", [{"input_ids": [1, 2]}, {"input_ids": [1, -2]}])
    with pytest.raises(UserError, match="row 1: input_ids holds"):
        check_rows(Calibration(data=str(file)), str(file))


def test_groups_may_be_numbered_from_0_and_missing(tmp_path: Path) -> None:
    rows = [{"question": "Why?", "answer": "So.", "stratum": stratum} for stratum in (0, 1, None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    found = question_rows(str(tmp_path), "test", ["question", "answer"])
    assert [row["stratum"] for row in found] == ["0", "1", ""]
