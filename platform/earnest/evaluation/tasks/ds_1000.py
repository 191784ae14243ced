"""DS-1000 (Lai et al. 2023), completion, as proxy-tuning asks it; the problems' own harness judges the code.

A row's `code_context` defines `test_execution(solution)`, and for some problems `test_string(solution)`. They need
libraries (pandas, numpy, ...) of set versions, so the programs are run by a Python of the user's that has them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from earnest.data import columns, file_of
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.programs import Problem, solve
from earnest.evaluation.rows import ID_COLUMNS, check_ids, filled_text, known_of, known_rows
from earnest.evaluation.samples import Measured
from earnest.specs import DS1000, UserError

COLUMNS = ("prompt", "code_context")
GOLD, LIBRARY = "reference_code", ("metadata", "lib")
STOPS = ("\n</code>", "\n# SOLUTION END", "\nEND SOLUTION")
NEVER_FIRST = "\n</code>"


def measure(engine: Engine, spec: DS1000, data: str, progress: Progress | None = None) -> Measured:
    """pass@1 and pass@10 on DS-1000's rows, by library."""
    return solve(engine, spec, items(spec, data), STOPS, NEVER_FIRST, progress)


def reads(spec: DS1000, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, list(COLUMNS))]


def items(spec: DS1000, data: str) -> list[Problem]:
    """The code to fill in. Raises UserError where a row's prompt or harness is no text."""
    there = columns(data, spec.split)
    beside = [name for name in (GOLD, *LIBRARY) if name in there]
    identity = [name for name in ID_COLUMNS if name in there]
    rows = known_rows(data, spec.split, COLUMNS, [*beside, *identity])[: spec.limit]
    file = file_of(data, spec.split)
    check_ids(rows, identity, file)
    return [_problem(row, f"{spec.split}-{i:05d}", f"data {file}: row {i}") for i, row in enumerate(rows)]


def _problem(row: dict[str, Any], identity: str, where: str) -> Problem:
    prompt, harness = (filled_text(row, name, where) for name in COLUMNS)
    if "test_execution(" not in harness:
        raise UserError(f"{where}: code_context defines no test_execution; bring DS-1000's rows as published")
    checks = [name for name in ("test_execution", "test_string") if f"{name}(" in harness]

    def program(completion: str) -> tuple[str, str]:
        judged = "exec, eval, compile = __execute__, __refuse__, __refuse__\n"  # the solution runs in its own process
        asked = f"solution = {completion!r}\n" + "".join(f"{check}(solution)\n" for check in checks)
        return "", f"{harness}\n{judged}{asked}"

    asked = prompt if prompt.endswith("\n") else prompt + "\n"
    known = {**known_of(row), "domain": row.get("domain") or _library(row, where)}
    return Problem(identity, asked, program, str(row.get(GOLD) or ""), **known)


def _library(row: Mapping[str, Any], where: str) -> str:
    """The library that a problem is about: the column `lib`, or what `metadata` (a record, or JSON) says."""
    held = row.get("lib") or row.get("metadata") or ""
    if isinstance(held, str) and held.startswith("{"):
        try:
            held = json.loads(held)
        except json.JSONDecodeError as error:
            raise UserError(f"{where}: metadata is not JSON: {error}") from error
    return str(held.get("library", "") if isinstance(held, Mapping) else held)
