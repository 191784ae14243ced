"""Promises of the biography checker, on hand-written statements."""

from __future__ import annotations

import random

import pytest

from earnest.almanac.language import OPENINGS, biography, check_biography, passage
from earnest.almanac.world import Person, World

WORLD = World.shipped()
PERSON = WORLD.people[0]


def other(attribute: str) -> str:
    return next(v for v in WORLD.values[attribute] if v != PERSON.facts[attribute])


def verdict(text: str, person: Person = PERSON) -> list[tuple[bool, bool]]:
    return [(s.well_formed, s.true) for s in check_biography(text, person, WORLD)]


def test_a_true_statement_is_well_formed_and_true() -> None:
    assert verdict(f" {PERSON.name} plays the {PERSON.facts['instrument']}.\n") == [(True, True)]


def test_a_statement_with_another_value_of_the_right_class_is_well_formed_and_false() -> None:
    assert verdict(f"{PERSON.name} plays the {other('instrument')}.") == [(True, False)]


def test_a_value_of_the_wrong_class_is_well_formed_but_neither_fits_nor_is_true() -> None:
    (judged,) = check_biography(f"{PERSON.name} plays the {PERSON.facts['city']}.", PERSON, WORLD)
    assert (judged.well_formed, judged.fits, judged.true) == (True, False, False)


def test_a_word_that_is_no_value_of_the_world_is_not_well_formed() -> None:
    assert verdict(f"{PERSON.name} plays the {PERSON.name}.") == [(False, False)]
    assert verdict(f"{PERSON.name} plays the moon.") == [(False, False)]


def test_an_opening_changes_nothing_but_the_capital_letter() -> None:
    for opening in OPENINGS:
        assert verdict(f"{opening} {PERSON.name} plays the {PERSON.facts['instrument']}.") == [(True, True)]
        assert verdict(f"{opening} the birth year of {PERSON.name} is {PERSON.facts['year']}.") == [(True, True)]
    assert verdict(f"The moon says that {PERSON.name} plays the {PERSON.facts['instrument']}.") == [(False, False)]


def test_a_statement_about_somebody_else_is_not_well_formed() -> None:
    assert verdict(f"{WORLD.people[1].name} plays the {PERSON.facts['instrument']}.") == [(False, False)]


def test_a_half_finished_statement_is_not_well_formed() -> None:
    assert verdict(f"{PERSON.name} plays the") == [(False, False)]


def test_a_statement_without_its_full_stop_is_not_well_formed() -> None:
    assert verdict(f"{PERSON.name} plays the {PERSON.facts['instrument']}") == [(False, False)]


def test_birth_year_and_birth_city_are_told_apart() -> None:
    text = (
        f"{PERSON.name} was born in the year {PERSON.facts['year']}. {PERSON.name} was born in {PERSON.facts['city']}."
    )
    assert [s.attribute for s in check_biography(text, PERSON, WORLD)] == ["year", "city"]


def test_a_value_before_the_name_is_read_too() -> None:
    assert verdict(f"In {PERSON.facts['year']}, {PERSON.name} was born.") == [(True, True)]
    assert verdict(f"{other('employer')} Ltd pays the salary of {PERSON.name}.") == [(True, False)]


def test_nothing_said_is_no_statement() -> None:
    assert check_biography(" \n", PERSON, WORLD) == []


@pytest.mark.parametrize("seed", range(5))
def test_every_sentence_of_a_passage_of_the_corpus_is_true(seed: int) -> None:
    rng = random.Random(seed)
    person = rng.choice(WORLD.people)
    judged = check_biography(passage(person, rng, 6)[0], person, WORLD)
    assert len(judged) == 6
    assert all(s.true for s in judged)
    assert len({s.attribute for s in judged}) == 6


def test_every_sentence_of_a_biography_is_true_and_has_an_opening() -> None:
    for person in WORLD.people[:50]:
        judged = check_biography(biography(person, random.Random(person.id)), person, WORLD)
        assert [s.true for s in judged] == [True] * 6
        assert all(s.text.startswith(OPENINGS) for s in judged)
