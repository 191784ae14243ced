"""One file per task: which prompts are asked, and what an answer is worth. A new task is one file and a line here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from earnest.data import mapped
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.judging.forms import PREFERENCE
from earnest.evaluation.nano import NANO
from earnest.evaluation.samples import Measured
from earnest.evaluation.tasks import (
    alpaca_farm,
    biography,
    closed_book,
    ds_1000,
    factoid_qa,
    gsm8k,
    human_eval,
    instruction,
    judged_summaries,
    lm_eval,
    mmlu,
    multiple_choice,
    open_book,
    perplexity,
    summarisation,
    toxigen,
    trivia_qa,
    truthful_qa,
    truthful_qa_open,
)
from earnest.specs import (
    DS1000,
    GSM8K,
    MMLU,
    AlpacaFarm,
    AnyTask,
    Biography,
    ClosedBook,
    FactoidQA,
    HumanEval,
    Instruction,
    JudgedSummaries,
    JudgedTask,
    LMEval,
    MultipleChoice,
    OpenBook,
    Perplexity,
    Summarisation,
    Task,
    ToxiGen,
    TriviaQA,
    TruthfulQA,
    TruthfulQAOpen,
)


class TaskFile(Protocol):
    """What the file of a task holds; `spec` is what the user wrote, `data` where its questions lie."""

    def measure(self, engine: Engine, spec: Any, data: str, progress: Progress | None = None) -> Measured:
        """Ask everything, and score it."""

    def reads(self, spec: Any, data: str) -> list[tuple[str, list[str]]]:
        """The splits of a user's data that are read, the asked one first, each with the columns that it must have."""

    def items(self, spec: Any, data: str) -> Sequence[Any]:
        """Everything that is asked, made without a model; UserError names the row that cannot be."""


FILES: Mapping[type[Task], TaskFile] = {
    Perplexity: perplexity,
    ClosedBook: closed_book,
    OpenBook: open_book,
    MultipleChoice: multiple_choice,
    MMLU: mmlu,
    Summarisation: summarisation,
    Biography: biography,
    TriviaQA: trivia_qa,
    FactoidQA: factoid_qa,
    GSM8K: gsm8k,
    TruthfulQA: truthful_qa,
    TruthfulQAOpen: truthful_qa_open,
    ToxiGen: toxigen,
    HumanEval: human_eval,
    DS1000: ds_1000,
    Instruction: instruction,
    JudgedSummaries: judged_summaries,
    AlpacaFarm: alpaca_farm,
    LMEval: lm_eval,
}


def measure(engine: Engine, task: AnyTask, data: str, reference: Path | None, progress: Progress | None) -> Measured:
    """Run a task on an engine; `reference` is perplexity's alone."""
    data = mapped(data, task.columns)
    if isinstance(task, Perplexity):
        return perplexity.measure(engine, task, data, progress, reference)
    return FILES[type(task)].measure(engine, task, data, progress)


def needed_columns(task: AnyTask, path: str) -> list[tuple[str, list[str]]]:
    """The splits that a task reads of a user's data, each with the columns it needs there; nothing of the almanac's.

    Raises:
        UserError: the data has none of the columns that could hold what the task needs.
    """
    return [] if path == NANO else FILES[type(task)].reads(task, mapped(path, task.columns))


def items_of(task: AnyTask, path: str) -> Sequence[Any]:
    """Everything that a task asks, made without a model."""
    return FILES[type(task)].items(task, mapped(path, task.columns))


def rehearse(task: AnyTask, path: str) -> None:
    """Make all of a task's questions from the data at `path`, and let go of them.

    Raises:
        UserError: a row cannot be asked, or no right answer is known to it; the message names the row and the remedy.
    """
    if path == NANO:
        return
    path = mapped(path, task.columns)
    if isinstance(task, JudgedTask):
        instruction.forms_of(task, PREFERENCE, path)
    items_of(task, path)
