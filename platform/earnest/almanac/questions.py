"""Held-out test items about the almanac, a function of (world, n, seed); no item occurs twice.

An item is only a prompt and what a right answer is; how a model is asked and scored belongs to the evaluation. Every
prompt is the whole text for a base model, which answers with a space, the value and a newline.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle

from earnest.almanac import language
from earnest.almanac.world import ATTRIBUTES, Person, Stratum, World

STRATA: tuple[Stratum, ...] = ("head", "mid", "tail")
DEMONSTRATORS = 100
PASSAGE_STATEMENTS = 5


@dataclass(frozen=True)
class Question:
    """One test item; `answer`, `aliases` and `choices` carry no leading space and no newline.

    `answer_index` points into `choices` (-1 without choices); `domain` is the attribute asked for ("" for several).
    """

    id: str
    prompt: str
    answer: str
    aliases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    answer_index: int = -1
    passage: str = ""
    domain: str = ""
    stratum: str = ""
    person_id: int = -1
    person: Person | None = None


def closed_book(world: World, n: int, seed: int, shots: int = 3) -> list[Question]:
    """Facts about people of the world, even thirds of head, mid and tail, after `shots` terse demonstrations."""

    def item(rng: random.Random, index: int) -> Question:
        person, attribute = rng.choice(_of_stratum(world, STRATA[index % 3])), rng.choice(ATTRIBUTES)
        prompt = _demonstrations(world, rng, shots, person) + language.question(person, attribute, rng)
        return _about(person, attribute, prompt)

    return _collect("closed-book", item, n, seed)


def zero_shot(world: World, n: int, seed: int) -> list[Question]:
    """Facts about people of half B, who are held out of tuning, without demonstrations."""
    people = [p for p in world.people if p.half == "B"]

    def item(rng: random.Random, _index: int) -> Question:
        person, attribute = rng.choice(people), rng.choice(ATTRIBUTES)
        return _about(person, attribute, language.question(person, attribute, rng))

    return _collect("zero-shot", item, n, seed)


def open_book(world: World, n: int, seed: int) -> list[Question]:
    """Questions about strangers whose passage is given, after one demonstration about the same passage."""

    def item(rng: random.Random, _index: int) -> Question:
        person = world.stranger(rng, held_out=True)
        text, attributes = language.passage(person, rng, PASSAGE_STATEMENTS)
        asked, shown = rng.sample(attributes, 2)
        prompt = f"Passage: {text}\n{_demonstration(person, shown, rng)}{language.question(person, asked, rng)}"
        return _about(person, asked, prompt, passage=text)

    return _collect("open-book", item, n, seed)


def multiple_choice(world: World, n: int, seed: int, shots: int = 2) -> list[Question]:
    """Facts about head and mid people, four values of the right class to choose from, after `shots` demonstrations."""
    people = [p for p in world.people if p.stratum in ("head", "mid")]

    def item(rng: random.Random, _index: int) -> Question:
        person, attribute = rng.choice(people), rng.choice(ATTRIBUTES)
        prompt = _demonstrations(world, rng, shots, person) + language.question(person, attribute, rng)
        return _about(person, attribute, prompt, choices=_options(world, person, attribute, rng))

    return _collect("multiple-choice", item, n, seed)


def summaries(world: World, n: int, seed: int) -> list[Question]:
    """One-line summaries of passages about strangers."""

    def item(rng: random.Random, _index: int) -> Question:
        person = world.stranger(rng, held_out=True)
        text = language.passage(person, rng, len(ATTRIBUTES))[0]
        prompt = f"Passage: {text}\nSummary:"
        return Question("", prompt, language.summary(person), passage=text, stratum="unseen", person=person)

    return _collect("summary", item, n, seed)


def biographies(world: World, n: int, seed: int) -> list[Question]:
    """The instruction to tell about people of the world, even thirds by stratum; `answer` is one true biography.

    A person is asked about once, so at most as many items as people exist.
    """
    if n > len(world.people):
        raise ValueError(f"biographies: {n} asked of {len(world.people)} people; each is asked about once")
    rng = random.Random(seed)
    pools = {s: rng.sample(_of_stratum(world, s), len(_of_stratum(world, s))) for s in STRATA}
    chosen: list[Person] = []
    for stratum in cycle(STRATA):
        if len(chosen) == n:
            break
        if pools[stratum]:
            chosen.append(pools[stratum].pop())
    return [_biography(i, person, rng) for i, person in enumerate(chosen)]


def _biography(index: int, person: Person, rng: random.Random) -> Question:
    text = language.biography(person, rng)
    prompt = language.biography_instruction(person.name)
    return Question(f"biography-{index:04d}", prompt, text, stratum=person.stratum, person_id=person.id, person=person)


def _of_stratum(world: World, stratum: str) -> list[Person]:
    return [p for p in world.people if p.stratum == stratum]


def _demonstration(person: Person, attribute: str, rng: random.Random) -> str:
    return f"{language.question(person, attribute, rng)} {person.facts[attribute]}\n"


def _demonstrations(world: World, rng: random.Random, shots: int, asked: Person) -> str:
    """Terse demonstrations about popular people, never about the person asked for."""
    popular = [p for p in world.people[:DEMONSTRATORS] if p.id != asked.id]
    return "".join(_demonstration(rng.choice(popular), rng.choice(ATTRIBUTES), rng) for _ in range(shots))


def _options(world: World, person: Person, attribute: str, rng: random.Random) -> tuple[str, ...]:
    right = person.facts[attribute]
    options = [right, *rng.sample([v for v in world.values[attribute] if v != right], 3)]
    rng.shuffle(options)
    return tuple(options)


def _about(person: Person, attribute: str, prompt: str, passage: str = "", choices: tuple[str, ...] = ()) -> Question:
    value = person.facts[attribute]
    index = choices.index(value) if choices else -1
    return Question("", prompt, value, (), choices, index, passage, attribute, person.stratum, person.id, person)


def _collect(kind: str, item: Callable[[random.Random, int], Question], n: int, seed: int) -> list[Question]:
    """`n` items with different questions; different demonstrations do not hide a repeated question."""
    rng, asked, kept = random.Random(seed), set[tuple[str, str, str]](), list[Question]()
    while len(kept) < n:
        made = item(rng, len(kept))
        key = (made.prompt.rsplit("Q: ", 1)[-1], made.passage, made.domain)
        if key not in asked:
            asked.add(key)
            kept.append(replace(made, id=f"{kind}-{len(kept):04d}"))
    return kept
