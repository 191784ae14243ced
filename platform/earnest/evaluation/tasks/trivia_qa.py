"""TriviaQA (Joshi et al. 2017), closed and open book, in three published styles.

- `kick`: LLM-KICK's prompts without demonstrations; open book puts the first wiki page and the first search result,
  joined as they are and cut to 3,072 characters, before the question. The answer is the first line.
- `lm_eval`: demonstrations from the split `train`, and stops at a line's end, a full stop or a comma. It adds a
  question mark to questions that have one, and cannot answer "St. Louis".
- `proxy_tuning`: the bare question.

The official evaluation's exact match and F1 and the matches of the three papers stand beside the strict ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from earnest.almanac import questions
from earnest.data import columns, file_of
from earnest.evaluation.answers import CONTAINMENT, LINE_END, Item, ask, by_first_line, items_of
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.metrics import lm_eval_match, proxy_tuning_match, trivia_f1, trivia_match
from earnest.evaluation.nano import NANO, QUESTIONS, shipped_world
from earnest.evaluation.rows import ANSWER_COLUMNS, PASSAGE_COLUMNS, aliases_of, column_among, known_of, question_rows
from earnest.evaluation.samples import Measured
from earnest.evaluation.shots import SHOTS_SPLIT, check_shots_split, drawn_shots, other_shots
from earnest.specs import TriviaQA, UserError

MATCHES = {
    **CONTAINMENT,
    "trivia_match": by_first_line(trivia_match),
    "trivia_f1": by_first_line(trivia_f1),
    "lm_eval_match": by_first_line(lm_eval_match),
    "proxy_tuning_match": by_first_line(proxy_tuning_match),
}
# LLM-KICK strips what was generated and takes its first line, so a line's end may come first and must not stop it.
STOPS: Mapping[str, tuple[str, ...]] = {"kick": (), "lm_eval": ("\n", ".", ","), "proxy_tuning": LINE_END}
MAX_TOKENS = {"kick": 32, "lm_eval": 256, "proxy_tuning": 20}
EVIDENCE = {"entity_pages": "wiki_context", "search_results": "search_context"}

Row = dict[str, Any]


def measure(engine: Engine, spec: TriviaQA, data: str, progress: Progress | None = None) -> Measured:
    """Exact match, F1 and the published matches on TriviaQA's rows, a user's, or the almanac's questions."""
    stops, max_tokens = LINE_END if data == NANO else STOPS[spec.style], spec.max_tokens or MAX_TOKENS[spec.style]
    return ask(engine, engine.posed(items(spec, data)), max_tokens, progress, stops=stops, matches=MATCHES)


def items(spec: TriviaQA, data: str) -> list[Item]:
    """The questions."""
    return nano_items(spec) if data == NANO else user_items(spec, data)


def nano_items(spec: TriviaQA) -> list[Item]:
    """The almanac's questions, with a passage if the book is open."""
    make = questions.open_book if spec.open_book else questions.closed_book
    return items_of(make(shipped_world(), spec.limit or QUESTIONS, spec.seed))


def reads(spec: TriviaQA, data: str) -> list[tuple[str, list[str]]]:
    """The splits that are read, each with its columns: the question, the answers, then where evidence is found."""
    read = [spec.split]
    if spec.style == "lm_eval" and spec.shots:
        check_shots_split(data, SHOTS_SPLIT, spec.shots)
        read.append(SHOTS_SPLIT)
    evidence = _evidence_columns(data, spec.split) if spec.open_book else []
    return [(split, ["question", column_among(data, split, ANSWER_COLUMNS), *evidence]) for split in read]


def _evidence_columns(data: str, split: str) -> list[str]:
    """TriviaQA's own columns of evidence, or one that holds a passage."""
    there = columns(data, split)
    return [name for name in EVIDENCE if name in there] or [column_among(data, split, PASSAGE_COLUMNS)]


def user_items(spec: TriviaQA, data: str) -> list[Item]:
    """Questions of TriviaQA or a user, as the style asks them."""
    (split, wanted), *shown = reads(spec, data)
    rows = question_rows(data, split, wanted[:2], wanted[2:])[: spec.limit]
    file = file_of(data, split)
    blocks = _blocks(spec, data, shown, rows)
    return [
        Item(
            f"{split}-{i:05d}", block + _prompt(spec, row, wanted[2:], f"data {file}: row {i}"),
            aliases(row[wanted[1]]), notes=notes, **known_of(row),
        )
        for i, (row, (block, notes)) in enumerate(zip(rows, blocks, strict=True))
    ]  # fmt: skip


def _blocks(
    spec: TriviaQA, data: str, shown: Sequence[tuple[str, list[str]]], rows: Sequence[Row]
) -> list[tuple[str, tuple[str, ...]]]:
    """What stands before each question: drawn demonstrations, or nothing; and what is noted of them."""
    for split, wanted in shown:
        pool = question_rows(data, split, wanted)
        # lm-eval draws one more here, as if from the asked split, lest an item demonstrate itself; it never does.
        drawn = drawn_shots(pool, spec.shots + 1, len(rows))
        found = [other_shots(row, shots[:-1], pool, ["question"]) for row, shots in zip(rows, drawn, strict=True)]
        texts = ["".join(f"{_lm_eval(row)} {_value(row[wanted[1]])}\n\n" for row in one.shots) for one in found]
        return [(text, one.notes) for text, one in zip(texts, found, strict=True)]
    return [("", ())] * len(rows)


def _prompt(spec: TriviaQA, row: Row, evidence: Sequence[str], where: str) -> str:
    if spec.style == "lm_eval":
        return _lm_eval(row)
    if spec.style == "proxy_tuning":
        return f"Question: {row['question']}\nAnswer:"
    if not spec.open_book:
        return f"Answer these questions:\n\nQ: {row['question']}\nA:".strip()
    text = passage(row, evidence, where)[: spec.passage_characters]
    return f"{text}\n\nBased on these texts, answer these questions:\n\nQ: {row['question']}\nA:".strip()


def _lm_eval(row: Row) -> str:
    return f"Question: {row['question']}?\nAnswer:"


def passage(row: Row, evidence: Sequence[str], where: str) -> str:
    """The first wiki page directly followed by the first search result, or the row's own passage.

    Raises:
        UserError: the row has neither.
    """
    found = "".join(_first_text(row[name], EVIDENCE.get(name, "")) for name in evidence)
    if not found.strip():
        raise UserError(f"{where}: has no text in {' or '.join(evidence)}; leave the row out or set open_book = false")
    return found


def _first_text(cell: Any, key: str) -> str:
    """The first text of a cell of evidence, which holds lists under `key`; a passage is text itself."""
    if isinstance(cell, Mapping):
        return next((str(text) for text in cell.get(key) or () if text), "")
    return cell if isinstance(cell, str) else ""


def aliases(cell: Any) -> tuple[str, ...]:
    """The answers that count: TriviaQA's aliases as written, or what a user's cell holds."""
    written = cell.get("aliases") if isinstance(cell, Mapping) else None
    return aliases_of(written or cell)


def _value(cell: Any) -> str:
    """The answer as a demonstration gives it."""
    return str(cell["value"]) if isinstance(cell, Mapping) and cell.get("value") else aliases(cell)[0]
