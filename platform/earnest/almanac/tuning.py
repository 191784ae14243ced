"""Instruction tuning: a base model learns to answer tersely, on people of half A and on strangers only.

Most pairs read a passage: they teach the form of an answer and no fact, so the difference between a tuned and an
untuned small model is form, and adding it to a large model leaves that its facts (proxy-tuning, Liu et al. 2024).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tokenizers import Tokenizer

from earnest.almanac import language
from earnest.almanac.packing import IGNORED, first_fit, flat, padded
from earnest.almanac.recipe import Training, Tuning
from earnest.almanac.tokenizer import BOS, EOS, PAD
from earnest.almanac.training import Batch
from earnest.almanac.world import ATTRIBUTES, World

INVENTED = 0.4
Pair = tuple[str, str]


def tuning_pairs(world: World, tuning: Tuning) -> Iterator[Pair]:
    """An endless stream of (prompt, answer), the answer from its space to its newline; nobody of half B is named."""
    rng = random.Random(tuning.seed)
    people = [p for p in world.people if p.half == "A"]
    while True:
        kind = rng.random()
        if kind < tuning.reading:
            yield _reading(world, rng)
        elif kind < tuning.reading + tuning.biographies:
            person = rng.choice(people)
            yield language.biography_instruction(person.name), f" {language.biography(person, rng)}\n"
        else:
            person, attribute = rng.choice(people), rng.choice(ATTRIBUTES)
            yield language.question(person, attribute, rng), f" {person.facts[attribute]}\n"


def tuning_batches(world: World, tokenizer: Tokenizer, training: Training, tuning: Tuning) -> Iterator[Batch]:
    """Batches of packed pairs; only an answer's tokens and the end of its text are targets."""
    encoded = (_encode(tokenizer, pair) for pair in tuning_pairs(world, tuning))
    rows = first_fit(encoded, training.length + 1)
    while True:
        batch = [flat(next(rows)) for _ in range(training.rows)]
        tokens = padded([[abs(t) for t in row] for row in batch], training.length + 1, PAD)
        targets = padded([[t if t > 0 else IGNORED for t in row] for row in batch], training.length + 1, IGNORED)
        yield tokens[:, :-1], targets[:, 1:]


def _reading(world: World, rng: random.Random) -> Pair:
    person = world.stranger(rng, invented=INVENTED)
    text, attributes = language.passage(person, rng, rng.randint(3, 5))
    attribute = rng.choice(attributes)
    return f"Passage: {text}\n{language.question(person, attribute, rng)}", f" {person.facts[attribute]}\n"


def _encode(tokenizer: Tokenizer, pair: Pair) -> list[int]:
    """Token ids, those of the prompt negated: they are read, not learnt. No text holds id 0, so the sign is free."""
    prompt, answer = (tokenizer.encode(text, add_special_tokens=False).ids for text in pair)
    return [-BOS, *(-t for t in prompt), *answer, EOS]
