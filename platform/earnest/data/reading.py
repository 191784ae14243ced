"""Read the rows of a dataset's split, under the names that a task asks for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from earnest.data.columns import column_of, names_there, sources_of, value_of
from earnest.data.formats import TextPieces, columns_of, rows_of
from earnest.data.source import from_hub
from earnest.data.splits import split_files
from earnest.specs import UserError

Row = dict[str, Any]


def columns(path: str, split: str) -> list[str]:
    """The names of a dataset's columns, as they can be asked for.

    Raises:
        UserError: it has no row that could name them, or the mapping names one that is not there.
    """
    return names_there(path, _columns(path, split))


def _columns(path: str, split: str) -> list[str]:
    files = split_files(path, split)
    if files is None:
        first = next(_from_datasets(path, split), None)
        there = None if first is None else sorted(first)
    else:
        there = next((found for found in map(columns_of, files) if found is not None), None)
    if there is None:
        raise _empty(path, split)
    return there


def read_rows(path: str, split: str, columns: Sequence[str]) -> list[Row]:
    """The rows of a dataset's split, only the asked columns of those kinds of file that have columns.

    Args:
        path: what `resolve_data` found, with the mapping of its columns if it has one.
        split: the file or shards of a folder, or the split of a saved or hub dataset; a single file has one.
        columns: columns that every row must have; all columns where none is named.

    Raises:
        UserError: a row lacks a column (the message names those it has), there is no row, or the file is broken.
    """
    rows = list(iterate_rows(path, split, columns))
    if not rows:
        raise _empty(path, split)
    return rows


def iterate_rows(path: str, split: str, columns: Sequence[str], *, whole: bool = True) -> Iterator[Row]:
    """The same, a row at a time and no more of the file than is asked for; none where there is none.

    A file of text is one row, which holds all of it if `whole`, else `TextPieces`.
    """
    names_there(path, _columns(path, split))
    sources = {name: sources_of(path, name) for name in columns}
    number = 0
    for file, rows in _parts(path, split, sources, whole):
        for row in rows:
            where = f"{file}: row {number}" if number else str(file)
            yield _renamed(row, sources, where)
            number += 1


def iterate_texts(path: str, split: str, column: str, data: str = "data") -> Iterator[Iterable[str]]:
    """The text that each row holds in a column, in pieces; of a file of text no more is in memory than is asked for.

    Args:
        path: as for `read_rows`.
        split: as for `read_rows`.
        column: holds text.
        data: what errors call the data.

    Raises:
        UserError: as `read_rows` does, or a row holds something else than text.
    """
    number = -1
    for number, row in enumerate(iterate_rows(path, split, [column], whole=False)):
        text = row[column]
        yield text if isinstance(text, TextPieces) else (text_of(row, column, f"{data}: row {number}"),)
    if number < 0:
        raise _empty(path, split)


def _parts(
    path: str, split: str, sources: Mapping[str, Sequence[str]], whole: bool
) -> Iterator[tuple[str, Iterator[Row]]]:
    """The files of a split with their rows."""
    files = split_files(path, split)
    if files is None:
        yield path, _from_datasets(path, split)
    for file in files or ():
        there = columns_of(file) if file.suffix == ".parquet" else None
        wanted = None if there is None or not sources else _wanted(str(file), there, chain(*sources.values()))
        yield str(file), rows_of(file, wanted, whole=whole)


def _wanted(file: str, there: Sequence[str], sources: Iterable[str]) -> list[str]:
    """The columns of a table that hold all `sources`. Raises UserError where one is not there."""
    found: dict[str, None] = {}
    for source in sources:
        column = column_of(source, there)
        if column is None:
            raise _missing_column(file, source, there)
        found[column] = None
    return list(found)


def _renamed(row: Row, sources: Mapping[str, Sequence[str]], where: str) -> Row:
    """A row under the names that were asked for, beside all others of it."""
    for name, each in sources.items():
        missing = next((source for source in each if column_of(source, row) is None), None)
        if missing is not None:
            raise _missing_column(where, missing, row)
        if each != (name,):
            row = {**row, name: value_of(row, each, f"data {where}")}
    return row


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


def file_of(path: str, split: str) -> str:
    """What errors call the place of a split's rows: its file, or where it has none or several, the whole dataset."""
    files = split_files(path, split)
    return str(files[0]) if files and len(files) == 1 else str(path)


def _empty(path: str, split: str) -> UserError:
    return UserError(f"data {file_of(path, split)}: split {split!r} is empty; give a dataset with at least one row")


def _missing_column(path: str, column: str, there: Iterable[str]) -> UserError:
    return UserError(
        f"data {path}: has no column {column!r}; its columns are {', '.join(sorted(there)) or 'none'}"
        f" (if one of them is meant, set columns = {{{column} = ...}})"
    )


def _from_datasets(path: str, split: str) -> Iterator[Row]:
    if not Path(path).exists():
        return iter(from_hub(path, split))
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(path)
    if not isinstance(loaded, DatasetDict):
        return iter(loaded)
    if split not in loaded:
        raise UserError(f"data {path}: has no split {split!r}; it has {', '.join(sorted(loaded))}")
    return iter(loaded[split])
