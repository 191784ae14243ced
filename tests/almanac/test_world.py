"""Promises of the invented world."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

import earnest.almanac
from earnest.almanac.recipe import load_recipe
from earnest.almanac.world import ATTRIBUTES, World

NANO = Path(earnest.almanac.__file__).parents[1] / "models" / "nano"


def test_the_same_seed_builds_the_same_world() -> None:
    assert World.build(seed=3, people=60) == World.build(seed=3, people=60)
    assert World.build(seed=3, people=60).digest() == World.build(seed=3, people=60).digest()


def test_another_seed_builds_another_world() -> None:
    assert World.build(seed=3, people=60).digest() != World.build(seed=4, people=60).digest()


def test_the_shipped_world_is_the_one_that_the_shipped_models_were_trained_on() -> None:
    manifest = json.loads((NANO / "manifest.json").read_text())
    assert World.shipped().digest() == manifest["world_digest"]


def test_everybody_has_a_value_of_the_right_class_for_every_attribute() -> None:
    world = World.shipped()
    for person in world.people:
        assert set(person.facts) == set(ATTRIBUTES)
        assert all(value in world.values[attribute] for attribute, value in person.facts.items())


def test_a_name_belongs_to_one_person_and_to_no_stranger() -> None:
    world = World.shipped()
    names = [p.name for p in world.people] + list(world.stranger_names) + list(world.held_out_names)
    assert len(names) == len(set(names))


def test_no_value_belongs_to_two_attributes() -> None:
    world = World.shipped()
    everything = [value for attribute in ATTRIBUTES for value in world.values[attribute]]
    assert len(everything) == len(set(everything))


def test_a_tenth_of_the_people_is_the_head_and_half_of_them_the_tail() -> None:
    strata = [p.stratum for p in World.build(1, 1000).people]
    assert strata == ["head"] * 100 + ["mid"] * 400 + ["tail"] * 500


def test_popularity_falls_from_the_first_person_to_the_last() -> None:
    weights = [p.popularity for p in World.shipped().people]
    assert weights == sorted(weights, reverse=True)


def test_a_held_out_stranger_carries_a_held_out_name_and_plain_values() -> None:
    world, rng = World.shipped(), random.Random(1)
    for person in (world.stranger(rng, held_out=True) for _ in range(200)):
        assert person.name in world.held_out_names
        assert all(value in world.values[attribute] for attribute, value in person.facts.items())


def test_too_many_people_for_the_names_are_refused_with_the_limit() -> None:
    with pytest.raises(ValueError, match="at most 2304"):
        World.build(people=3000)


def test_the_shipped_config_describes_the_shipped_world() -> None:
    config = Path(__file__).parents[2] / "jobs" / "configs" / "nano.toml"
    spec = load_recipe(config).world
    assert World.build(spec.seed, spec.people).digest() == World.shipped().digest()
