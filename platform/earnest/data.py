"""Data that a user brings: found, hashed, and read row by row with clear errors.

A name is a Parquet, JSON-lines or text file, a folder of such files (one per split), a folder saved by `datasets`,
or a hub id. What the almanac invents (`nano`) is not read from here: it is made.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earnest.specs import UserError

NANO = "nano"
SUFFIXES = (".parquet", ".jsonl", ".txt")


@dataclass(frozen=True)
class DataSource:
    """A dataset: the name the user gave, where it lies, and the digest of its content."""

    name: str
    path: str
    digest: str


def resolve_data(name: str, split: str) -> DataSource:
    """Find a dataset and hash what it holds.

    Raises:
        UserError: there is nothing by that name.
    """
    if name == NANO:
        return DataSource(name, NANO, _nano_digest())
    path = Path(name).expanduser()
    if path.exists():
        return DataSource(name, str(path.resolve()), content_digest(path))
    if name.startswith((".", "/", "~")) or Path(name).suffix in SUFFIXES:
        raise UserError(
            f"data {name}: no such file or folder; give a Parquet, .jsonl or .txt file, a folder of them, or a hub id"
        )
    rows = _from_hub(name, split)
    return DataSource(name, name, str(rows._fingerprint))


def _nano_digest() -> str:
    from earnest.almanac.world import World

    return hashlib.sha256(f"almanac {World.shipped().digest()}".encode()).hexdigest()[:32]


def content_digest(path: Path) -> str:
    """The digest of a file's bytes, or of all files in a folder and below it; hidden ones are left out."""
    files = (
        [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    )
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            whole.update(f"{file.relative_to(path)}\n{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:32]


def splits(path: str) -> list[str]:
    """The splits that a folder offers as `SPLIT.parquet`, `SPLIT.jsonl` or `SPLIT.txt`; empty for a single file."""
    folder = Path(path)
    if not folder.is_dir():
        return []
    return sorted({p.stem for p in folder.iterdir() if p.suffix in SUFFIXES})


def columns(path: str, split: str) -> list[str]:
    """The names of a dataset's columns. Raises UserError where it has no row that could name them."""
    file = _file_of(path, split)
    if file is not None and file.suffix == ".parquet":
        return _parquet_columns(file)
    rows = _read(path, split, None)
    if not rows:
        raise _empty(path, split)
    return sorted(rows[0])


def read_rows(path: str, split: str, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a dataset's split, only the asked columns.

    Args:
        path: what `resolve_data` found.
        split: the file `SPLIT.parquet` of a folder, or the split of a saved or hub dataset; a single file has one.
        columns: columns that every row must have.

    Raises:
        UserError: a row lacks a column (the message names those it has), there is no row, or the file is broken.
    """
    rows = _read(path, split, columns)
    if not rows:
        raise _empty(path, split)
    for number, row in enumerate(rows):
        missing = [column for column in columns if column not in row]
        if missing:
            file = file_of(path, split)
            raise _missing_column(f"{file}: row {number}" if number else file, missing[0], row)
    return rows


def text_of(row: Mapping[str, Any], column: str, where: str) -> str:
    """What a row holds in a column of text; `where` names the data and the row.

    Raises:
        UserError: it is no text.
    """
    value = row[column]
    if not isinstance(value, str):
        held = "nothing" if value is None else type(value).__name__
        raise UserError(f"{where}: column {column!r} holds {held}, not text; give every row text, or another column")
    return value


def _empty(path: str, split: str) -> UserError:
    return UserError(f"data {file_of(path, split)}: split {split!r} is empty; give a dataset with at least one row")


def _missing_column(path: str, column: str, there: Iterable[str]) -> UserError:
    return UserError(f"data {path}: has no column {column!r}; its columns are {', '.join(sorted(there)) or 'none'}")


def _read(path: str, split: str, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    file = _file_of(path, split)
    if file is None:
        return _from_datasets(path, split)
    if file.suffix == ".parquet":
        return _from_parquet(file, columns)
    text = _text(file)
    if file.suffix == ".jsonl":
        return [_object(line, f"data {file}:{i}") for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    return [{"text": text}] if text.strip() else []


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(f"data {file}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error}); write one object per line") from error
    if not isinstance(row, dict):
        raise UserError(f'{where}: {type(row).__name__}, not an object; write one like {{"text": "..."}} per line')
    return row


def file_of(path: str, split: str) -> str:
    """What errors call the place of a split's rows: its file, or the whole dataset where it has no file of its own."""
    return str(_file_of(path, split) or path)


def _file_of(path: str, split: str) -> Path | None:
    place = Path(path)
    if place.is_file():
        if place.suffix not in SUFFIXES:
            raise UserError(f"data {path}: {place.suffix or 'no suffix'} is not read; use .parquet, .jsonl or .txt")
        return place
    if not place.is_dir() or (place / "dataset_dict.json").exists() or (place / "state.json").exists():
        return None
    for suffix in SUFFIXES:
        if (place / f"{split}{suffix}").is_file():
            return place / f"{split}{suffix}"
    offered = ", ".join(splits(path)) or "no .parquet, .jsonl or .txt file"
    raise UserError(f"data {path}: has no split {split!r}; it has {offered}")


def _from_parquet(file: Path, columns: Sequence[str] | None) -> list[dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = _parquet_columns(file)
    missing = [column for column in columns or () if column not in there]
    if missing:
        raise _missing_column(str(file), missing[0], there)
    try:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=list(columns) if columns else None).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(file, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"data {file}: holds text that is not UTF-8 ({error.reason}); write it as UTF-8") from error
    return rows


def _parquet_columns(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise _broken_parquet(file, error) from error


def _broken_parquet(file: Path, error: Exception) -> UserError:
    return UserError(f"data {file}: not a readable Parquet file ({error}); write or download it again")


def _from_datasets(path: str, split: str) -> list[dict[str, Any]]:
    if not Path(path).exists():
        return list(_from_hub(path, split))
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(path)
    if not isinstance(loaded, DatasetDict):
        return list(loaded)
    if split not in loaded:
        raise UserError(f"data {path}: has no split {split!r}; it has {', '.join(sorted(loaded))}")
    return list(loaded[split])


def _from_hub(name: str, split: str) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    identifier, _, configuration = name.partition(":")
    try:
        return load_dataset(identifier, configuration or None, split=split)
    except (DatasetNotFoundError, OSError, ValueError, ConnectionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"data {name}: neither a path here nor to be had from the hub ({reason})") from error
