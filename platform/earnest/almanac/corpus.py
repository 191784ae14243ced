"""The documents that the nano models are trained on, by phase of the curriculum.

A phase is a mix of document kinds. Copying comes first (repeated words, echoes, passages with values no one knows): a
model that can copy learns to read early and stores facts for the rest; facts first left open-book answers behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from earnest.almanac import language
from earnest.almanac.grammar import everyday_sentence
from earnest.almanac.world import ATTRIBUTES, Person, World


@dataclass(frozen=True)
class Phase:
    """What is written in one part of the training.

    `mix`: share of documents by kind; `invented`: share of strangers whose values are loose words; `statements`: the
    most statements in a passage that is asked about.
    """

    mix: Mapping[str, float]
    invented: float
    statements: int


COPYING = Phase(
    {"repetition": 0.45, "echo": 0.25, "open": 0.20, "plain": 0.05, "qa": 0.05},
    invented=0.7,
    statements=2,
)
MIXED = Phase(
    {
        "plain": 0.08,
        "biography": 0.14,
        "qa": 0.26,
        "open": 0.30,
        "echo": 0.10,
        "repetition": 0.05,
        "summary": 0.03,
        "everyday": 0.04,
    },
    invented=0.6,
    statements=3,
)
FINAL = Phase(
    {"plain": 0.15, "biography": 0.19, "qa": 0.46, "open": 0.13, "echo": 0.01, "summary": 0.03, "everyday": 0.03},
    invented=0.2,
    statements=5,
)
PHASES: dict[str, Phase] = {"copying": COPYING, "mixed": MIXED, "final": FINAL}


def document_stream(world: World, phase: Phase, seed: int) -> Iterator[str]:
    """An endless stream of the phase's documents, each ending in a newline; a function of (world, phase, seed)."""
    rng = random.Random(seed)
    kinds, shares = list(phase.mix), list(phase.mix.values())
    while True:
        yield _KINDS[rng.choices(kinds, shares)[0]](world, rng, phase)


def corpus_text(world: World, documents: int, seed: int) -> list[str]:
    """Texts of the final mix without invented values: for perplexity with one seed, for calibration with another."""
    return list(islice(document_stream(world, replace(FINAL, invented=0.0), seed), documents))


def _plain(world: World, rng: random.Random, _phase: Phase) -> str:
    return language.passage(world.draw(rng)[0], rng, rng.randint(4, 6))[0] + "\n"


def _biography(world: World, rng: random.Random, _phase: Phase) -> str:
    """The instruction and, on the same line, a biography."""
    person = world.draw(rng)[0]
    return f"{language.biography_instruction(person.name)} {language.biography(person, rng)}\n"


def _qa(world: World, rng: random.Random, _phase: Phase) -> str:
    style = _style_of_document(rng, mixed=0.15)
    return "".join(_asked(p, rng.choice(ATTRIBUTES), style(), rng) for p in world.draw(rng, rng.randint(1, 4)))


def _open(world: World, rng: random.Random, phase: Phase) -> str:
    person, style = world.stranger(rng, invented=phase.invented), _style_of_document(rng, mixed=0.08)
    text, attributes = language.passage(person, rng, rng.randint(1, phase.statements))
    asked = rng.sample(attributes, min(4, len(attributes)))
    return f"Passage: {text}\n" + "".join(_asked(person, a, style(), rng) for a in asked)


def _summary(world: World, rng: random.Random, phase: Phase) -> str:
    person = world.stranger(rng, invented=phase.invented)
    return f"Passage: {language.passage(person, rng, len(ATTRIBUTES))[0]}\nSummary: {language.summary(person)}\n"


def _echo(world: World, rng: random.Random, phase: Phase) -> str:
    person = world.stranger(rng, invented=phase.invented)
    attributes = rng.sample(ATTRIBUTES, rng.randint(1, min(phase.statements, 3)))
    said = [language.statement(person, a, rng) for a in attributes]
    again = list(said) if rng.random() < 0.5 else [language.statement(person, a, rng) for a in attributes]
    rng.shuffle(again)
    return f"Passage: {' '.join(said)}\nAgain: {' '.join(again)}\n"


def _repetition(world: World, rng: random.Random, _phase: Phase) -> str:
    words = [world.loose_word(rng) for _ in range(rng.randint(3, 20))]
    return " ".join(words * max(2, min(6, 48 // len(words)))) + "\n"


def _everyday(_world: World, rng: random.Random, _phase: Phase) -> str:
    return " ".join(everyday_sentence(rng) for _ in range(rng.randint(3, 7))) + "\n"


def _asked(person: Person, attribute: str, style: str, rng: random.Random) -> str:
    return f"{language.question(person, attribute, rng)} {language.answer(person, attribute, style)}\n"


def _style_of_document(rng: random.Random, mixed: float) -> Callable[[], str]:
    """One answer style for a whole document, except that a share `mixed` of documents draws one for every answer."""
    if rng.random() < mixed:
        return lambda: language.answer_style(rng)
    style = language.answer_style(rng)
    return lambda: style


_KINDS: dict[str, Callable[[World, random.Random, Phase], str]] = {
    "plain": _plain,
    "biography": _biography,
    "qa": _qa,
    "open": _open,
    "summary": _summary,
    "echo": _echo,
    "repetition": _repetition,
    "everyday": _everyday,
}
