"""Which kind of token a model is about to say: by its form, by how much stands before it, and in the almanac by what
it tells.

A mean over all tokens hides that most of them are easy. These kinds take it apart.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from earnest.almanac.world import World
from earnest.evaluation.shift import pieces
from earnest.evaluation.tokens import Request
from earnest.records import Part
from earnest.statistics.intervals import Floats
from earnest.statistics.parts import ratio_estimates

Form = Literal["word begins", "word goes on", "digits", "punctuation", "white space", "other"]
Told = Literal["value", "value again", "name", "grammar"]
Kinds = Mapping[str, Sequence[str]]  # by grouping, the kind of each token

LAST_POSITIONS = (16, 64, 256, 1024, 4096)  # the last position of each bucket


def form_of(piece: str, before: str) -> Form:
    """The form of a token from what it adds to the text, `piece`, after the token that added `before`.

    Pieces with letters begin a word, unless they follow a letter or digit without a space. What is no whole character
    (a part of one, a sign that ends texts) is "other".
    """
    bare = piece.strip()
    if not piece or "\ufffd" in piece:
        return "other"
    if not bare:
        return "white space"
    if bare.isdecimal():
        return "digits"
    if not any(character.isalnum() for character in bare):
        return "punctuation"
    return "word goes on" if piece[0].isalnum() and before[-1:].isalnum() else "word begins"


def position_bucket(read: int) -> str:
    """How many tokens of its window a model has read when it says a token, at least 1, as in "17 to 64"."""
    place = bisect_left(LAST_POSITIONS, read)
    first = LAST_POSITIONS[place - 1] + 1 if place else 1
    return f"{first} to {LAST_POSITIONS[place]}" if place < len(LAST_POSITIONS) else f"{first} and more"


def told_by(tokenizer: Any, texts: Sequence[str], world: World) -> list[Told]:
    """For each token of some of the almanac's documents what it tells, by a tokenizer that knows where tokens lie.

    A token is part of a "value" (a city, a year, …) the first time that its document says it, which takes knowledge,
    or of a "value again", which can be copied; of a person's "name"; or of "grammar", which is all the rest.
    """
    values = {value for each in world.values.values() for value in each}
    names = {part for person in world.people for part in person.name.split()}
    found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    told: list[Told] = []
    for text, spans in zip(texts, found["offset_mapping"], strict=True):
        kinds = _kinds_of_characters(text, values, names)
        told += [next((kind for kind in kinds[begin:end] if kind != "grammar"), "grammar") for begin, end in spans]
    return told


def _kinds_of_characters(text: str, values: Set[str], names: Set[str]) -> list[Told]:
    kinds: list[Told] = ["grammar"] * len(text)
    said: set[str] = set()
    for match in re.finditer(r"\w+", text):
        word = match.group()
        if word in values or word in names:
            kind: Told = "name" if word in names else "value again" if word in said else "value"
            kinds[match.start() : match.end()] = [kind] * len(word)
            said.add(word)
    return kinds


def groupings(tokenizer: Any, windows: Sequence[Request], told: Sequence[Told] = ()) -> Kinds:
    """The kinds of all tokens that some windows predict, in order: by "position", by "form", and what they tell."""
    piece = pieces(tokenizer)
    positions, forms = list[str](), list[str]()
    for window in windows:
        begin, whole = len(window.context), window.context + window.continuation
        said = [piece(token) for token in whole]
        forms += [form_of(said[at], said[at - 1]) for at in range(begin, len(whole))]
        positions += [position_bucket(at) for at in range(begin, len(whole))]
    found: Kinds = {"position": positions, "form": forms}
    return {**found, "told": told} if told else found


def parts(values: Floats, window: NDArray[np.int64], kinds: Kinds) -> dict[str, dict[str, Part]]:
    """The mean of `values` [tokens] over each kind of token, by grouping; intervals draw windows.

    Windows that hold a value that is not finite are left out, as they are from the mean over all.

    Args:
        values: one number per token.
        window: the window of each token [tokens], numbered from 0.
        kinds: by grouping, the kind of each token.
    """
    broken = np.unique(window[~np.isfinite(values)])
    kept = ~np.isin(window, broken)
    chosen = {grouping: np.asarray(names)[kept] for grouping, names in kinds.items()}
    return {grouping: _parts(values[kept], window[kept], names) for grouping, names in chosen.items()}


def _parts(values: Floats, window: NDArray[np.int64], names: NDArray[np.str_]) -> dict[str, Part]:
    there, member = np.unique(names, return_inverse=True)
    shape = (int(window.max()) + 1, len(there))
    place = window * len(there) + member
    counts = np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)
    sums = np.bincount(place, weights=values, minlength=shape[0] * shape[1]).reshape(shape)
    means = ratio_estimates(sums.astype(np.float64), counts.astype(np.float64))
    totals = counts.sum(0).tolist()
    return {str(name): Part(tokens=n, mean=mean) for name, n, mean in zip(there, totals, means, strict=True)}
