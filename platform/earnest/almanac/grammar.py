"""Everyday sentences from a small grammar: language about nobody in particular, so that models know more than facts."""

from __future__ import annotations

import random

from earnest.almanac.world import words

_ADJECTIVES = words(
    "old quiet green heavy bright narrow distant patient wooden silver cold warm rusty gentle empty crowded broken "
    "early hidden golden"
)
_NOUNS = words(
    "river market lantern bridge garden ferry tower letter orchard kitchen window road harbour clock village basket "
    "mirror stable mill cart forest hill"
)
_PEOPLE = words("farmer sailor baker child painter teacher merchant guard miller weaver doctor traveller")
_TRANSITIVE = words("watched carried painted repaired followed crossed remembered ignored visited cleaned sold found")
_INTRANSITIVE = words("slept waited laughed returned vanished sang rested wandered")
_ADVERBS = words("slowly often quietly again together yesterday gladly rarely")
_PREPOSITIONS = words("near beyond under behind beside above")


def everyday_sentence(rng: random.Random) -> str:
    """One sentence, such as: The old farmer crossed the river."""
    who, shape = _subject(rng), rng.random()
    if shape < 0.4:
        said = f"{who} {rng.choice(_TRANSITIVE)} {_object(rng)}"
    elif shape < 0.6:
        said = f"{rng.choice(_PREPOSITIONS)} {_object(rng)} {who} {rng.choice(_INTRANSITIVE)}"
    elif shape < 0.8:
        said = f"{who} {rng.choice(_INTRANSITIVE)} {rng.choice(_ADVERBS)} {rng.choice(_PREPOSITIONS)} {_object(rng)}"
    else:
        said = f"{who} {rng.choice(_TRANSITIVE)} {_object(rng)} and {rng.choice(_TRANSITIVE)} {_object(rng)}"
    return said[0].upper() + said[1:] + "."


def _subject(rng: random.Random) -> str:
    adjective = f"{rng.choice(_ADJECTIVES)} " if rng.random() < 0.3 else ""
    return f"the {adjective}{rng.choice(_PEOPLE)}"


def _object(rng: random.Random) -> str:
    article = "the" if rng.random() < 0.7 else "a"
    adjective = f"{rng.choice(_ADJECTIVES)} " if rng.random() < 0.6 else ""
    return f"{article} {adjective}{rng.choice(_NOUNS)}"
