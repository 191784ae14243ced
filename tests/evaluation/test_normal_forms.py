"""What a reader sees as one text is one: options, answers, demonstrations and blanks."""

from typing import Any

import pytest

from earnest.evaluation.choices import twins
from earnest.evaluation.degeneration import declines
from earnest.evaluation.normal_forms import latin, normalise, readable, words_of
from earnest.evaluation.rows import aliases_of, check_rows, choice_index
from earnest.evaluation.shots import other_shots
from earnest.specs import UserError

COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("text", ["", " ", "\u200b", "\ufeff\n", "\u00ad", "\u2060\u00a0", "\0", "\ufe0f"])
def test_what_cannot_be_seen_is_blank(text: str) -> None:
    assert readable(text) == ""
    assert normalise(text) == ""
    with pytest.raises(UserError, match="a row has no answer"):
        aliases_of(text)
    with pytest.raises(UserError, match="column 'question' is blank"):
        check_rows([{"question": text}], ["question"], "q.jsonl")


def test_only_blank_texts_have_an_empty_form() -> None:
    """Every other character of the first planes is something that an answer can say."""
    silent = [c for c in map(chr, range(0x3100)) if not normalise(c) and readable(c)]
    assert silent == []


def test_the_forms_are_their_own_forms() -> None:
    for text in (
        "The A-Team",
        "C++",
        "-5",
        "!!!",
        DECOMPOSED,
        "\u0130\u0131",
        "stra\u00dfe",
        "\u6771\u4eac",
        "A",
        "H\u2082O",
    ):
        assert normalise(normalise(text)) == normalise(text)
        assert readable(readable(text)) == readable(text)


def test_options_that_look_the_same_are_twins() -> None:
    assert twins([DECOMPOSED, COMPOSED, "Caf\u00e9", f"{COMPOSED}\u200b", f" {COMPOSED}\u00a0"], 0) == (1, 3, 4)
    assert twins(["aa", "AA", "a a"], 0) == ()
    with pytest.raises(UserError, match="all choices are"):
        check_rows([{"choices": [COMPOSED, DECOMPOSED]}], ["choices"], "q.jsonl")


@pytest.mark.parametrize(
    ("answer", "index"), [(DECOMPOSED, 1), (f"{COMPOSED} ", 1), ("\uff22", 1), ("\uff11", 1), ("a", 0)]
)
def test_an_answer_names_the_choice_that_it_looks_like(answer: Any, index: int) -> None:
    assert choice_index(answer, ["tea", COMPOSED], "row 0") == index


def test_a_question_in_another_encoding_never_demonstrates_itself() -> None:
    pool = [{"question": f"What is a {COMPOSED}?"}, {"question": "What is tea?"}]
    found = other_shots({"question": f"What is a {DECOMPOSED}?"}, pool[:1], pool, ["question"])
    assert [shot["question"] for shot in found.shots] == ["What is tea?"]
    assert found.changed


def test_a_refusal_in_quotes_is_a_refusal() -> None:
    assert declines("\u201cI don\u2019t know.\u201d")
    assert not declines("\u201cI know.\u201d")


def test_words_are_those_of_ascii_where_a_text_is_ascii() -> None:
    """As rouge-score cuts them: runs of letters and digits."""
    assert words_of("The cat's 2 hats_on; a-b") == ["the", "cat", "s", "2", "hats", "on", "a", "b"]
    assert latin("caf\u00e9 2") == 1.0
    assert latin("\u5317\u4eac ab") == 0.5
