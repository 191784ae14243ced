"""What all specs share: frozen, strict about keys, and clear about mistakes."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")


class UserError(ValueError):
    """A mistake that the user can mend: the message names the value, the rule and the remedy, in one or two lines."""


class Spec(BaseModel):
    """A frozen piece of configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


def validated(adapter: TypeAdapter[T], fields: Mapping[str, Any], where: str) -> T:
    """Fields as the adapter's type, or UserError that explains every rule broken."""
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None


def read_toml(path: Path, adapter: TypeAdapter[T], missing: str) -> T:
    """A TOML file as the adapter's type.

    Raises:
        UserError: there is "no such `missing`", it is not TOML, or a rule is broken: the file, the key, the value.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such {missing}")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return validated(adapter, fields, str(path))


def explain(error: ValidationError, where: str) -> str:
    """Pydantic's report as one line per broken rule: where, the key, the value, the rule."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        value = problem.get("input")
        shown = f" = {value!r}" if isinstance(value, str | int | float | bool) else ""
        lines.append(f"{where}: {key}{shown}: {message}" if key else f"{where}: {message}")
    return "\n".join(lines)
