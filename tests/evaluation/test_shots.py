"""No question is its own demonstration, none is asked with fewer than was said, and equal options are equally right."""

import json
from pathlib import Path
from typing import Any

import pytest

from earnest.evaluation.choices import ChoiceItem, choice_sample, twins
from earnest.evaluation.engine import LogLikelihood
from earnest.evaluation.run import evaluate
from earnest.evaluation.tasks import closed_book, gsm8k, mmlu, multiple_choice, open_book, rehearse, trivia_qa
from earnest.report.scores import score_lines
from earnest.specs import UserError, read_task


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def own_demonstrations(items: Any) -> list[str]:
    """Items whose last question stands in the prompt more than once."""
    last = [(item.id, item.prompt, item.prompt.rsplit("\n\n", 1)[-1]) for item in items]
    return [name for name, prompt, question in last if prompt.count(question) > 1]


def row(i: int) -> dict[str, Any]:
    return {"question": f"Where was Person{i} born?", "answer": f"Town{i}", "passage": f"Person{i}: Town{i}."}


TWICE = [row(i) for i in range(8)] * 2


@pytest.mark.parametrize(
    ("task", "make", "first"),
    [("closed_book", closed_book.user_items, " Town3"), ("open_book", open_book.user_items, " Town3")],
)
def test_a_question_that_stands_twice_is_not_its_own_demonstration(tmp_path: Path, task: str, make, first: str) -> None:
    data = written(tmp_path / "test.jsonl", TWICE)
    items = make(read_task({"task": task, "data": data, "shots": 3}), data)
    assert len(items) == len(TWICE) - 3
    assert own_demonstrations(items) == []
    changed = [item for item in items if item.notes]
    assert [item.id for item in changed] == ["test-00008", "test-00009", "test-00010"]
    assert all(first in item.prompt for item in changed)  # the next row demonstrates in the place of the question
    assert all(item.prompt.count("\n\n") == 3 for item in items)


def test_choices_that_stand_twice_are_not_their_own_demonstration(tmp_path: Path) -> None:
    rows = [{"question": "Which?", "choices": [f"a{i}", f"b{i}"], "answer": 1} for i in range(4)]
    data = written(tmp_path / "test.jsonl", [*rows, rows[0], {**rows[1], "question": "Which? "}])
    items = multiple_choice.user_items(read_task({"task": "multiple_choice", "data": data, "shots": 2}), data)
    assert [bool(item.notes) for item in items] == [False, False, True, True]
    assert [" b0\n" in item.prompt for item in items] == [True, True, False, True]
    assert [" b1\n" in item.prompt for item in items] == [True, True, True, False]


@pytest.mark.parametrize(("task", "make"), [("gsm8k", gsm8k.items), ("trivia_qa", trivia_qa.user_items)])
def test_drawn_demonstrations_never_hold_the_question(tmp_path: Path, task: str, make) -> None:
    rows = [{"question": f"How many is {i}", "answer": f"#### {i}"} for i in range(7)]
    written(tmp_path / "d" / "train.jsonl", rows)
    written(tmp_path / "d" / "test.jsonl", rows)
    fields = {"task": task, "data": str(tmp_path / "d"), "shots": 4, "style": "lm_eval", "split": "test"}
    items = make(read_task(fields), str(tmp_path / "d"))
    assert own_demonstrations(items) == []
    assert any(item.notes for item in items)
    assert {item.prompt.count("Answer:") for item in items} == {5}


def test_counts_are_told_with_the_scores(make_model, tmp_path: Path) -> None:
    data = written(tmp_path / "test.jsonl", TWICE)
    found = evaluate(make_model(), read_task({"task": "closed_book", "data": data, "shots": 3, "max_tokens": 2}), data)
    assert found.scores.notes == {"own_demonstration": 3}
    assert found.scores.model_dump(mode="json")["notes"] == {"own_demonstration": 3}
    assert any(line.startswith("3 asked with another demonstration") for line in score_lines(found.scores))


def mmlu_folder(tmp_path: Path, shown: int, **more: Any) -> str:
    def rows(kind: str, count: int) -> list[dict[str, Any]]:
        return [
            {"subject": "law", "question": f"{kind} {i}?", "choices": ["a", "b", "c", "d"], "answer": 1, **more}
            for i in range(count)
        ]

    written(tmp_path / "dev.jsonl", [*rows("shown", shown), *[{**one, "subject": "art"} for one in rows("other", 5)]])
    written(tmp_path / "test.jsonl", [*rows("asked", 3), *rows("shown", 1)])
    return str(tmp_path)


def test_mmlu_with_fewer_rows_than_shots_is_refused(tmp_path: Path) -> None:
    data = mmlu_folder(tmp_path, 2)
    with pytest.raises(UserError, match=r"has 2 rows of subject 'law' for 5 shots; bring more, or set shots = 2"):
        rehearse(read_task({"task": "mmlu", "data": data}), data)
    rehearse(read_task({"task": "mmlu", "data": data, "shots": 2}), data)
    rehearse(read_task({"task": "mmlu", "data": data, "shots": 0}), data)


def test_mmlu_asks_a_question_of_dev_without_itself(tmp_path: Path) -> None:
    data = mmlu_folder(tmp_path, 6)
    items = mmlu.mmlu_items(read_task({"task": "mmlu", "data": data}), data, "test")
    assert own_demonstrations(items) == []
    assert [item.notes for item in items] == [(), (), (), ("own_demonstration",)]
    assert "shown 5?" in items[3].prompt


def test_equal_options_are_equally_right() -> None:
    choices = ["same", "other", "same "]
    assert twins(choices, 0) == (2,)
    assert twins(choices, 1) == ()
    item = ChoiceItem("x", "q", (" A", " B", " C"), 0, twins=twins(choices, 0))
    sample = choice_sample(item, [LogLikelihood(value, greedy=False, cut=0) for value in (-3.0, -2.0, -1.0)])
    assert sample.correct is True
    # e^-3 and e^-1 against e^-2: what says the same counts as one option.
    assert sample.more["confidence"] == pytest.approx(0.7552715, abs=1e-6)
    assert sample.more["brier"] == pytest.approx(2 * (1 - 0.7552715) ** 2, abs=1e-6)


def test_a_choice_equal_to_the_right_one_is_right_wherever_it_stands(make_model, tmp_path: Path) -> None:
    rows = [{"question": "2+2?", "choices": ["same", "same", "z"], "answer": i % 2} for i in range(4)]
    data = written(tmp_path / "test.jsonl", rows)
    found = evaluate(make_model(), read_task({"task": "multiple_choice", "data": data, "shots": 0}), data)
    by_place = found.samples.column("correct").to_pylist()
    assert len(set(by_place)) == 1  # the same question, whichever of the two is called right
    assert found.scores.notes == {"equal_options": 4}


def test_a_blank_choice_is_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "test.jsonl", [{"question": "q", "choices": ["a", " "], "answer": 0}] * 2)
    with pytest.raises(UserError, match="row 0: a choice is blank"):
        rehearse(read_task({"task": "multiple_choice", "data": data, "shots": 0}), data)


def test_choices_that_are_all_the_same_are_refused(tmp_path: Path) -> None:
    data = written(tmp_path / "test.jsonl", [{"question": "q", "choices": ["a", "a "], "answer": 0}] * 2)
    with pytest.raises(UserError, match="row 0: all choices are 'a'; give it another"):
        rehearse(read_task({"task": "multiple_choice", "data": data, "shots": 0}), data)
