"""A user's question rows: which columns hold what, under the names that public datasets use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from earnest.data import columns, file_of, read_rows, text_of
from earnest.evaluation.normal_forms import readable
from earnest.evaluation.shots import Demonstrated, other_shots
from earnest.specs import UserError

Row = TypeVar("Row")

ANSWER_COLUMNS = ("answers", "answer", "aliases")
PASSAGE_COLUMNS = ("passage", "article", "context")
SUMMARY_COLUMNS = ("summary", "highlights")
DOMAIN_COLUMNS = ("domain", "subject", "category", "group", "target_group")
STRATUM_COLUMNS = ("stratum",)
FREQUENCY_COLUMN = "frequency"
KNOWN_COLUMNS = {"domain": DOMAIN_COLUMNS, "stratum": STRATUM_COLUMNS, "frequency": (FREQUENCY_COLUMN,)}
# Not question_id: TriviaQA asks a question once for each of its kinds of evidence.
ID_COLUMNS = ("id",)
TEXT_COLUMNS = ("question", "RawQuestion", "prompt", "text", "subject", *PASSAGE_COLUMNS)


def column_among(path: str, split: str, names: Sequence[str]) -> str:
    """The first of `names` that the data has. Raises UserError naming the columns there are."""
    there = columns(path, split)
    for name in names:
        if name in there:
            return name
    raise UserError(
        f"data {path}: has no column {' or '.join(map(repr, names))}; its columns are {', '.join(there) or 'none'}"
        f" (if one of them is meant, set columns = {{{names[0]} = ...}})"
    )


def question_rows(path: str, split: str, wanted: Sequence[str], beside: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows with the columns `wanted`, and with domain, stratum and frequency where the data has them (`known_rows`).

    Columns `beside` these must be there too, but what they hold is the task's to check.
    """
    identity = [name for name in ID_COLUMNS if name in columns(path, split) and name not in wanted][:1]
    rows = known_rows(path, split, wanted, [*beside, *identity])
    check_rows(rows, wanted, file_of(path, split))
    check_ids(rows, identity, file_of(path, split))
    return rows


def known_rows(path: str, split: str, wanted: Sequence[str], beside: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows with some columns, and with `domain`, `stratum` (names) and `frequency` (a number) where the data has them.

    Raises:
        UserError: a frequency is no number, or is negative.
    """
    there, taken = columns(path, split), {*wanted}
    firsts = {known: next((name for name in names if name in there), None) for known, names in KNOWN_COLUMNS.items()}
    found = {known: name for known, name in firsts.items() if name is not None and name not in taken}
    rows, file = read_rows(path, split, list(dict.fromkeys([*wanted, *beside, *found.values()]))), file_of(path, split)
    return [
        {**row, **{known: _known(known, row[name], f"data {file}: row {number}") for known, name in found.items()}}
        for number, row in enumerate(rows)
    ]


def known_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a row beside what it asks, as items hold it: domain, stratum and frequency."""
    return {
        "domain": row.get("domain", ""),
        "stratum": row.get("stratum", ""),
        FREQUENCY_COLUMN: row.get(FREQUENCY_COLUMN),
    }


def _known(name: str, value: Any, where: str) -> str | float | None:
    return frequency_of(value, where) if name == FREQUENCY_COLUMN else _name(value)


def frequency_of(value: Any, where: str) -> float | None:
    """How often a fact is mentioned, 0 or more; None where the cell is empty.

    Raises:
        UserError: it is no number, or is negative.
    """
    if value is None or value != value:  # NaN, which tables hold for a missing number
        return None
    if isinstance(value, str):  # as a table of texts spells a number
        if not value.strip():
            return None
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise UserError(f"{where}: frequency is {value!r}; give how often the fact is mentioned, 0 or more")
    return float(value)


def _name(value: Any) -> str:
    """A group by its name; groups may be numbered from 0."""
    return "" if value is None else readable(str(value))


def check_rows(rows: Sequence[Mapping[str, Any]], wanted: Sequence[str], file: str) -> None:
    """See that every row can be asked: questions and passages are text, choices lists of text, answers are there.

    Raises:
        UserError: one is not; the message names the row.
    """
    for number, row in enumerate(rows):
        for column in wanted:
            _check_cell(row, column, f"data {file}: row {number}")


def filled_text(row: Mapping[str, Any], column: str, where: str) -> str:
    """What a row holds in a column of text. Raises UserError where that is no text, or nothing but white space."""
    text = text_of(row, column, where)
    if not readable(text):
        raise UserError(f"{where}: column {column!r} is blank; give every row text, or leave the row out")
    return text


def check_ids(rows: Sequence[Mapping[str, Any]], identity: Sequence[str], file: str) -> None:
    """See that no row's id stands twice, in the column that `identity` names if there is one.

    Raises:
        UserError: one does; a question asked twice would weigh double. Or a row has none.
    """
    for name in identity:
        first: dict[str, int] = {}
        for number, row in enumerate(rows):
            if row[name] is None or row[name] != row[name]:  # NaN, which tables hold for a missing number
                raise UserError(f"data {file}: row {number} has no {name}; give every row one, or leave the column out")
            before = first.setdefault(str(row[name]), number)
            if before != number:
                raise UserError(
                    f"data {file}: rows {before} and {number} have the same {name} {row[name]!r}; keep one of them"
                )


def _check_cell(row: Mapping[str, Any], column: str, where: str) -> None:
    value = row[column]
    if column in TEXT_COLUMNS:
        filled_text(row, column, where)
    elif column == "choices":
        if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value) or len(value) < 2:
            raise UserError(
                f"{where}: choices is {str(value)[:40]!r}, not a list of texts, two at least; list them one by one"
            )
        if len({readable(choice) for choice in value}) < 2:
            raise UserError(f"{where}: all choices are {value[0]!r}; give it another, or leave the row out")
    elif not _strings(value):
        raise UserError(f"{where}: a row has no answer ({column} is {value!r}); give every row at least one")


def demonstrations(
    rows: Sequence[dict[str, Any]], shots: int, limit: int | None, path: str, same: Sequence[str]
) -> list[Demonstrated[dict[str, Any]]]:
    """The rows behind the first `shots`, `limit` at most, each to be asked after these.

    Args:
        rows: all rows in order.
        shots: how many demonstrate.
        limit: how many are asked at most.
        path: names the data in errors.
        same: the columns that tell whether two rows are one question, which is never its own demonstration.

    Raises:
        UserError: no row would be left to ask.
    """
    if len(rows) <= shots:
        raise UserError(
            f"data {path}: {len(rows)} rows, of which {shots} are demonstrations; bring more rows or set shots lower"
        )
    asked = rows[shots:] if limit is None else rows[shots : shots + limit]
    return [other_shots(row, rows[:shots], rows, same) for row in asked]


def spread(rows: Sequence[Row], limit: int | None) -> list[Row]:
    """At most `limit` rows, evenly from all over, for data that is sorted by subject or group."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def aliases_of(value: Any) -> tuple[str, ...]:
    """The right answers in a cell: a string, a list of strings, or the records of SQuAD and TriviaQA.

    Raises:
        UserError: there is none.
    """
    found = tuple(dict.fromkeys(_strings(value)))
    if not found:
        raise UserError(f"data: a row has no answer ({value!r}); give every row at least one")
    return found


def _strings(value: Any) -> list[str]:
    if value is None or value != value:  # NaN, which tables hold for a missing number
        return []
    if isinstance(value, Mapping):
        keys = ("text", "value", "aliases", "normalized_aliases")
        return [text for key in keys for text in _strings(value.get(key))]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text for part in value for text in _strings(part)]
    return [str(value)] if readable(str(value)) else []


def choice_index(answer: Any, choices: Sequence[str], row: str) -> int:
    """Which choice an answer means: its text, its index, or its letter.

    Raises:
        UserError: it is none of them.
    """
    index = _index(answer, choices)
    if not 0 <= index < len(choices):
        raise UserError(
            f"{row}: answer {answer!r} is neither an index, a letter nor the text of one of its {len(choices)} choices"
        )
    return index


def _index(answer: Any, choices: Sequence[str]) -> int:
    if isinstance(answer, str):
        if answer in choices:
            return list(choices).index(answer)
        said = readable(answer)
        same = [place for place, choice in enumerate(choices) if readable(choice) == said]
        if same:
            return same[0]
        letter = said.upper()
        if letter.isdecimal():
            return int(letter)
        return ord(letter) - ord("A") if len(letter) == 1 else -1
    whole = isinstance(answer, int) or (isinstance(answer, float) and answer.is_integer())
    return int(answer) if whole else -1
