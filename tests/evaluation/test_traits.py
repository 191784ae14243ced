"""What is known of a question beforehand is true of the corpus, of the user's rows, of the calibration samples."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from earnest.almanac.corpus import corpus_text
from earnest.evaluation.nano import shipped_world
from earnest.evaluation.traits import pairs_of, traits_of
from earnest.models.loading import load_tokenizer
from earnest.models.source import folder_of
from earnest.preflight import check_task
from earnest.specs import ClosedBook, MultipleChoice, OpenBook, Perplexity, UserError

SMALL = ClosedBook(limit=60)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(folder_of("nano:small"), "nano:small")


def test_the_popular_are_written_about_as_often_as_their_frequency_says(tokenizer: Any) -> None:
    text = "\n".join(corpus_text(shipped_world(), 1500, 11))
    mentions = Counter(re.findall(r"\b[A-Z]\w+ [A-Z]\w+\b", text))
    known = {person.name: person for person in shipped_world().people}
    whole = sum(count for name, count in mentions.items() if name in known)
    popularity = sum(person.popularity for person in known.values())
    for stratum in ("head", "mid", "tail"):
        people = [person for person in known.values() if person.stratum == stratum]
        counted = sum(mentions[person.name] for person in people) / whole
        expected = sum(person.popularity for person in people) / popularity
        assert counted == pytest.approx(expected, abs=0.04), stratum


def test_the_almanacs_questions_are_about_whom_they_name_and_strangers_are_never_written_about(tokenizer: Any) -> None:
    known = traits_of(SMALL, "nano", tokenizer, None)
    first = (
        known["closed-book-0000"].frequency,
        known["closed-book-0001"].frequency,
        known["closed-book-0002"].frequency,
    )
    assert len(known) == 60
    assert first[0] > first[1] > first[2] > 0  # type: ignore[operator]  # head, mid, tail by turns
    strangers = traits_of(OpenBook(limit=5), "nano", tokenizer, None)
    assert {one.frequency for one in strangers.values()} == {0.0}


def test_a_users_frequencies_belong_to_the_rows_that_are_asked(tokenizer: Any, tmp_path: Path) -> None:
    rows = [
        {"question": f"Who is {name}?", "answers": [name], "domain": "people", "frequency": number}
        for number, name in enumerate(["Ada", "Bob", "Cy Young", "Dee"])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    known = traits_of(ClosedBook(data=str(tmp_path), shots=2), str(tmp_path), tokenizer, None)
    assert {name: one.frequency for name, one in known.items()} == {"test-00002": 2.0, "test-00003": 3.0}
    assert known["test-00002"].answer_tokens == len(tokenizer(" Cy Young", add_special_tokens=False)["input_ids"])


def test_a_frequency_that_is_no_count_is_refused_with_its_row(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"question": "Who?", "answer": "Ada", "frequency": value} for value in (1.0, -2.0)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    with pytest.raises(UserError, match=r"row 1: frequency is -2\.0; give how often"):
        traits_of(ClosedBook(shots=0), str(tmp_path), tokenizer, None)
    with pytest.raises(UserError, match=r"row 1: frequency is -2\.0; give how often"):
        check_task(ClosedBook(data=str(tmp_path), shots=0), str(tmp_path))


def test_coverage_is_the_share_of_neighbouring_pairs_that_calibration_holds(tokenizer: Any, tmp_path: Path) -> None:
    rows = [{"question": "Who employs Drodex?", "choices": ["Vathar", "Stimux"], "answer": 0}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    task, text = MultipleChoice(data=str(tmp_path), shots=0), "Question: Who employs Drodex?\nAnswer: Vathar"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]

    def coverage(*calibration: list[int]) -> float | None:
        return traits_of(task, str(tmp_path), tokenizer, torch.tensor(calibration))["test-00000"].coverage

    assert coverage(ids) == 1.0
    assert coverage(ids[::-1]) == 0.0
    assert coverage(ids[:4]) == pytest.approx(3 / (len(ids) - 1))
    assert traits_of(task, str(tmp_path), tokenizer, None)["test-00000"].coverage is None


def test_pairs_do_not_bridge_two_samples() -> None:
    assert len(pairs_of(np.array([[1, 2], [3, 4]]))) == 2


def test_a_task_without_short_questions_has_no_traits(tokenizer: Any) -> None:
    assert traits_of(Perplexity(), "nano", tokenizer, None) == {}
