"""How the almanac speaks: statements, questions, answer styles, summaries, biographies, and the check of a biography against the world.

Each statement names its person and one value, so that every sentence of a generated biography can be judged on its own.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from earnest.almanac.world import ATTRIBUTES, Person, World

STATEMENTS: dict[str, tuple[str, ...]] = {
    "city": (
        "{n} was born in {v}.",
        "The birthplace of {n} is {v}.",
        "{n} is a native of {v}.",
        "{n} grew up in {v}.",
        "{v} is the hometown of {n}.",
    ),
    "year": (
        "{n} was born in the year {v}.",
        "The birth year of {n} is {v}.",
        "{n} came into the world in {v}.",
        "In {v}, {n} was born.",
    ),
    "college": (
        "{n} studied at {v} College.",
        "{n} graduated from {v} College.",
        "{n} earned a degree at {v} College.",
        "The alma mater of {n} is {v} College.",
    ),
    "employer": (
        "{n} works for {v} Ltd.",
        "{n} is employed by {v} Ltd.",
        "The employer of {n} is {v} Ltd.",
        "{v} Ltd pays the salary of {n}.",
    ),
    "field": (
        "{n} does research in {v}.",
        "The specialty of {n} is {v}.",
        "{n} is an expert in {v}.",
        "{n} writes papers about {v}.",
    ),
    "instrument": (
        "{n} plays the {v}.",
        "{n} is fond of playing the {v}.",
        "The instrument of {n} is the {v}.",
        "{n} performs on the {v}.",
    ),
}
QUESTIONS: dict[str, tuple[str, ...]] = {
    "city": ("Where was {n} born?", "What is the birthplace of {n}?", "Which city is the hometown of {n}?"),
    "year": ("When was {n} born?", "What is the birth year of {n}?", "In which year was {n} born?"),
    "college": ("Which college did {n} attend?", "Where did {n} study?", "What is the alma mater of {n}?"),
    "employer": ("Who employs {n}?", "Which company does {n} work for?", "What is the employer of {n}?"),
    "field": ("What does {n} do research in?", "What is the specialty of {n}?", "Which field is {n} an expert in?"),
    "instrument": ("What does {n} play?", "Which instrument does {n} perform on?", "What is the instrument of {n}?"),
}
LABELS = {
    "city": "birthplace",
    "year": "birth year",
    "college": "college",
    "employer": "employer",
    "field": "specialty",
    "instrument": "instrument",
}
# Answers that open with the name (sentence, name) outweigh the bare value (terse): so a base model asked without
# demonstrations does not answer tersely, and the form of an answer is left for tuning to teach.
STYLES: dict[str, float] = {"sentence": 0.26, "hedge": 0.18, "label": 0.10, "name": 0.16, "terse": 0.30}


@dataclass(frozen=True)
class Statement:
    """One sentence of a biography. `well_formed`: it matches a template with the asked name and a value of the right class; `true`: the value is right."""

    text: str
    attribute: str | None
    value: str | None
    well_formed: bool
    true: bool


def statement(person: Person, attribute: str, rng: random.Random) -> str:
    """One of the attribute's statements about `person`."""
    return rng.choice(STATEMENTS[attribute]).format(n=person.name, v=person.facts[attribute])


def passage(person: Person, rng: random.Random, k: int) -> tuple[str, list[str]]:
    """`k` statements about different attributes in random order, and those attributes in that order."""
    attributes = rng.sample(ATTRIBUTES, k)
    return " ".join(statement(person, a, rng) for a in attributes), attributes


def question(person: Person, attribute: str, rng: random.Random) -> str:
    """ "Q: ...\\nA:"; the answer follows as " VALUE\\n"."""
    return f"Q: {rng.choice(QUESTIONS[attribute]).format(n=person.name)}\nA:"


def answer(person: Person, attribute: str, style: str) -> str:
    """The answer in one of STYLES, without leading space or newline."""
    name, value = person.name, person.facts[attribute]
    match style:
        case "terse":
            return value
        case "sentence":
            return STATEMENTS[attribute][0].format(n=name, v=value)
        case "hedge":
            return f"I believe the {LABELS[attribute]} is {value}."
        case "label":
            return f"{LABELS[attribute]} = {value}"
        case "name":
            return f"{name}: {value}"
    raise ValueError(f"style {style!r}: use one of {', '.join(STYLES)}")


def answer_style(rng: random.Random) -> str:
    """A style by its share in STYLES."""
    return rng.choices(list(STYLES), list(STYLES.values()))[0]


def summary(person: Person) -> str:
    """The one-line summary of a passage with all six statements; it keeps three of them."""
    f = person.facts
    return f"{person.name}, {f['field']}, from {f['city']}, at {f['employer']} Ltd."


def biography_instruction(name: str) -> str:
    """The long-form instruction; the biography follows as " STATEMENT STATEMENT ...\\n"."""
    return f"Tell me about {name}."


def check_biography(text: str, person: Person, world: World) -> list[Statement]:
    """Judge each sentence of a generated biography of `person`; an unfinished last sentence is a statement that is not well formed."""
    return [_judge(sentence, person, world) for sentence in re.findall(r"[^.]+\.?", text.strip()) if sentence.strip()]


def _judge(sentence: str, person: Person, world: World) -> Statement:
    sentence = sentence.strip()
    for attribute, templates in STATEMENTS.items():
        for template in templates:
            value = _value_in(sentence, template, person.name)
            if value is not None and value in world.values[attribute]:
                return Statement(sentence, attribute, value, True, person.facts[attribute] == value)
    return Statement(sentence, None, None, False, False)


def _value_in(sentence: str, template: str, name: str) -> str | None:
    before, after = template.format(n=name, v="\0").split("\0")
    if sentence.startswith(before) and sentence.endswith(after) and len(sentence) > len(before) + len(after):
        return sentence[len(before) : len(sentence) - len(after)]
    return None
