"""Everyday sentences from a small grammar: language about nobody in particular, so that a model of the almanac knows more than facts."""

from __future__ import annotations

import random

_ADJECTIVES = tuple(
    "old quiet green heavy bright narrow distant patient wooden silver cold warm rusty gentle empty crowded broken early hidden golden".split()
)
_NOUNS = tuple(
    "river market lantern bridge garden ferry tower letter orchard kitchen window road harbour clock village basket mirror stable mill cart "
    "forest hill".split()
)
_PEOPLE = tuple("farmer sailor baker child painter teacher merchant guard miller weaver doctor traveller".split())
_TRANSITIVE = tuple("watched carried painted repaired followed crossed remembered ignored visited cleaned sold found".split())
_INTRANSITIVE = tuple("slept waited laughed returned vanished sang rested wandered".split())
_ADVERBS = tuple("slowly often quietly again together yesterday gladly rarely".split())
_PREPOSITIONS = tuple("near beyond under behind beside above".split())


def everyday_sentence(rng: random.Random) -> str:
    """One sentence such as "The old farmer crossed the river." """
    who, shape = _subject(rng), rng.random()
    if shape < 0.4:
        words = f"{who} {rng.choice(_TRANSITIVE)} {_object(rng)}"
    elif shape < 0.6:
        words = f"{rng.choice(_PREPOSITIONS)} {_object(rng)} {who} {rng.choice(_INTRANSITIVE)}"
    elif shape < 0.8:
        words = f"{who} {rng.choice(_INTRANSITIVE)} {rng.choice(_ADVERBS)} {rng.choice(_PREPOSITIONS)} {_object(rng)}"
    else:
        words = f"{who} {rng.choice(_TRANSITIVE)} {_object(rng)} and {rng.choice(_TRANSITIVE)} {_object(rng)}"
    return words[0].upper() + words[1:] + "."


def _subject(rng: random.Random) -> str:
    adjective = f"{rng.choice(_ADJECTIVES)} " if rng.random() < 0.3 else ""
    return f"the {adjective}{rng.choice(_PEOPLE)}"


def _object(rng: random.Random) -> str:
    article = "the" if rng.random() < 0.7 else "a"
    adjective = f"{rng.choice(_ADJECTIVES)} " if rng.random() < 0.6 else ""
    return f"{article} {adjective}{rng.choice(_NOUNS)}"
