"""The rows of one file, whatever its form. Lines and tables are read a piece at a time, a JSON array whole."""

from __future__ import annotations

import ast
import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from earnest.data.splits import kind_of
from earnest.pointers import POINTER, is_pointer
from earnest.specs import UserError

Row = dict[str, Any]

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
SEPARATORS = ",;\t|"
PIECE = 1024  # rows of a table at once
LONGEST_CELL = 2**27
BLOCK = 2**20  # bytes of a text at once
CUT_SHORT = (EOFError, zlib.error, OSError)


class TextPieces:
    """The text of a file, in pieces and from its beginning each time that it is asked for."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __iter__(self) -> Iterator[str]:
        return _characters(self._file)


def rows_of(file: Path, columns: Sequence[str] | None = None, *, whole: bool = True) -> Iterator[Row]:
    """The rows of a file in order; of a Parquet file only the named columns, where some are named.

    A file of text is one row, which holds all of it if `whole`, else `TextPieces`.

    Raises:
        UserError: it is damaged or no such file; the message names the file and, where there is one, the line.
    """
    _check_pointer(file)
    kind = kind_of(file)
    if kind == ".parquet":
        return _parquet(file, columns)
    if kind in {".jsonl", ".ndjson"}:
        return _json_lines(file)
    if kind == ".json":
        return _json(file)
    if kind in {".csv", ".tsv"}:
        return _separated(file, "\t" if kind == ".tsv" else None)
    return _text(file) if whole else _text_in_pieces(file)


def columns_of(file: Path) -> list[str] | None:
    """The names of a file's columns; None where it has no row that could name them."""
    if kind_of(file) == ".parquet":
        _check_pointer(file)
        return _parquet_columns(file)
    first = next(rows_of(file, whole=False), None)
    return None if first is None else sorted(first)


def _check_pointer(file: Path) -> None:
    with file.open("rb") as handle:
        if is_pointer(handle.read(len(POINTER))):
            raise UserError(f"data {file}: is a Git LFS pointer, not the file itself; fetch it with git lfs pull")


# Text


def _open(file: Path) -> IO[bytes] | gzip.GzipFile:
    if file.suffix.lower() == ".gz":
        return gzip.open(file)
    if file.suffix.lower() == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.input_stream(str(file), compression="zstd"))
    return file.open("rb")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text with their numbers from 1 on, their ends included; a byte-order mark is no part of it."""
    encoding, number = "utf-8", 0
    try:
        with _open(file) as handle:
            for number, line in enumerate(_unmarked(handle), 1):
                if number == 1 and not isinstance(line, bytes):
                    encoding = "utf-16"
                yield number, line.decode("utf-8") if isinstance(line, bytes) else line
    except UnicodeDecodeError as error:
        raise _no_text(f"{file}:{number}", encoding, error) from error
    except CUT_SHORT as error:
        raise _cut_short(file, error) from error


def _characters(file: Path) -> Iterator[str]:
    """A text without its byte-order mark, every line's end as a newline, some of it at a time."""
    before, encoding = 0, "utf-8"  # lines before the block at hand
    try:
        with _open(file) as handle:
            block = handle.read(BLOCK)
            mark, encoding = next(((mark, name) for mark, name in MARKS if block.startswith(mark)), (b"", encoding))
            decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder(encoding)(), translate=True)
            block = block[len(mark) :]
            while block:
                yield decoder.decode(block)
                before += block.count(b"\n")
                block = handle.read(BLOCK)
            yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        line = 1 + before + error.object[: error.start].count(b"\n")
        raise _no_text(f"{file}:{line}", encoding, error) from error
    except CUT_SHORT as error:
        raise _cut_short(file, error) from error


def _no_text(where: str, encoding: str, error: UnicodeDecodeError) -> UserError:
    name = encoding[: len("utf-16")].upper()
    return UserError(f"data {where}: not {name} ({error.reason}); save the file as UTF-8")


def _cut_short(file: Path, error: Exception) -> UserError:
    return UserError(f"data {file}: cannot be read to its end ({error}); write or fetch it again")


def _unmarked(handle: IO[bytes] | gzip.GzipFile) -> Iterator[bytes | str]:
    """Lines without the mark before the first; what is marked as UTF-16 is decoded whole."""
    first = handle.readline()
    for mark, encoding in MARKS:
        if first.startswith(mark):
            if encoding != "utf-8":
                yield from io.StringIO((first + handle.read())[len(mark) :].decode(encoding), newline=None)
                return
            first = first[len(mark) :]
    if first:
        yield first
    yield from handle


def _text(file: Path) -> Iterator[Row]:
    """One row for the whole text, if it says anything."""
    text = "".join(_characters(file))
    if text.strip():
        yield {"text": text}


def _text_in_pieces(file: Path) -> Iterator[Row]:
    """The same, of which no more is in memory than is asked for."""
    if any(piece.strip() for piece in _characters(file)):
        yield {"text": TextPieces(file)}


# JSON


def _json_lines(file: Path) -> Iterator[Row]:
    for number, line in _lines(file):
        if line.strip():
            yield _object(line.rstrip("\r\n"), f"data {file}:{number}")


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{where}: not JSON ({error}); write one object per line") from error
    if not isinstance(row, dict):
        raise UserError(f'{where}: {type(row).__name__}, not an object; write one like {{"text": "..."}} per line')
    return row


def _json(file: Path) -> Iterator[Row]:
    """An array of objects, alone or as the one in an object; columns of equal length; JSON lines under another name."""
    text = "".join(line for _, line in _lines(file))
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            yield from _json_lines(file)
            return
        raise UserError(f"data {file}:{error.lineno}: not JSON ({error.msg}); write an array of objects") from error
    except RecursionError as error:
        raise UserError(f"data {file}: JSON that is nested too deeply; write an array of objects") from error
    for number, row in enumerate(_records(file, found)):
        if not isinstance(row, dict):
            raise UserError(
                f"data {file}: row {number}: {type(row).__name__}, not an object; write an array of objects"
            )
        yield row


def _records(file: Path, found: Any) -> list[Any]:
    if isinstance(found, list):
        return found
    if isinstance(found, dict):
        lists = {name: value for name, value in found.items() if isinstance(value, list)}
        tables = [value for value in lists.values() if value and all(isinstance(row, dict) for row in value)]
        if len(tables) == 1:
            return tables[0]
        if lists and not tables and len(lists) == len(found) and len({len(value) for value in lists.values()}) == 1:
            return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        if not lists:
            return [found]
    raise UserError(
        f"data {file}: {type(found).__name__} without one array of objects in it; write an array of objects"
    )


# Separated values


def _separated(file: Path, separator: str | None) -> Iterator[Row]:
    """Rows of a table with a header. A cell that spells a list of texts is one: a table has no other way to say it."""
    csv.field_size_limit(LONGEST_CELL)
    lines = _lines(file)
    first = next((line for _, line in lines if line.strip()), None)
    if first is None:
        return
    separator = separator or max(SEPARATORS, key=first.count)
    texts = (text for part in ([(1, first)], lines) for _, text in part)
    reader = csv.reader(texts, delimiter=separator, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        _check_header(file, header)
        for cells in reader:
            if cells:
                _check_width(file, reader.line_num, cells, header)
                yield {name: _cell(cell) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        raise UserError(f"data {file}:{reader.line_num}: no row of a table ({error}); close its quotes") from error


def _check_header(file: Path, header: Sequence[str]) -> None:
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"data {file}:1: column {twice!r} stands twice in the header; rename one")


def _check_width(file: Path, line: int, cells: Sequence[str], header: Sequence[str]) -> None:
    if len(cells) != len(header):
        raise UserError(
            f"data {file}:{line}: {len(cells)} cells under a header of {len(header)}; quote cells that hold separators"
        )


def _cell(cell: str) -> Any:
    text = cell.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            found = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(found, list) and found and all(isinstance(each, str) for each in found):
            return found
    return cell


# Parquet


def _parquet(file: Path, columns: Sequence[str] | None) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file, buffer_size=BLOCK, pre_buffer=False) as table:
            for batch in table.iter_batches(_rows_at_once(table), columns=None if columns is None else list(columns)):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise _broken(file, error) from error
    except UnicodeDecodeError as error:
        raise UserError(f"data {file}: holds text that is not UTF-8 ({error.reason}); write it as UTF-8") from error


def _rows_at_once(table: Any) -> int:
    """So many rows that they take some blocks of memory, by their mean size."""
    groups = [table.metadata.row_group(i) for i in range(table.metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups) / max(1, table.metadata.num_rows)
    return max(1, min(PIECE, int(4 * BLOCK / max(1.0, size))))


def _parquet_columns(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise _broken(file, error) from error


def _broken(file: Path, error: Exception) -> UserError:
    return UserError(f"data {file}: not a readable Parquet file ({error}); write or download it again")
