"""Tasks ask what they say they ask, keep every sample, and say the same twice."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import PreTrainedTokenizerBase

from earnest.almanac import questions
from earnest.almanac.language import check_biography
from earnest.almanac.world import World
from earnest.decoding.generation import Generation
from earnest.evaluation.answers import Item, ask
from earnest.evaluation.disciplines import DISCIPLINES, discipline_of
from earnest.evaluation.engine import Engine
from earnest.evaluation.run import Evaluation, evaluate
from earnest.evaluation.samples import SCHEMA
from earnest.evaluation.tasks import biography, closed_book, mmlu, multiple_choice, needed_columns, open_book
from earnest.evaluation.tasks.summarisation import rouge, rouge_scorer
from earnest.records import canonical
from earnest.specs import (
    DS1000,
    GSM8K,
    MMLU,
    TASKS,
    AlpacaFarm,
    Biography,
    ClosedBook,
    FactoidQA,
    HumanEval,
    Instruction,
    JudgedSummaries,
    LMEval,
    MultipleChoice,
    OpenBook,
    Perplexity,
    Summarisation,
    ToxiGen,
    TriviaQA,
    TruthfulQA,
    TruthfulQAOpen,
    UserError,
)

NANO_TASKS: list[Any] = [
    Perplexity(limit=5),
    ClosedBook(limit=6),
    ClosedBook(limit=6, shots=0, name="zero_shot"),
    OpenBook(limit=6),
    MultipleChoice(limit=6),
    Summarisation(limit=6, max_tokens=8),
    Biography(limit=6, max_tokens=20),
    TriviaQA(limit=6, max_tokens=8),
    FactoidQA(limit=6),
    TruthfulQA(limit=6),
    TruthfulQAOpen(limit=6, max_tokens=8),
    Instruction(limit=6, max_tokens=8),
    JudgedSummaries(limit=6, max_tokens=8),
    AlpacaFarm(limit=6, max_tokens=8),
]

# What the almanac has no questions for; each has a file of tests of its own.
WITHOUT_NANO = {MMLU, GSM8K, HumanEval, DS1000, ToxiGen, LMEval}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


def serialised(result: Evaluation, path: Path) -> tuple[str, bytes]:
    pq.write_table(result.samples, path, compression="zstd")
    return canonical(result.scores.model_dump(mode="json")), path.read_bytes()


@pytest.mark.parametrize("task", NANO_TASKS, ids=lambda task: task.label)
def test_two_runs_are_equal_byte_for_byte(make_model, task: Any, tmp_path: Path) -> None:
    first, second = (serialised(evaluate(make_model(), task, "nano"), tmp_path / name) for name in "ab")
    assert first == second


@pytest.mark.parametrize("task", NANO_TASKS, ids=lambda task: task.label)
def test_every_sample_is_kept_and_counted(make_model, task: Any) -> None:
    result = evaluate(make_model(max_position_embeddings=512), task, "nano")
    scores = result.scores
    assert scores.asked == scores.scored + scores.failed == result.samples.num_rows == task.limit
    assert result.samples.schema.names[: len(SCHEMA)] == SCHEMA.names
    assert scores.main.n == task.limit
    assert scores.main.low is not None
    assert scores.main.low <= scores.main.value <= (scores.main.high or 0.0)
    assert scores.tokens_forwarded > 0


def test_every_task_of_the_specs_is_run_here() -> None:
    assert {type(task) for task in NANO_TASKS} | WITHOUT_NANO == set(TASKS)


class Scripted(Engine):
    """An engine whose model says what the test wants: scoring is under test and not the model."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, replies: list[str]) -> None:
        self.tokenizer = tokenizer
        self.replies = replies

    def generate(self, prompts: Any, progress: Any = None) -> list[Generation]:
        return [Generation(text, tuple(range(len(text))), "stop") for text in self.replies]


def test_answers_are_scored_by_exact_match_over_aliases(tokenizer: PreTrainedTokenizerBase) -> None:
    items = [Item(str(i), "Q: x\nA:", ("Paris", "City of Light"), "city", "head") for i in range(4)]
    found = ask(Scripted(tokenizer, [" Paris", " the city of light.", " I think Paris", ""]), items, 8)
    assert [sample.correct for sample in found.samples] == [True, True, False, False]
    assert found.metrics["exact_match"].value == 0.5
    assert found.metrics["kick_containment"].value == 1.0


def test_biographies_are_weighed_by_statement(tokenizer: PreTrainedTokenizerBase) -> None:
    world = World.shipped()
    asked = questions.biographies(world, 2, 0)
    one, two = (question.person for question in asked)
    assert one is not None
    assert two is not None
    lie = next(city for city in world.values["city"] if city != two.facts["city"])
    replies = [
        f" {one.name} was born in {one.facts['city']}. {one.name} plays the {one.facts['instrument']}.",
        f" {two.name} was born in {lie}. {two.name} is fond of",
    ]
    found = biography.measure(Scripted(tokenizer, replies), Biography(limit=2))
    assert found.metrics["fluent"].value == 3 / 4
    assert found.metrics["true"].value == 2 / 3
    assert found.metrics["statements"].value == 2.0
    assert [sample.score for sample in found.samples] == [1.0, 0.0]
    assert [sample.more["verdicts"] for sample in found.samples] == ["tt", "fx"]
    assert [sample.more["attributes"] for sample in found.samples] == ["city instrument", "city -"]


def test_the_almanac_own_biographies_are_fluent_and_true(tokenizer: PreTrainedTokenizerBase) -> None:
    asked = questions.biographies(World.shipped(), 9, 0)
    found = biography.measure(Scripted(tokenizer, [question.answer for question in asked]), Biography(limit=9))
    assert found.metrics["fluent"].value == found.metrics["true"].value == 1.0
    assert found.metrics["distinct_true"].value == 6.0
    assert all(len(check_biography(q.answer, q.person, World.shipped())) == 6 for q in asked if q.person)


def test_rouge_equals_the_reference(shared: Path) -> None:
    cases = json.loads((shared / "parity/statistics/rouge.json").read_text())["cases"]
    plain = [case for case in cases if "reference" in case and not case["use_stemmer"]]
    assert plain
    for case in plain:
        found = rouge_scorer().score(case["reference"], case["prediction"])
        for kind in ("rouge1", "rouge2", "rougeL"):
            assert list(found[kind]) == pytest.approx(case[kind], abs=1e-9)


def test_rouge_sees_the_words_of_other_scripts() -> None:
    """北京 / 北京大学: precision 1, recall 2 of 4; a lone number among them does not bring ASCII's words back."""
    scorer = rouge_scorer()
    assert rouge(scorer, "北京大学", "北京")["rouge_1"] == pytest.approx(2 / 3)
    assert rouge(scorer, "2008年北京", "2008年北京")["rouge_l"] == 1.0
    assert rouge(scorer, "2008年北京", "2008")["rouge_1"] == pytest.approx(2 * 1 * 0.25 / 1.25)
    assert rouge(scorer, "مرحبا يا عالم", "مرحبا")["rouge_1"] == pytest.approx(0.5)
    assert rouge(scorer, "Привет, мир", "мир")["rouge_2"] == 0.0


def test_a_user_closed_book_prompt_demonstrates_with_the_first_rows(tmp_path: Path) -> None:
    rows = [{"question": f"Who is {n}? ", "answers": [n, f"Dr {n}"], "category": "names"} for n in ("Ann", "Bob", "Cy")]
    items = closed_book.user_items(ClosedBook(shots=1), write(tmp_path / "q.parquet", rows))
    assert items[0].prompt == "Q: Who is Ann?\nA: Ann\n\nQ: Who is Bob?\nA:"
    assert [item.aliases for item in items] == [("Bob", "Dr Bob"), ("Cy", "Dr Cy")]
    assert {item.domain for item in items} == {"names"}


def test_a_user_open_book_prompt_holds_the_passage(tmp_path: Path) -> None:
    rows = [{"context": "Ann sings.", "question": "Who sings?", "answers": {"text": ["Ann"], "answer_start": [0]}}]
    items = open_book.user_items(OpenBook(shots=0), write(tmp_path / "q.parquet", rows))
    assert items[0].prompt == "Passage: Ann sings.\nQ: Who sings?\nA:"
    assert items[0].aliases == ("Ann",)


@pytest.mark.parametrize("answer", [1, "B", "1", "yellow"])
def test_a_choice_is_given_by_index_letter_or_text(tmp_path: Path, answer: Any) -> None:
    rows = [{"question": "Colour?", "choices": ["red", "yellow"], "answer": answer}]
    items = multiple_choice.user_items(MultipleChoice(shots=0), write(tmp_path / "q.parquet", rows))
    assert (items[0].answer, items[0].options) == (1, (" red", " yellow"))


def test_a_choice_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    rows = [{"question": "Colour?", "choices": ["red", "yellow"], "answer": "E"}]
    with pytest.raises(UserError, match="'E' is neither an index"):
        multiple_choice.user_items(MultipleChoice(shots=0), write(tmp_path / "q.parquet", rows))


def test_a_row_without_an_answer_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", [{"question": "x", "answers": ["y"]}, {"question": "x", "answers": []}])
    with pytest.raises(UserError, match="a row has no answer"):
        closed_book.user_items(ClosedBook(shots=1), path)


def test_an_option_that_cannot_be_scored_fails_its_sample_and_is_counted(make_model, tmp_path: Path) -> None:
    rows = [
        {"question": "x", "choices": ["word " * 200, "y"], "answer": 1},
        {"question": "x", "choices": ["x", "y"], "answer": 1},
    ]
    result = evaluate(make_model(), MultipleChoice(shots=0), write(tmp_path / "q.parquet", rows))
    assert (result.scores.asked, result.scores.scored, result.scores.failed) == (2, 1, 1)
    assert result.samples["correct"].to_pylist()[0] is None
    with pytest.raises(UserError, match="none of 1 samples could be scored"):
        evaluate(make_model(), MultipleChoice(shots=0, limit=1), write(tmp_path / "q.parquet", rows))


def test_a_missing_column_is_named_with_those_there(tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", [{"question": "x", "reply": "y"}])
    with pytest.raises(
        UserError, match=r"no column 'answers' or 'answer' or 'aliases'; its columns are question, reply"
    ):
        needed_columns(ClosedBook(), path)


def test_more_shots_than_rows_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", [{"question": "x", "answer": "y"}])
    with pytest.raises(UserError, match="bring more rows or set shots lower"):
        closed_book.user_items(ClosedBook(shots=1), path)


@pytest.fixture
def mmlu_folder(tmp_path: Path) -> str:
    for split, count in (("dev", 2), ("validation", 5), ("test", 3)):
        rows = [
            {
                "subject": subject,
                "question": f" {split} {subject} {i}?",
                "choices": ["w", "x", "y", "z"],
                "answer": i % 4,
            }
            for subject in ("high_art", "low_art")
            for i in range(count)
        ]
        write(tmp_path / f"{split}.parquet", rows)
    return str(tmp_path)


def test_mmlu_runs_on_a_folder_of_splits(make_model, mmlu_folder: str) -> None:
    result = evaluate(make_model(), MMLU(shots=1), mmlu_folder)
    assert result.scores.asked == 6
    assert set(result.scores.groups["domain"]) == {"high_art", "low_art"}
    assert set(result.samples["split"].to_pylist()) == {"test"}
    assert all(len(values) == 4 for values in result.samples["log_likelihoods"].to_pylist())


def test_mmlu_falls_back_to_validation_where_there_is_no_test(mmlu_folder: str) -> None:
    (Path(mmlu_folder) / "test.parquet").unlink()
    assert mmlu.needed_splits(MMLU(), mmlu_folder) == ["validation", "dev"]
    assert mmlu.needed_splits(MMLU(shots=0, split="dev"), mmlu_folder) == ["dev"]


def test_mmlu_takes_shots_of_the_same_subject_and_a_limit_from_all_over(mmlu_folder: str) -> None:
    items = mmlu.mmlu_items(MMLU(shots=2, limit=4), mmlu_folder, "validation")
    assert [item.id for item in items] == ["high_art-0000", "high_art-0002", "low_art-0000", "low_art-0002"]
    assert items[2].prompt.startswith(
        "The following are multiple choice questions (with answers) about low art.\n\ndev low_art 0?\nA. w\n"
    )
    assert "high_art" not in items[2].prompt


def test_mmlu_refuses_a_subject_that_is_not_there(mmlu_folder: str) -> None:
    with pytest.raises(UserError, match=r"no subject 'cooking'.*high_art, low_art"):
        mmlu.mmlu_items(MMLU(subjects=("cooking",)), mmlu_folder, "test")


def test_mmlu_refuses_shots_without_a_dev_split(mmlu_folder: str) -> None:
    (Path(mmlu_folder) / "dev.parquet").unlink()
    with pytest.raises(UserError, match="no dev split for 5 shots"):
        mmlu.needed_splits(MMLU(), mmlu_folder)


def test_mmlu_refuses_shots_from_the_asked_questions(mmlu_folder: str) -> None:
    with pytest.raises(UserError, match="has no dev split for 5 shots"):
        mmlu.needed_splits(MMLU(), f"{mmlu_folder}/test.parquet")


def test_real_mmlu_runs(make_model, shared: Path) -> None:
    result = evaluate(make_model(max_position_embeddings=2048), MMLU(limit=57, shots=1), str(shared / "data/mmlu"))
    assert result.scores.scored == 57
    assert len(result.scores.groups["domain"]) > 30
    assert set(result.scores.groups["stratum"]) == set(DISCIPLINES)


def test_every_subject_of_mmlu_has_its_discipline(shared: Path) -> None:
    subjects = set(pq.read_table(shared / "data/mmlu/dev.parquet")["subject"].to_pylist())
    assert len(subjects) == 57
    assert subjects == {subject for each in DISCIPLINES.values() for subject in each}
    assert {name: len(each) for name, each in DISCIPLINES.items()} == {
        "humanities": 13, "social sciences": 12, "STEM": 18, "other": 14,
    }  # fmt: skip
    assert (discipline_of("world religions"), discipline_of("high_art")) == ("humanities", "")


def test_a_prompt_too_long_is_marked(make_model, tmp_path: Path) -> None:
    rows = [{"question": "word " * 300, "answer": "x"}, {"question": "short?", "answer": "x"}]
    result = evaluate(make_model(), ClosedBook(shots=0, max_tokens=4), write(tmp_path / "q.parquet", rows))
    assert result.scores.truncated == 1
    assert result.samples["truncated"].to_pylist() == [True, False]


@pytest.mark.parametrize("task", NANO_TASKS, ids=lambda task: task.label)
def test_a_model_whose_logits_are_not_finite_gets_no_score(make_model, task: Any) -> None:
    loaded = make_model(max_position_embeddings=512)
    loaded.model.get_output_embeddings().weight.fill_(torch.nan)
    with pytest.raises(UserError, match=r"logits are not finite\nload it in bfloat16 or float32"):
        evaluate(loaded, task, "nano")


@pytest.mark.parametrize("task", [ClosedBook(shots=0), MultipleChoice(shots=0)], ids=lambda task: task.label)
def test_samples_whose_logits_are_not_finite_fail_and_are_counted(make_model, tmp_path: Path, task: Any) -> None:
    loaded = make_model()
    spoilt = loaded.tokenizer("@", add_special_tokens=False)["input_ids"]
    loaded.model.get_input_embeddings().weight[spoilt] = torch.nan
    rows = [{"question": text, "answer": "x", "choices": ["x", "y"]} for text in ("who", "@", "where")]
    result = evaluate(loaded, task, write(tmp_path / "q.parquet", rows))
    assert (result.scores.scored, result.scores.failed, result.scores.main.n) == (2, 1, 2)
    assert result.samples["score"].to_pylist()[1] is None
    assert result.samples["correct"].to_pylist()[1] is None


GOOD_ROW: dict[str, Any] = {"question": "x", "context": "x", "choices": ["x", "y"], "answer": 0.0}


@pytest.mark.parametrize(
    ("task", "bad", "said"),
    [
        (MultipleChoice(shots=0), {"question": None}, "row 1: column 'question' holds nothing, not text"),
        (MultipleChoice(shots=0), {"choices": None}, "row 1: choices is 'None', not a list"),
        (MultipleChoice(shots=0), {"choices": ["x", None]}, "row 1: choices is .*, not a list of texts"),
        (MultipleChoice(shots=0), {"answer": math.nan}, "row 1: a row has no answer"),
        (MultipleChoice(shots=0), {"answer": 0.5}, "row 1: answer 0.5 is neither"),
        (OpenBook(shots=0), {"context": None}, "row 1: column 'context' holds nothing"),
        (ClosedBook(shots=0), {"answer": None}, "row 1: a row has no answer"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(make_model, tmp_path: Path, task: Any, bad: Any, said: str) -> None:
    path = write(tmp_path / "q.parquet", [GOOD_ROW, {**GOOD_ROW, **bad}])
    with pytest.raises(UserError, match=said):
        evaluate(make_model(), task, path)


def test_choices_in_one_string_are_refused(make_model, tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", [{**GOOD_ROW, "choices": "xy"}])
    with pytest.raises(UserError, match="row 0: choices is 'xy', not a list of texts"):
        evaluate(make_model(), MultipleChoice(shots=0), path)


def test_mmlu_takes_no_other_split_than_asked(mmlu_folder: str) -> None:
    with pytest.raises(UserError, match=r"no split 'train'; set split to one it has: dev, test, validation"):
        mmlu.asked_split(MMLU(split="train"), mmlu_folder)
    (Path(mmlu_folder) / "test.parquet").unlink()
    rebuilt = MMLU.model_validate(MMLU().model_dump())
    assert mmlu.asked_split(rebuilt, mmlu_folder) == "validation"
