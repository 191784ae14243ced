"""Data is read in the forms that people have it in, and what is damaged or ambiguous is refused with its file and
line.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.data import columns, iterate_rows, read_rows, resolve_data, splits
from earnest.evaluation.tasks.closed_book import user_items
from earnest.evaluation.tasks.multiple_choice import user_items as choice_items
from earnest.specs import UserError, read_task

ROWS = [{"question": f"Where was P{i} born?", "answer": f"Town, {i}\u2028"} for i in range(5)]
REAL = Path(__file__).parents[1].parent / "shared" / "data" / "real"


def json_lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def separated(by: str) -> str:
    quoted = [[row["question"], '"' + row["answer"] + '"'] for row in ROWS]
    return "".join(by.join(cells) + "\n" for cells in [["question", "answer"], *quoted])


def zstd(text: bytes) -> bytes:
    return bytes(pa.compress(text, codec="zstd", asbytes=True))


FORMS = {
    "rows.jsonl": json_lines(ROWS).encode(),
    "rows.ndjson": json_lines(ROWS).encode(),
    "marked.jsonl": b"\xef\xbb\xbf" + json_lines(ROWS).encode(),
    "wide.jsonl": json_lines(ROWS).encode("utf-16"),
    "returns.jsonl": json_lines(ROWS).replace("\n", "\r\n").encode(),
    "rows.jsonl.gz": gzip.compress(json_lines(ROWS).encode()),
    "rows.jsonl.zst": zstd(json_lines(ROWS).encode()),
    "array.json": json.dumps(ROWS, indent=1).encode(),
    "array.json.gz": gzip.compress(b"\xef\xbb\xbf" + json.dumps(ROWS).encode()),
    "lines.json": json_lines(ROWS).encode(),
    "inside.json": json.dumps({"version": "1", "data": ROWS}).encode(),
    "columns.json": json.dumps({name: [row[name] for row in ROWS] for name in ROWS[0]}).encode(),
    "rows.csv": separated(",").encode(),
    "marked.csv": b"\xef\xbb\xbf" + separated(",").replace("\n", "\r\n").encode(),
    "semicolons.csv": separated(";").encode(),
    "rows.tsv": separated("\t").encode(),
    "ROWS.CSV.GZ": gzip.compress(separated(",").encode()),
    "rows.csv.zst": zstd(separated(",").encode()),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_the_same_rows_reads_the_same(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name])
    path = resolve_data(str(tmp_path / name), "test").path
    assert read_rows(path, "test", ["question", "answer"]) == ROWS
    assert columns(path, "test") == ["answer", "question"]
    task = read_task({"task": "closed_book", "data": path, "shots": 2})
    assert [item.aliases for item in user_items(task, path)] == [(row["answer"],) for row in ROWS[2:]]


@pytest.mark.parametrize("name", ["text.txt", "text.txt.gz", "text.txt.zst"])
def test_text_is_one_row_whatever_its_line_ends(tmp_path: Path, name: str) -> None:
    text = "\ufeffone\r\ntwo\rthree\n".encode()
    held = {".gz": gzip.compress(text), ".zst": zstd(text)}.get(Path(name).suffix, text)
    (tmp_path / name).write_bytes(held)
    assert read_rows(str(tmp_path / name), "test", ["text"]) == [{"text": "one\ntwo\nthree\n"}]


def test_lists_in_the_cells_of_a_table_are_lists(tmp_path: Path) -> None:
    lines = ["question,choices,answer", "2+2?,\"['3', '4']\",1", '[1] what?,"[""a"", ""b""]",A']
    (tmp_path / "x.csv").write_text("\n".join(lines))
    path = str(tmp_path / "x.csv")
    items = choice_items(read_task({"task": "multiple_choice", "data": path, "shots": 0}), path)
    assert [(item.texts, item.answer) for item in items] == [(("3", "4"), 1), (("a", "b"), 0)]
    assert "[1] what?" in items[1].prompt


def shards(folder: Path, count: int = 2, split: str = "test", hashed: str = "") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        table = pa.table({"question": [f"{split} {i}"], "answer": ["x"]})
        pq.write_table(table, folder / f"{split}-{i:05d}-of-{count:05d}{hashed}.parquet")


@pytest.mark.parametrize(("home", "hashed"), [("", ""), ("data", ""), ("data", "-0123456789abcdef")])
def test_shards_as_the_hub_names_them_are_one_split(tmp_path: Path, home: str, hashed: str) -> None:
    shards(tmp_path / home, 3, hashed=hashed)
    shards(tmp_path / home, 1, "train", hashed)
    (tmp_path / "README.md").write_text("about")
    assert splits(str(tmp_path)) == ["test", "train"]
    assert [row["question"] for row in read_rows(str(tmp_path), "test", ["question"])] == ["test 0", "test 1", "test 2"]


def test_a_folder_for_each_split_is_read(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    for i in range(2):
        pq.write_table(pa.table({"question": [str(i)]}), tmp_path / "test" / f"{i:04d}.parquet")
    assert [row["question"] for row in read_rows(str(tmp_path), "test", ["question"])] == ["0", "1"]


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shards(tmp_path, 3)
    (tmp_path / "test-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match=r"'test' has 2 of 3 shards; number 00001 is missing"):
        read_rows(str(tmp_path), "test", ["question"])


def test_a_split_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    for name in ("test.jsonl", "test.csv"):
        (tmp_path / name).write_bytes(FORMS["rows" + name[4:]])
    with pytest.raises(UserError, match=r"'test' stands there twice, as test.csv and test.jsonl; keep one"):
        read_rows(str(tmp_path), "test", ["question"])


def test_all_columns_are_read_where_none_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    assert read_rows(str(tmp_path / "x.parquet"), "test", []) == ROWS


BAD = {
    "cut.jsonl.gz": (FORMS["rows.jsonl.gz"][:-9], "cannot be read to its end"),
    "cut.jsonl.zst": (FORMS["rows.jsonl.zst"][:-9], "cannot be read to its end"),
    "not.jsonl.gz": (b"no gzip", "cannot be read to its end"),
    "not.csv.zst": (b"no zstd", "cannot be read to its end"),
    "wide.csv": (b"question,answer\na,b,c\n", r"wide\.csv:2: 3 cells under a header of 2; quote cells"),
    "open.csv": (b'question,answer\na,"b\n', r"open\.csv:2: no row of a table"),
    "twice.csv": (b"question,question\na,b\n", "'question' stands twice in the header"),
    "latin.csv": ("question,answer\na,caf\xe9\n".encode("latin-1"), r"latin\.csv:2: not UTF-8"),
    "words.json": (b'["a", "b"]', "row 0: str, not an object"),
    "broken.json": (b'[{"question": "a"},\n {"question": oops}]', r"broken\.json:2: not JSON"),
    "two.json": (json.dumps({"a": ROWS, "b": ROWS}).encode(), "without one array of objects"),
    "pointer.parquet": (b"version https://git-lfs/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    "pointer.csv": (b"version https://git-lfs/spec/v1\noid sha256:0\nsize 1\n", "Git LFS pointer"),
    "empty.csv": (b"", "is empty"),
    "header.csv": (b"question,answer\n", "is empty"),
    "none.json": (b"[]", "is empty"),
    "rows.xlsx": (b"PK", r"\.xlsx is not read; use \.parquet"),
    "rows.parquet.gz": (b"x", r"is not read; use \.parquet"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_one_clear_line(tmp_path: Path, name: str) -> None:
    content, said = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_rows(str(tmp_path / name), "test", ["question"])


def test_a_long_file_is_read_no_further_than_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"text": "a"}\n' * 3 + "broken\n")
    (tmp_path / "x.csv").write_text("text\na\nb\n" + "c,d\n")
    for name in ("x.jsonl", "x.csv"):
        rows = iterate_rows(str(tmp_path / name), "test", ["text"])
        assert next(rows)["text"] == "a"
        with pytest.raises(UserError):
            list(rows)


REAL_TASKS = [
    ("hellaswag_val_2500.parquet", "multiple_choice"),
    ("popqa_1000.parquet", "closed_book"),
    ("triviaqa_dev_1000.parquet", "trivia_qa"),
]


@pytest.mark.parametrize(("name", "task"), REAL_TASKS)
def test_real_tables_read_the_same_as_csv_and_json(tmp_path: Path, name: str, task: str) -> None:
    if not (REAL / name).is_file():
        pytest.skip("the real data sets are not beside the checkout")
    table = pq.read_table(REAL / name).slice(0, 40)
    rows = table.to_pylist()
    (tmp_path / "a.json").write_text(json.dumps(rows, default=str))
    (tmp_path / "l.jsonl.gz").write_bytes(
        gzip.compress("".join(json.dumps(r, default=str) + "\n" for r in rows).encode())
    )
    pq.write_table(table, tmp_path / "p.parquet")
    asked = [column for column in table.column_names if pa.types.is_string(table.schema.field(column).type)]
    expected = [{column: row[column] for column in asked} for row in rows]
    for file in ("a.json", "l.jsonl.gz", "p.parquet"):
        found = read_rows(str(tmp_path / file), "test", asked)
        assert [{column: row[column] for column in asked} for row in found] == expected
    table.select(asked).to_pandas().to_csv(tmp_path / "c.csv", index=False)
    cells = read_rows(str(tmp_path / "c.csv"), "test", asked)
    assert [cell[asked[0]] for cell in cells] == [row[asked[0]] for row in expected]
