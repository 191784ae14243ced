"""HumanEval (Chen et al. 2021) as proxy-tuning asks it: the bare prompt, sampled, cleaned, run with its tests."""

from __future__ import annotations

from typing import Any

from earnest.data import file_of
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.programs import Problem, solve
from earnest.evaluation.rows import check_ids, filled_text, known_of, known_rows
from earnest.evaluation.samples import Measured
from earnest.specs import HumanEval

COLUMNS = ("task_id", "prompt", "entry_point", "test")
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")


def measure(engine: Engine, spec: HumanEval, data: str, progress: Progress | None = None) -> Measured:
    """pass@1 and pass@10 on HumanEval's rows."""
    return solve(engine, spec, items(spec, data), STOPS, progress=progress)


def reads(spec: HumanEval, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, list(COLUMNS))]


def items(spec: HumanEval, data: str) -> list[Problem]:
    """The functions to complete. Raises UserError where a row holds no text, or an id stands twice."""
    rows = known_rows(data, spec.split, COLUMNS)[: spec.limit]
    file = file_of(data, spec.split)
    for number, row in enumerate(rows):
        for name in COLUMNS:
            filled_text(row, name, f"data {file}: row {number}")
    check_ids(rows, ["task_id"], file)
    return [_problem(row) for row in rows]


def _problem(row: dict[str, Any]) -> Problem:
    prompt, name = row["prompt"], row["entry_point"]
    # What the prompt defines beside the function, such as an inverse, the tests may use.
    checks = f"{_alone(prompt)}\n\n{name} = __candidate__({name!r})\n\n{row['test']}\n\ncheck({name})\n"

    def program(completion: str) -> tuple[str, str]:
        return f"{prompt}{completion}\n", checks

    return Problem(row["task_id"], row["prompt"], program, **known_of(row))


def _alone(prompt: str) -> str:
    """The prompt as a program without a completion; empty if it is none."""
    for program in (prompt, f"{prompt.rstrip()}\n    pass"):
        try:
            compile(program, "<prompt>", "exec")
        except (SyntaxError, ValueError):
            continue
        return program
    return ""
