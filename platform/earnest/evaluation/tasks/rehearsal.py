"""Every question that a task would ask of a user's data, made without a model: what is wrong with a row shows here."""

from __future__ import annotations

from earnest.evaluation.judging.forms import PREFERENCE
from earnest.evaluation.nano import NANO
from earnest.evaluation.tasks import (
    alpaca_farm,
    closed_book,
    ds_1000,
    factoid_qa,
    gsm8k,
    human_eval,
    instruction,
    judged_summaries,
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


def rehearse(task: AnyTask, path: str) -> None:  # noqa: C901 -- one case per task
    """Make all of a task's questions from the data at `path`, and let go of them.

    Raises:
        UserError: a row cannot be asked, or no right answer is known to it; the message names the row and the remedy.
    """
    if path == NANO:
        return
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
            gsm8k.prompts(task, path)
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
