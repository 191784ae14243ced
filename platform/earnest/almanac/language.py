"""How the almanac speaks: statements, questions, answers, summaries, biographies; and the check of a biography.

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
# How a sentence of a biography begins: long form is asked of a model for its length as much as for its facts.
OPENINGS = (
    "The town register says that",
    "Old letters tell us that",
    "As far as anybody knows,",
    "It is well known that",
    "The neighbours recall that",
    "Every almanac agrees that",
)
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
    """One sentence of a biography.

    `well_formed`: it matches a template, with or without an opening, with the asked name and a value of this world;
    `true`: and it is so; `fits`: the value is at least one of the attribute's own ("studied at botany College" is
    well formed, does not fit, and is false).
    """

    text: str
    attribute: str | None
    value: str | None
    well_formed: bool
    true: bool
    fits: bool


def statement(person: Person, attribute: str, rng: random.Random) -> str:
    """One of the attribute's statements about `person`."""
    return rng.choice(STATEMENTS[attribute]).format(n=person.name, v=person.facts[attribute])


def passage(person: Person, rng: random.Random, k: int) -> tuple[str, list[str]]:
    """`k` statements about different attributes in random order, and those attributes in that order."""
    attributes = rng.sample(ATTRIBUTES, k)
    return " ".join(statement(person, a, rng) for a in attributes), attributes


def question(person: Person, attribute: str, rng: random.Random) -> str:
    """A question line and the start of the answer line; the answer follows after a space, up to the newline."""
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
    """The long-form instruction; the biography follows after a space, on the same line."""
    return f"Tell me about {name}."


def biography(person: Person, rng: random.Random) -> str:
    """All that is true of `person` in six sentences, each with an opening; 60 to 90 tokens."""
    attributes = rng.sample(ATTRIBUTES, len(ATTRIBUTES))
    return " ".join(_opened(rng.choice(OPENINGS), statement(person, a, rng)) for a in attributes)


def _opened(opening: str, said: str) -> str:
    """A statement after an opening: what began it in capitals for that alone goes on in small letters."""
    own = said.startswith(("The ", "In "))
    return f"{opening} {said[0].lower() + said[1:] if own else said}"


def _without_opening(sentence: str) -> str:
    for opening in OPENINGS:
        if sentence.startswith(f"{opening} "):
            said = sentence.removeprefix(f"{opening} ")
            return said[:1].upper() + said[1:] if said.startswith(("the ", "in ")) else said
    return sentence


def check_biography(text: str, person: Person, world: World) -> list[Statement]:
    """Judge each sentence of a generated biography of `person`; an unfinished last one is not well formed."""
    return [_judge(sentence, person, world) for sentence in sentences(text)]


def sentences(text: str) -> list[str]:
    """The sentences of a text, each with its full stop; what is left over is the last."""
    return [sentence.strip() for sentence in re.findall(r"[^.]+\.?", text.strip()) if sentence.strip()]


def _judge(sentence: str, person: Person, world: World) -> Statement:
    """Form first: whatever value of the world fills the gap, the sentence is well formed; truth is another matter."""
    said = _without_opening(sentence)
    known = {value for values in world.values.values() for value in values}
    readings = [
        (attribute, value)
        for attribute, templates in STATEMENTS.items()
        for template in templates
        if (value := _value_in(said, template, person.name)) in known
    ]
    if not readings:
        return Statement(sentence, None, None, False, False, False)
    fitting = [(attribute, value) for attribute, value in readings if value in world.values[attribute]]
    attribute, value = (fitting or readings)[0]
    return Statement(sentence, attribute, value, True, person.facts[attribute] == value, bool(fitting))


def _value_in(sentence: str, template: str, name: str) -> str | None:
    before, after = template.format(n=name, v="\0").split("\0")
    if sentence.startswith(before) and sentence.endswith(after) and len(sentence) > len(before) + len(after):
        return sentence[len(before) : len(sentence) - len(after)]
    return None
