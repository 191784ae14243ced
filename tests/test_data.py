"""Data is found and read whole, or refused with the column, the split or the path that is wrong."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.data import columns, read_rows, resolve_data, splits
from earnest.specs import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for split, n in (("dev", 2), ("test", 3), ("void", 0)):
        pq.write_table(
            pa.table({"question": [f"q{i}" for i in range(n)], "extra": list(range(n))}), tmp_path / f"{split}.parquet"
        )
    return tmp_path


def test_a_folder_is_read_by_split(folder: Path) -> None:
    assert [row["question"] for row in read_rows(str(folder), "test", ["question"])] == ["q0", "q1", "q2"]
    assert splits(str(folder)) == ["dev", "test", "void"]


def test_a_missing_column_is_told_which_there_are(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no column 'answer'.*extra, question"):
        read_rows(str(folder), "test", ["answer"])


def test_a_missing_split_is_told_which_there_are(folder: Path) -> None:
    with pytest.raises(UserError, match=r"no split 'train'.*dev, test, void"):
        read_rows(str(folder), "train", ["question"])


def test_an_empty_dataset_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="empty"):
        read_rows(str(folder), "void", ["question"])


def test_a_path_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        resolve_data("./absent.parquet", "test")


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("not parquet")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_rows(str(tmp_path / "x.parquet"), "test", ["a"])


def test_json_lines_and_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"a": 1}) + "\n\n" + json.dumps({"a": 2}) + "\n")
    (tmp_path / "x.txt").write_text("one\ntwo")
    assert read_rows(str(tmp_path / "x.jsonl"), "test", ["a"]) == [{"a": 1}, {"a": 2}]
    assert read_rows(str(tmp_path / "x.txt"), "test", ["text"]) == [{"text": "one\ntwo"}]


def test_a_dataset_saved_by_datasets_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    DatasetDict({"test": Dataset.from_dict({"a": [1, 2]})}).save_to_disk(str(tmp_path / "d"))
    assert [row["a"] for row in read_rows(str(tmp_path / "d"), "test", ["a"])] == [1, 2]
    with pytest.raises(UserError, match="no split 'train'"):
        read_rows(str(tmp_path / "d"), "train", ["a"])


def test_the_digest_follows_the_content_and_not_the_path(folder: Path, tmp_path: Path) -> None:
    before = resolve_data(str(folder), "test").digest
    moved = folder.rename(tmp_path.parent / f"{tmp_path.name}-moved")
    assert resolve_data(str(moved), "test").digest == before
    (moved / "dev.parquet").unlink()
    assert resolve_data(str(moved), "test").digest != before


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"a": 1', r"x\.jsonl:2: not JSON .*write one object per line"),
        (b"[1, 2]", r"x\.jsonl:2: list, not an object"),
        (b'{"a": "\xff"}', r"x\.jsonl:2: not UTF-8 .*save the file as UTF-8"),
        (b'{"b": 1}', r"x\.jsonl: row 1: has no column 'a'; its columns are b"),
    ],
    ids=["broken", "list", "latin", "lacking"],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"a": 1}\n' + line + b"\n")
    with pytest.raises(UserError, match=said):
        read_rows(str(tmp_path / "x.jsonl"), "test", ["a"])


def test_a_line_separator_within_a_json_string_ends_no_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": "one\u2028two"}\n', encoding="utf-8")
    assert read_rows(str(tmp_path / "x.jsonl"), "test", ["a"]) == [{"a": "one\u2028two"}]


def test_the_columns_of_a_corrupt_parquet_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match=r"not a readable Parquet file .*write or download it again"):
        columns(str(tmp_path / "x.parquet"), "test")
