"""TriviaQA asks what LLM-KICK, lm-eval and proxy-tuning ask, and scores strictly with their matches beside it."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from earnest.decoding.ensemble import Ensemble
from earnest.evaluation.engine import Engine
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import needed_columns, trivia_qa
from earnest.models.loading import LoadedModel
from earnest.specs import TriviaQA, UserError, read_task
from evaluation.scripted import Scripted
from evaluation.tiny_llama import lines

LM_EVAL = TriviaQA(style="lm_eval", data="trivia", max_tokens=16)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.fixture(scope="module")
def folder(parity: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = tmp_path_factory.mktemp("trivia")
    for split in ("train", "validation"):
        shutil.copy(parity / f"lmeval_inputs/triviaqa_{split}.parquet", target / f"{split}.parquet")
    return str(target)


def test_prompts_generations_and_answers_equal_lm_eval(tiny_llama: LoadedModel, parity: Path, folder: str) -> None:
    expected = [
        line
        for line in lines(parity / "lmeval_expected/fx_triviaqa.jsonl")
        if line["config"] == f"{tiny_llama.name}_bs8"
    ]
    engine = Engine(tiny_llama)
    found = trivia_qa.measure(engine, LM_EVAL, folder)
    assert len(found.samples) == len(expected) == 8
    for sample, (prompt, generation), line in zip(found.samples, engine.written, expected, strict=True):
        assert sample.prompt == line["prompt"]
        assert prompt.stops == tuple(line["gen_kwargs"]["until"])
        assert generation.text == line["generation"]
        assert [sample.prediction] == line["filtered"]
        assert float(sample.more["lm_eval_match"] or 0) == line["exact_match"]


def test_scripted_answers_score_as_in_lm_eval(tokenizer, parity: Path, folder: str) -> None:
    expected = [
        line for line in lines(parity / "lmeval_expected/scripted_generations.jsonl") if line["task"] == "fx_triviaqa"
    ]
    found = trivia_qa.measure(Scripted(tokenizer, [line["reply"] for line in expected]), LM_EVAL, folder)
    assert [[s.prediction] for s in found.samples] == [line["filtered"] for line in expected]
    assert [float(s.more["lm_eval_match"] or 0) for s in found.samples] == [line["exact_match"] for line in expected]
    assert found.metrics["lm_eval_match"].value == 0.625
    assert found.metrics["exact_match"].value == 0.75  # "The William Shakespeare" is right without its article


QUESTION = {"question": "Who sings?", "answer": {"value": "Ann", "aliases": ["Ann", "Dr Ann"]}}
EVIDENCE = {
    "entity_pages": {"wiki_context": ["Ann sings. ", "unread"]},
    "search_results": {"search_context": ["x" * 4000, "unread"]},
}


def test_llm_kick_prompts_are_written_letter_by_letter(tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", [{**QUESTION, **EVIDENCE}])
    (closed,) = trivia_qa.user_items(TriviaQA(), path)
    assert closed.prompt == "Answer these questions:\n\nQ: Who sings?\nA:"
    assert closed.aliases == ("Ann", "Dr Ann")
    (book,) = trivia_qa.user_items(TriviaQA(open_book=True), path)
    text = "Ann sings. " + "x" * (3072 - 11)
    assert book.prompt == f"{text}\n\nBased on these texts, answer these questions:\n\nQ: Who sings?\nA:"
    (proxy,) = trivia_qa.user_items(TriviaQA(style="proxy_tuning"), path)
    assert proxy.prompt == "Question: Who sings?\nAnswer:"


def test_a_passage_of_ones_own_opens_the_book(tmp_path: Path) -> None:
    path = write(tmp_path / "q.parquet", [{"context": "Ann sings.", "question": "Who?", "answers": ["Ann"]}])
    (item,) = trivia_qa.user_items(TriviaQA(open_book=True), path)
    assert item.prompt.startswith("Ann sings.\n\nBased on these texts")
    assert needed_columns(TriviaQA(open_book=True), path) == [("validation", ["question", "answers", "context"])]


def test_the_first_line_answers_and_an_empty_answer_is_wrong(tokenizer, tmp_path: Path) -> None:
    row = {"question": "Which band?", "answers": ["The The"]}
    path = write(tmp_path / "q.parquet", [row] * 4)
    replies = ["\n the the\nQ: next", "", "!", " another"]
    subject = Scripted(tokenizer, replies)
    found = trivia_qa.measure(subject, TriviaQA(data="q"), path)
    assert [sample.prediction for sample in found.samples] == ["the the", "", "!", "another"]
    assert [sample.correct for sample in found.samples] == [True, False, False, False]
    assert found.metrics["kick_containment"].value == 1.0
    assert found.metrics["proxy_tuning_match"].value == 0.25
    assert {prompt.max_tokens for prompt in subject.asked} == {32}


@pytest.mark.parametrize("open_book", [False, True])
def test_the_almanac_stands_in_for_it_on_a_model_and_on_an_ensemble(make_model, open_book: bool) -> None:
    task = TriviaQA(limit=5, open_book=open_book)
    models = [make_model(seed=seed, max_position_embeddings=512) for seed in range(3)]
    for subject in (models[0], Ensemble(*models, alpha=0.5)):
        scores = evaluate(subject, task, "nano").scores
        assert (scores.asked, scores.scored, scores.main.n) == (5, 5, 5)
        assert set(scores.metrics) >= {"exact_match", "f1", "kick_containment", "lm_eval_match", "proxy_tuning_match"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"answer": {"value": "", "aliases": [" "]}}, "row 1: a row has no answer"),
        ({"question": None}, "row 1: column 'question' holds nothing"),
        ({"entity_pages": {"wiki_context": []}, "search_results": None}, "row 1: has no text in entity_pages or"),
        ({"id": "a"}, "rows 0 and 1 have the same id 'a'; keep one of them"),
    ],
)
def test_a_row_that_cannot_be_asked_is_named(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    rows = [{**QUESTION, **EVIDENCE, "id": "a"}, {**QUESTION, **EVIDENCE, "id": "b", **change}]
    with pytest.raises(UserError, match=said):
        trivia_qa.user_items(TriviaQA(open_book=True), write(tmp_path / "q.parquet", rows))


def test_text_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
    pq.write_table(pa.table({"question": broken, "answers": [["x"]]}), tmp_path / "q.parquet")
    with pytest.raises(UserError, match=r"q\.parquet: holds text that is not UTF-8"):
        trivia_qa.user_items(TriviaQA(), str(tmp_path / "q.parquet"))


def test_fewer_rows_than_shots_are_refused(folder: str) -> None:
    with pytest.raises(UserError, match="the split 'train' has 7 rows, too few to draw 8"):
        trivia_qa.user_items(TriviaQA(style="lm_eval", shots=7), folder)


def test_shots_from_the_asked_questions_are_refused(folder: str) -> None:
    with pytest.raises(UserError, match="has no train split for 5 shots"):
        trivia_qa.user_items(TriviaQA(style="lm_eval"), f"{folder}/validation.parquet")


def test_an_open_book_in_a_style_without_one_is_refused() -> None:
    with pytest.raises(UserError, match="style lm_eval: has no open book"):
        read_task({"task": "trivia_qa", "style": "lm_eval", "open_book": True})
