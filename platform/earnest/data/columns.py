"""Columns under other names: a task asks for `question`, the data has `Question`, `doc.q` or several that make one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from earnest.specs import UserError

ColumnSource = str | tuple[str, ...]


class MappedPath(str):
    """Where data lies, and which of its columns are meant by the names that a task asks for.

    `mapping`: asked name -> a column, "column.field" of a column of records, or several columns, whose values make a
    list. `asked` collects the names that were asked for.
    """

    __slots__ = ("asked", "mapping")

    mapping: Mapping[str, ColumnSource]
    asked: set[str]

    def __new__(cls, path: str, mapping: Mapping[str, ColumnSource]) -> MappedPath:
        """The same path, with a mapping."""
        made = super().__new__(cls, path)
        made.mapping, made.asked = mapping, set()
        return made

    def check_asked(self) -> None:
        """Raise UserError unless every mapped name was asked for: what nobody asks for is a slip of the pen."""
        unasked = sorted(set(self.mapping) - self.asked)
        if unasked:
            raise UserError(
                f"columns: {unasked[0]!r} is no column that the task reads; it reads {', '.join(sorted(self.asked))}"
            )


def mapped(path: str, mapping: Mapping[str, ColumnSource]) -> str:
    """The path with a mapping of columns; the path as it is where the mapping is empty, or it has one."""
    return MappedPath(path, mapping) if mapping and not isinstance(path, MappedPath) else path


def sources_of(path: str, name: str) -> tuple[str, ...]:
    """The columns, or fields of them, that are meant by a name."""
    if not isinstance(path, MappedPath):
        return (name,)
    path.asked.add(name)
    source = path.mapping.get(name, name)
    return (source,) if isinstance(source, str) else source


def names_there(path: str, there: Sequence[str]) -> list[str]:
    """The names that can be asked for, when the data has the columns `there`.

    Raises:
        UserError: the mapping names a column that is not there.
    """
    if not isinstance(path, MappedPath):
        return list(there)
    for name, source in path.mapping.items():
        for each in (source,) if isinstance(source, str) else source:
            if column_of(each, there) is None:
                raise UserError(
                    f"columns: {name} = {each!r}: data {path} has {', '.join(sorted(there)) or 'no columns'}"
                )
    return list(dict.fromkeys([*there, *path.mapping]))


def column_of(source: str, there: Iterable[str]) -> str | None:
    """The column that holds a source: itself, or of "column.field" the column; None if it is not there."""
    known = set(there)
    before = source.partition(".")[0]
    return source if source in known else before if before in known else None


def value_of(row: Mapping[str, Any], sources: Sequence[str], where: str) -> Any:
    """What a row holds under a name that means `sources`.

    Raises:
        UserError: a record lacks the field.
    """
    values = [_field(row, source, where) for source in sources]
    return values[0] if len(values) == 1 else values


def _field(row: Mapping[str, Any], source: str, where: str) -> Any:
    if source in row:
        return row[source]
    column, *fields = source.split(".")
    value = row[column]
    for field in fields:
        if not isinstance(value, Mapping) or field not in value:
            raise UserError(f"{where}: column {column!r} has no field {field!r}; it holds {str(value)[:60]!r}")
        value = value[field]
    return value
