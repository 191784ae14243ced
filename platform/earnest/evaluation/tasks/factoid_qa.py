"""LLM-KICK's factoid questions, from FreebaseQA (Jiang et al. 2019): one sentence, one name.

The paper's "exact match" finds an answer anywhere in prompt and text; here the first line must equal it, and
`kick_substring` searches what was generated. `compat` searches the prompt too and generates as the paper's scripts do.
Their loops ask one item more or less than they divide by; that thousandth is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from earnest.almanac import questions
from earnest.decoding.encoding import encode
from earnest.decoding.generation import Prompt
from earnest.evaluation.answers import LINE_END, Item, Match, ask, by_first_line, items_of, judged
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.metrics import kick_containment, kick_substring
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.rows import ANSWER_COLUMNS, aliases_of, column_among, known_of, question_rows
from earnest.evaluation.samples import Measured
from earnest.specs import FactoidQA

QUESTION_COLUMNS = ("question", "RawQuestion")
PARSES = "Parses"
# LLM-KICK's limit is three times the prompt, prompt included.
TOKENS_PER_PROMPT_TOKEN = 2


def measure(engine: Engine, spec: FactoidQA, data: str, progress: Progress | None = None) -> Measured:
    """Exact match, F1 and the paper's matches on FreebaseQA, a user's rows (question, answers) or the almanac."""
    posed = engine.posed(items(spec, data))
    matches: dict[str, Match] = {"kick_containment": by_first_line(kick_containment)}
    if not spec.compat:
        matches["kick_substring"] = lambda item, text: kick_substring(text, item.aliases)
        return ask(engine, posed, spec.max_tokens, progress, stops=LINE_END, matches=matches)
    matches["kick_substring"] = lambda item, text: kick_substring(item.prompt + text, item.aliases)
    rows = encode(engine.tokenizer, [item.prompt for item in posed])
    prompts = [Prompt(tuple(row), (), TOKENS_PER_PROMPT_TOKEN * len(row)) for row in rows]
    return judged(posed, engine.generate(prompts, progress), matches)


def reads(spec: FactoidQA, data: str) -> list[tuple[str, list[str]]]:
    """The splits of a user's data that are read, each with its columns."""
    return [(spec.split, needed(spec, data))]


def items(spec: FactoidQA, data: str) -> list[Item]:
    """The questions."""
    return nano_items(spec) if data == NANO else user_items(spec, data)


def nano_items(spec: FactoidQA) -> list[Item]:
    """The almanac's questions after terse demonstrations: its base models know no other way to ask."""
    return items_of(questions.closed_book(shipped_world(), spec.limit or QUESTIONS, spec.seed))


def needed(spec: FactoidQA, data: str) -> list[str]:
    """The columns of a user's data that are read: question and answers, in this order."""
    question = column_among(data, spec.split, QUESTION_COLUMNS)
    return [question, column_among(data, spec.split, (*ANSWER_COLUMNS, PARSES))]


def user_items(spec: FactoidQA, data: str) -> list[Item]:
    """Rows of FreebaseQA or a user as questions, in file order."""
    question, answers = needed(spec, data)
    beside = [PARSES] if answers == PARSES else []
    rows = question_rows(data, spec.split, [question, *(() if beside else [answers])], beside)
    return [
        Item(
            f"{spec.split}-{i:05d}", prompt(spec, row[question]), _aliases(spec, row[answers]), **known_of(row),
        )
        for i, row in enumerate(rows[: spec.limit])
    ]  # fmt: skip


def prompt(spec: FactoidQA, question: str) -> str:
    """The question as LLM-KICK asks it; without its last space, which no answer follows in a model's tokens."""
    ending = " " if spec.compat else ""
    return f"Please give answer to this question: {question}{spec.before_answer}The answer is{ending}"


def _aliases(spec: FactoidQA, cell: Any) -> tuple[str, ...]:
    """The names that count as right: of all a question's parses, or of the first answer of the first."""
    found = list(_names(cell)) or [list(aliases_of(cell))]
    return aliases_of(found[0] if spec.compat else found)


def _names(cell: Any) -> Iterator[list[str]]:
    """The lists of names in FreebaseQA's parses, one per answer, as its own JSON nests them or as `datasets` does."""
    if isinstance(cell, Mapping):
        for key, value in cell.items():
            if key == "AnswersName":
                yield from value if value and not isinstance(value[0], str) else [value]
            else:
                yield from _names(value)
    elif isinstance(cell, Sequence) and not isinstance(cell, str):
        for part in cell:
            yield from _names(part)
