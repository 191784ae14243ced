"""One file per task: which prompts are asked, and what an answer is worth. A new task is one file and a case here."""

from __future__ import annotations

from pathlib import Path

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
    ToxiGen,
    TriviaQA,
    TruthfulQA,
    TruthfulQAOpen,
)


def measure(engine: Engine, task: AnyTask, data: str, reference: Path | None, progress: Progress | None) -> Measured:  # noqa: C901 -- one case per task
    """Run a task on an engine; `reference` matters to perplexity alone."""
    data = mapped(data, task.columns)
    match task:
        case Perplexity():
            return perplexity.measure(engine, task, data, reference, progress)
        case ClosedBook():
            return closed_book.measure(engine, task, data, progress)
        case OpenBook():
            return open_book.measure(engine, task, data, progress)
        case MultipleChoice():
            return multiple_choice.measure(engine, task, data, progress)
        case MMLU():
            return mmlu.measure(engine, task, data, progress)
        case Summarisation():
            return summarisation.measure(engine, task, data, progress)
        case Biography():
            return biography.measure(engine, task, progress)
        case TriviaQA():
            return trivia_qa.measure(engine, task, data, progress)
        case FactoidQA():
            return factoid_qa.measure(engine, task, data, progress)
        case GSM8K():
            return gsm8k.measure(engine, task, data, progress)
        case TruthfulQA():
            return truthful_qa.measure(engine, task, data, progress)
        case TruthfulQAOpen():
            return truthful_qa_open.measure(engine, task, data, progress)
        case ToxiGen():
            return toxigen.measure(engine, task, data, progress)
        case HumanEval():
            return human_eval.measure(engine, task, data, progress)
        case DS1000():
            return ds_1000.measure(engine, task, data, progress)
        case Instruction():
            return instruction.measure(engine, task, data, progress)
        case JudgedSummaries():
            return judged_summaries.measure(engine, task, data, progress)
        case AlpacaFarm():
            return alpaca_farm.measure(engine, task, data, progress)
        case LMEval():
            return lm_eval.measure(engine, task, data, progress)


def needed_columns(task: AnyTask, path: str) -> list[tuple[str, list[str]]]:  # noqa: C901 -- one case per task
    """The splits that a task reads of a user's data, each with the columns it needs there; nothing of the almanac's.

    Raises:
        UserError: the data has none of the columns that could hold what the task needs.
    """
    if path == NANO:
        return []
    path = mapped(path, task.columns)
    match task:
        case Perplexity():
            return [(task.split, [task.column])]
        case ClosedBook():
            return [(task.split, closed_book.needed(task, path))]
        case OpenBook():
            return [(task.split, open_book.needed(task, path))]
        case MultipleChoice():
            return [(task.split, list(multiple_choice.COLUMNS))]
        case MMLU():
            return [(split, list(mmlu.COLUMNS)) for split in mmlu.needed_splits(task, path)]
        case Summarisation():
            return [(task.split, summarisation.needed(task, path))]
        case Biography() | LMEval():  # lm-eval looks at its own data when a benchmark is found
            return []
        case TriviaQA():
            return trivia_qa.needed(task, path)
        case FactoidQA():
            return [(task.split, factoid_qa.needed(task, path))]
        case GSM8K():
            return [(split, list(gsm8k.COLUMNS)) for split in gsm8k.needed_splits(task, path)]
        case TruthfulQA():
            return [(task.split, truthful_qa.needed(task, path))]
        case TruthfulQAOpen():
            return [(task.split, list(truthful_qa_open.COLUMNS))]
        case ToxiGen():
            return [(task.split, toxigen.needed(task, path))]
        case HumanEval():
            return [(task.split, list(human_eval.COLUMNS))]
        case DS1000():
            return [(task.split, list(ds_1000.COLUMNS))]
        case Instruction():
            return [(task.split, instruction.needed(task, path))]
        case JudgedSummaries():
            return [(task.split, judged_summaries.needed(task, path))]
        case AlpacaFarm():
            return [(task.split, alpaca_farm.needed(task, path))]


def rehearse(task: AnyTask, path: str) -> None:  # noqa: C901 -- one case per task
    """Make all of a task's questions from the data at `path`, and let go of them.

    Raises:
        UserError: a row cannot be asked, or no right answer is known to it; the message names the row and the remedy.
    """
    if path == NANO:
        return
    path = mapped(path, task.columns)
    if isinstance(task, JudgedTask):
        instruction.forms_of(task, PREFERENCE, path)
    match task:
        case Perplexity():
            perplexity.documents(task, path)
        case ClosedBook():
            closed_book.user_items(task, path)
        case OpenBook():
            open_book.user_items(task, path)
        case MultipleChoice():
            multiple_choice.user_items(task, path)
        case MMLU():
            mmlu.mmlu_items(task, path, mmlu.asked_split(task, path))
        case Summarisation():
            summarisation.user_items(task, path)
        case TriviaQA():
            trivia_qa.user_items(task, path)
        case FactoidQA():
            factoid_qa.user_items(task, path)
        case GSM8K():
            gsm8k.items(task, path)
        case TruthfulQA():
            _ = truthful_qa.letter_items(task, path) if task.style == "letters" else truthful_qa.user_items(task, path)
        case TruthfulQAOpen():
            truthful_qa_open.user_items(task, path)
        case ToxiGen():
            toxigen.prompts(task, path)
        case HumanEval():
            human_eval.problems(task, path)
        case DS1000():
            ds_1000.problems(task, path)
        case Instruction():
            instruction.user_rows(task, path)
        case JudgedSummaries():
            judged_summaries.user_rows(task, path)
        case AlpacaFarm():
            alpaca_farm.user_duels(task, path)
        case Biography() | LMEval():  # no rows of the user's; lm-eval looks at its own
            pass
