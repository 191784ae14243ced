"""Promises of the held-out test items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from earnest.almanac import questions
from earnest.almanac.language import check_biography
from earnest.almanac.questions import Question
from earnest.almanac.world import World

WORLD = World.shipped()
KINDS: dict[str, Callable[[World, int, int], list[Question]]] = {
    "closed_book": questions.closed_book,
    "zero_shot": questions.zero_shot,
    "open_book": questions.open_book,
    "multiple_choice": questions.multiple_choice,
    "summaries": questions.summaries,
    "biographies": questions.biographies,
}


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_a_function_of_the_seed_and_all_differ(kind: str) -> None:
    items = KINDS[kind](WORLD, 600, 1)
    assert items == KINDS[kind](WORLD, 600, 1)
    assert items != KINDS[kind](WORLD, 600, 2)
    assert len({i.prompt for i in items}) == len({i.id for i in items}) == 600


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_carries_no_space_and_no_newline_at_its_ends(kind: str) -> None:
    for item in KINDS[kind](WORLD, 100, 1):
        assert item.answer == item.answer.strip() != ""
        assert item.prompt == item.prompt.rstrip()


def test_the_answer_is_the_fact_of_the_person_asked_for() -> None:
    for item in (
        questions.closed_book(WORLD, 100, 1) + questions.zero_shot(WORLD, 100, 1) + questions.open_book(WORLD, 100, 1)
    ):
        assert item.person is not None
        assert item.answer == item.person.facts[item.domain]
        assert item.person.name in item.prompt.rsplit("Q: ", 1)[-1]


def test_closed_book_asks_even_thirds_of_head_mid_and_tail() -> None:
    assert Counter(i.stratum for i in questions.closed_book(WORLD, 300, 1)) == {"head": 100, "mid": 100, "tail": 100}


def test_closed_book_never_demonstrates_the_person_it_asks_for() -> None:
    for item in questions.closed_book(WORLD, 300, 1):
        assert item.person is not None
        assert item.prompt.count(item.person.name) == 1


def test_the_number_of_demonstrations_is_the_number_of_shots() -> None:
    assert all(i.prompt.count("\nA:") == 6 for i in questions.closed_book(WORLD, 20, 1, shots=5))
    assert all(i.prompt.count("\nA:") == 1 for i in questions.closed_book(WORLD, 20, 1, shots=0))


def test_zero_shot_asks_only_about_people_held_out_of_tuning() -> None:
    assert {WORLD.people[i.person_id].half for i in questions.zero_shot(WORLD, 600, 1)} == {"B"}


def test_open_book_asks_about_strangers_and_the_passage_holds_the_answer() -> None:
    for item in questions.open_book(WORLD, 300, 1):
        assert item.person is not None
        assert item.stratum == "unseen"
        assert item.person.name in WORLD.held_out_names
        assert item.answer in item.passage
        assert item.passage in item.prompt


def test_multiple_choice_offers_four_values_of_one_class_and_one_is_right() -> None:
    for item in questions.multiple_choice(WORLD, 300, 1):
        assert len(set(item.choices)) == 4
        assert set(item.choices) <= set(WORLD.values[item.domain])
        assert item.choices[item.answer_index] == item.answer


def test_the_right_choice_stands_at_every_place() -> None:
    places = Counter(i.answer_index for i in questions.multiple_choice(WORLD, 400, 1))
    assert set(places) == {0, 1, 2, 3}
    assert min(places.values()) > 60


def test_the_reference_biography_is_true_in_every_statement() -> None:
    for item in questions.biographies(WORLD, 60, 1):
        assert item.person is not None
        assert all(s.true for s in check_biography(item.answer, item.person, WORLD))


def test_more_biographies_than_people_are_refused() -> None:
    with pytest.raises(ValueError, match=f"asked of {len(WORLD.people)} people"):
        questions.biographies(WORLD, len(WORLD.people) + 1, 1)
