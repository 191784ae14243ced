"""Factoid questions are judged strictly; the paper's substring match, and its faults on demand, stand beside."""

import json
from pathlib import Path
from typing import Any

import pytest

from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import factoid_qa, needed_columns
from earnest.specs import FactoidQA, UserError
from evaluation.scripted import Scripted

QUESTION = "Who wrote Emma, Jane Austen or Ann Radcliffe?"


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture
def rows(tmp_path: Path) -> str:
    answers = ["Jane Austen", "Austen"]
    return write(tmp_path / "q.jsonl", [{"question": QUESTION, "answers": answers, "domain": "books"}] * 4)


def test_prompts_are_the_papers_letter_by_letter(rows: str) -> None:
    def prompt(**options: Any) -> str:
        return factoid_qa.user_items(FactoidQA(limit=1, **options), rows)[0].prompt

    assert prompt(compat=True) == f"Please give answer to this question: {QUESTION}\nThe answer is "
    assert prompt(compat=True, before_answer=" ") == f"Please give answer to this question: {QUESTION} The answer is "
    assert prompt() == f"Please give answer to this question: {QUESTION}\nThe answer is"


REPLIES = [" Austen\nPlease", " It was Jane  AUSTEN, I think", " Nobody", ""]


def test_the_first_line_must_equal_an_answer_and_the_papers_match_stands_beside(tokenizer, rows: str) -> None:
    found = factoid_qa.measure(Scripted(tokenizer, REPLIES), FactoidQA(), rows)
    assert [sample.correct for sample in found.samples] == [True, False, False, False]
    assert [sample.more["kick_substring"] for sample in found.samples] == [True, True, False, False]
    assert [sample.more["kick_containment"] for sample in found.samples] == [True, True, False, True]
    assert found.metrics["exact_match"].value == 0.25
    assert found.samples[0].domain == "books"


def test_compat_finds_the_answer_in_the_question_as_the_paper_does(tokenizer, rows: str) -> None:
    subject = Scripted(tokenizer, REPLIES)
    found = factoid_qa.measure(subject, FactoidQA(compat=True), rows)
    assert found.metrics["kick_substring"].value == 1.0
    assert found.metrics["exact_match"].value == 0.25
    assert all((p.stops, p.max_tokens) == ((), 2 * len(p.ids)) for p in subject.asked)


@pytest.mark.parametrize(
    "parses",
    [
        [
            {"Parse-Id": "0.P0", "Answers": [{"AnswersMid": "m.0", "AnswersName": ["austen"]}]},
            {"Parse-Id": "0.P1", "Answers": [{"AnswersMid": "m.0", "AnswersName": ["jane austen"]}]},
        ],
        {"Parse-Id": ["0.P0", "0.P1"], "Answers": [{"AnswersName": [["austen"]]}, {"AnswersName": [["jane austen"]]}]},
    ],
    ids=["its own JSON", "as datasets nest it"],
)
def test_freebase_rows_are_read_as_they_come(tmp_path: Path, parses: Any) -> None:
    path = write(tmp_path / "f.jsonl", [{"RawQuestion": "Who wrote Emma?", "Parses": parses}])
    assert needed_columns(FactoidQA(), path) == [("train", ["RawQuestion", "Parses"])]
    (item,) = factoid_qa.user_items(FactoidQA(), path)
    assert (item.prompt.split(": ")[1], item.aliases) == ("Who wrote Emma?\nThe answer is", ("austen", "jane austen"))
    assert factoid_qa.user_items(FactoidQA(compat=True), path)[0].aliases == ("austen",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answers": [""]}, "row 1: a row has no answer"),
        ({"answers": None}, "row 1: a row has no answer"),
        ({"question": 3}, "row 1: column 'question' holds int, not text"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    good = {"question": "Who?", "answers": ["Ann"]}
    with pytest.raises(UserError, match=said):
        factoid_qa.user_items(FactoidQA(), write(tmp_path / "q.jsonl", [good, {**good, **change}]))


def test_a_parse_without_a_name_is_refused(tmp_path: Path) -> None:
    parses = [{"Answers": [{"AnswersMid": "m.0", "AnswersName": []}]}]
    path = write(tmp_path / "f.jsonl", [{"RawQuestion": "Who wrote Emma?", "Parses": parses}])
    with pytest.raises(UserError, match="a row has no answer"):
        factoid_qa.user_items(FactoidQA(), path)


def test_the_almanac_stands_in_for_it(make_model) -> None:
    scores = evaluate(make_model(max_position_embeddings=512), FactoidQA(limit=5, compat=True), "nano").scores
    assert (scores.asked, scores.scored) == (5, 5)
    assert set(scores.metrics) >= {"exact_match", "f1", "kick_containment", "kick_substring"}
