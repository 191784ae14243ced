"""The invented world: people, what is true of them, how popular they are, and strangers for reading tests.

Leaves wording to `language`, documents to `corpus`, test items to `questions`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

ATTRIBUTES: tuple[str, ...] = ("city", "year", "college", "employer", "field", "instrument")
Stratum = Literal["head", "mid", "tail", "unseen"]
Half = Literal["A", "B"]

SEED = 7
PEOPLE = 1300
FIRST_NAMES, LAST_NAMES, PLACES = 48, 64, 32
HELD_OUT_SHARE = 1 / 6
ZIPF_OFFSET = 50


def words(text: str) -> tuple[str, ...]:
    """The words of `text`."""
    return tuple(text.split())


FIELDS = words(
    "botany optics geology zoology acoustics ecology genetics mechanics chemistry astronomy hydrology metallurgy "
    "toxicology virology anatomy seismology mycology entomology statistics cryptology thermodynamics oceanography "
    "meteorology immunology linguistics archaeology economics topology robotics pharmacology"
)
INSTRUMENTS = words(
    "violin cello flute oboe harp drums piano banjo lute trumpet tuba organ zither sitar clarinet bassoon guitar "
    "accordion viola horn"
)
EVERYDAY = words(
    "quiet green heavy bright narrow patient wooden silver river market lantern bridge garden ferry tower letter "
    "orchard kitchen window harbour clock village basket mirror stable mill forest hill"
)
_ONSETS = words("b d f g h k l m n p r s t v z br dr gr kr tr st pl th sh")
_VOWELS = words("a e i o u ai or en ar el")
_CODAS = ("", "n", "r", "l", "s", "m", "x", "th", "k", "")


@dataclass(frozen=True)
class Person:
    """One person: `facts` maps each of ATTRIBUTES to its value.

    `popularity` is the unnormalised weight of being written about; `half` A may be used in tuning, B is held out of it.
    A stranger has stratum "unseen", id -1 and popularity 0.
    """

    id: int
    name: str
    facts: Mapping[str, str]
    popularity: float
    stratum: Stratum
    half: Half


def coin_word(rng: random.Random, syllables: int = 2) -> str:
    """An invented capitalised word such as "Tormenk"."""
    parts = [rng.choice(_ONSETS) + rng.choice(_VOWELS) for _ in range(syllables)]
    return ("".join(parts) + rng.choice(_CODAS)).capitalize()


def _distinct_words(rng: random.Random, count: int, used: set[str]) -> list[str]:
    words: list[str] = []
    while len(words) < count:
        word = coin_word(rng)
        if word not in used and 4 <= len(word) <= 8:
            used.add(word)
            words.append(word)
    return words


def stratum_of(rank: int, people: int) -> Stratum:
    """head: the 10 % most popular; mid: the next 40 %; tail: the rest."""
    if rank < people // 10:
        return "head"
    return "mid" if rank < people // 2 else "tail"


@dataclass(frozen=True)
class World:
    """All that exists: `people` in order of popularity, the `values` of each attribute, and the names of strangers."""

    seed: int
    people: tuple[Person, ...]
    values: Mapping[str, tuple[str, ...]]
    stranger_names: tuple[str, ...]
    held_out_names: tuple[str, ...]
    loose_words: tuple[str, ...]

    @classmethod
    def build(cls, seed: int = SEED, people: int = PEOPLE) -> World:
        """The world of `seed`; popularity follows 1 / (rank + 50), values are drawn uniformly and independently."""
        if people > (limit := FIRST_NAMES * LAST_NAMES * 3 // 4):
            raise ValueError(f"people {people}: a quarter of all names is kept for strangers, so at most {limit}")
        rng = random.Random(seed)
        used: set[str] = set()
        first, last = _distinct_words(rng, FIRST_NAMES, used), _distinct_words(rng, LAST_NAMES, used)
        values = _values(rng, used)
        names = [f"{a} {b}" for a in first for b in last]
        rng.shuffle(names)
        cast = tuple(_person(rng, i, name, people, values) for i, name in enumerate(names[:people]))
        spare = names[people:]
        held = int(len(spare) * HELD_OUT_SHARE)
        # First names stay out of the loose words, so that no two neighbours can spell a held-out name by chance.
        loose = tuple(last) + tuple(v for a in ATTRIBUTES for v in values[a]) + EVERYDAY
        return cls(seed, cast, values, tuple(spare[held:]), tuple(spare[:held]), loose)

    @classmethod
    def shipped(cls) -> World:
        """The world that the shipped nano models were trained on."""
        return cls.build()

    def stranger(self, rng: random.Random, held_out: bool = False, invented: float = 0.0) -> Person:
        """A person of whom nothing is true beyond one passage; `held_out` draws a name that no training text holds.

        With probability `invented` every value is a loose word instead of one of its class.
        """
        name = rng.choice(self.held_out_names if held_out else self.stranger_names)
        wild = rng.random() < invented
        if wild and not held_out and rng.random() < 0.3:
            name = self._coined_name(rng)
        facts = {a: self.loose_word(rng) if wild else rng.choice(self.values[a]) for a in ATTRIBUTES}
        return Person(-1, name, facts, 0.0, "unseen", "A")

    def loose_word(self, rng: random.Random) -> str:
        """A coined word (40 %) or any known word of any class: what reading must copy without knowing it."""
        return coin_word(rng) if rng.random() < 0.4 else rng.choice(self.loose_words)

    def draw(self, rng: random.Random, count: int = 1) -> Sequence[Person]:
        """`count` people, by popularity, with replacement."""
        return rng.choices(self.people, [p.popularity for p in self.people], k=count)

    def digest(self) -> str:
        """sha256 of the world's canonical JSON: people, values and names."""
        content = {
            "people": [[p.id, p.name, dict(p.facts), p.popularity, p.stratum, p.half] for p in self.people],
            "values": dict(self.values),
            "stranger_names": self.stranger_names,
            "held_out_names": self.held_out_names,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def _coined_name(self, rng: random.Random) -> str:
        known = set(self.held_out_names) | {p.name for p in self.people}
        while (name := f"{coin_word(rng)} {coin_word(rng)}") in known:
            continue
        return name


def _values(rng: random.Random, used: set[str]) -> dict[str, tuple[str, ...]]:
    return {
        "city": tuple(_distinct_words(rng, PLACES, used)),
        "year": tuple(str(year) for year in range(1900, 1940)),
        "college": tuple(_distinct_words(rng, PLACES, used)),
        "employer": tuple(_distinct_words(rng, PLACES, used)),
        "field": FIELDS,
        "instrument": INSTRUMENTS,
    }


def _person(rng: random.Random, rank: int, name: str, people: int, values: Mapping[str, tuple[str, ...]]) -> Person:
    facts = {a: rng.choice(values[a]) for a in ATTRIBUTES}
    half: Half = "A" if rng.random() < 0.5 else "B"
    return Person(rank, name, facts, 1.0 / (rank + ZIPF_OFFSET), stratum_of(rank, people), half)
