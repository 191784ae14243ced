"""Answers are judged strictly, and as others' published evaluations judge them under the names that say whose."""

import json
import random
from pathlib import Path

import pytest

from earnest.decoding.generation import Generation
from earnest.evaluation.answers import CONTAINMENT, Item, judged
from earnest.evaluation.metrics import (
    exact_match,
    kick_containment,
    kick_substring,
    lm_eval_match,
    proxy_tuning_match,
    squad_f1,
    squad_match,
    squad_normalise,
    token_f1,
    trivia_f1,
    trivia_match,
    trivia_normalise,
)
from earnest.evaluation.numbers import lm_eval_equal


def test_answers_are_judged_as_the_official_evaluation_does(shared: Path) -> None:
    lines = (shared / "parity/evaluation/extraction/trivia_squad_factoid.jsonl").read_text().splitlines()
    for case in map(json.loads, lines):
        prediction, aliases = case["prediction"], case["aliases"]
        assert trivia_normalise(prediction) == case["trivia_normalized"], case
        assert trivia_match(prediction, aliases) == bool(case["trivia_official_em"]), case
        assert trivia_f1(prediction, aliases) == pytest.approx(case["trivia_official_f1"]), case
        assert trivia_f1(prediction, aliases) == pytest.approx(case["llmkick_icrqa_f1"]), case
        assert kick_containment(prediction, aliases) == bool(case["llmkick_icrqa_em"]), case
        assert kick_substring(prediction, aliases) == bool(case["llmkick_factoid_match"]), case
        assert lm_eval_match(case["lm_eval_remove_whitespace"], aliases) == bool(case["lm_eval_triviaqa_em"]), case
        assert proxy_tuning_match(prediction, aliases) == bool(case["proxy_triviaqa_em"]), case
        assert squad_normalise(prediction) == case["squad_normalized"], case
        assert squad_match(prediction, aliases) == bool(case["squad_em"]), case
        assert squad_f1(prediction, aliases) == pytest.approx(case["squad_f1"]), case
    assert len(lines) >= 20


def test_exact_match_never_looks_inside_a_word(shared: Path) -> None:
    """Plainly equal answers stay equal, whatever normalisation does to them; lm-eval's own match is met exactly."""
    lines = (shared / "parity/evaluation/extraction/exact_match_pairs.jsonl").read_text().splitlines()
    for case in map(json.loads, lines):
        assert lm_eval_match(case["prediction"], [case["reference"]]) == bool(case["triviaqa_kwargs_em"]), case
        if case["prediction"] == case["reference"] != "":
            assert exact_match(case["prediction"], [case["reference"]])
    assert not exact_match("1000.0", ["1000"])
    assert not exact_match("par", ["paris"])


def test_an_empty_answer_is_wrong_and_only_containment_lets_it_pass() -> None:
    assert not exact_match("", ["Paris"])
    assert token_f1("", ["Paris"]) == 0.0
    assert kick_containment("", ["Paris"])


# What may stand in an answer: marks, articles, letters whose other case is longer or depends on its place, NULs.
PIECES = (
    "A",
    "the ",
    "The",
    ".",
    "!",
    ",",
    "5",
    "-",
    "$",
    "#### ",
    "\u0130",
    "i\u0307",
    "\u03a3",
    "\u1e9e",
    "\u0149",
    "\0",
    " ",
)


def test_lm_eval_is_met_letter_by_letter() -> None:
    theirs = pytest.importorskip("lm_eval.api.metrics", reason="needs the extra lm-eval").exact_match_fn
    draw = random.Random(0)
    texts = ["".join(draw.choices(PIECES, k=draw.randint(0, 3))) for _ in range(400)]
    texts += [
        "\u0130stanbul",
        "istanbul",
        "i\u0307stanbu",
        "\u039f\u0394\u039f\u03a3",
        "\u03bf\u03b4\u03bf\u03c2",
        "5.\0",
    ]
    sums = {"ignore_case": True, "ignore_punctuation": False, "regexes_to_ignore": [",", r"\$", "(?s).*#### ", r"\.$"]}
    equal = 0
    for said, gold in zip([*texts, "\u0130stanbul"], [*texts[1:], texts[0], "i\u0307stanbu"], strict=True):
        words = theirs(predictions=[said], references=[gold], ignore_case=True, ignore_punctuation=True)
        assert lm_eval_match(said, [gold]) == bool(words["exact_match"]), (said, gold)
        numbers = theirs(predictions=[said], references=[gold], **sums)
        assert lm_eval_equal(said, gold) == bool(numbers["exact_match"]), (said, gold)
        equal += bool(words["exact_match"])
    assert equal >= 5


@pytest.mark.parametrize("said", [".", "the", "a an the", "!!!", "", " ", "\u200b", "\ufeff", "\u00ad.", "\u2026", "?"])
def test_what_says_nothing_is_never_right(said: str) -> None:
    items = [
        Item("1", "Q:", ("A",)),
        Item("2", "Q:", ("The The",)),
        Item("3", "Q:", ("B",)),
        Item("4", "Q:", ("\u200b",)),
    ]
    measured = judged(items, [Generation(said, (5,), "end")] * len(items), CONTAINMENT)
    assert [sample.correct for sample in measured.samples] == [False] * len(items)
    assert measured.metrics["exact_match"].value == 0.0


# Answers that are one, however they are encoded or written.
SAME = [
    ("A", "a"), ("The The", "the the"), ("a", "A."), ("!!!", " !!! "), ("C++.", "c++"), ("C#", "c#"),
    ("The Beatles!", "beatles"), ("caf\u00e9", "cafe\u0301"), ("O\u2019Brien", "O'Brien"),
    ("Hawai\u02bbi", "Hawai'i"), ("\u201cParis\u201d", "Paris"), ("\u0130stanbul", "istanbul"),
    ("\u0130STANBUL", "i\u0307stanbul"), ("ISPARTA", "\u0131sparta"), ("STRASSE", "stra\u00dfe"),
    ("\u1e9e", "\u00df"), ("\u039f\u0394\u039f\u03a3", "\u03bf\u03b4\u03bf\u03c2"), ("\uff11\uff10", "10"),
    ("\uff30aris", "Paris"), ("\u0664\u0662", "42"), ("\u22125", "-5"), ("Pa\u00adris", "Paris"),
    ("\ufeffParis\u200b", "Paris"), ("New\u00a0York", "New York"), ("New\u3000York", "new york"), ("H\u2082O", "H2O"),
    ("\ufb01nd", "find"), ("\u2163", "IV"), ("\u6771\u4eac\u30bf\u30ef\u30fc", "\u6771\u4eac \uff80\uff9c\uff70"),
    ("\u30b8\u30e7\u30f3\u30fb\u30ec\u30ce\u30f3", "\u30b8\u30e7\u30f3\u30ec\u30ce\u30f3"),
    ("\u6771\u4eac\u3002", "\u6771\u4eac"),
    ("\u0645\u0640\u0631\u062d\u0628\u0627", "\u0645\u0631\u062d\u0628\u0627"),
    ("\u0645\u0631\u062d\u0628\u0627\u061f", "\u0645\u0631\u062d\u0628\u0627"), ("\ufefb", "\u0644\u0627"),
    ("\u2764\ufe0f", "\u2764"), ("**Paris**", "Paris"), ("\u1112\u1161\u11ab", "\ud55c"),
]  # fmt: skip
# Answers that are two.
OTHER = [
    ("C", "C++"), ("C", "C#"), ("C++", "C#"), ("-5", "5"), ("\u22125", "5"), (".5", "5"), ("-$5", "$5"),
    ("35", "3.5"), ("Vitamin", "Vitamin A"), ("Vitamin the", "Vitamin A"), ("an", "A"), ("The", "The The"),
    ("!", "!!!"), ("?", "!"), ("cafe", "caf\u00e9"), ("102", "10\u00b2"), ("\u0663", "\u0664"),
    ("\u6771", "\u6771\u4eac"), ("\U0001f44d", "\U0001f44e"), ("Disney", "Disney+"), ("1000.0", "1000"),
    ("par", "Paris"), ("Paris", "not Paris"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "gold"), SAME)
def test_how_characters_are_encoded_never_decides(said: str, gold: str) -> None:
    for prediction, alias in ((said, gold), (gold, said)):
        assert exact_match(prediction, ["x", alias])
        assert token_f1(prediction, ["x", alias]) == 1.0


@pytest.mark.parametrize(("said", "gold"), OTHER)
def test_what_tells_two_answers_apart_is_compared(said: str, gold: str) -> None:
    assert not exact_match(said, [gold])
    assert not exact_match(gold, [said])


def test_f1_counts_the_characters_of_scripts_without_spaces() -> None:
    """Two of five characters: precision 1, recall 0.4."""
    assert token_f1("\u6771\u4eac", ["\u6771\u4eac\u30bf\u30ef\u30fc"]) == pytest.approx(4 / 7)
