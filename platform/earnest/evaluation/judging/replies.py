"""A judge's reply -> scores, strictly: what is not in the form that was asked for is no verdict, and never a zero.

The published parsers are here too, for `compat`: they lose replies that a person can read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Pair = tuple[float, float]
Parse = Callable[[str], "tuple[Pair, ...] | None"]

LEAST, MOST = 1.0, 10.0
_NUMBER = r"(\d+(?:\.\d+)?)"
_PAIR = re.compile(rf"(\()?\s*{_NUMBER}(?:\s*,\s*|\s+){_NUMBER}\s*(?(1)\))")
_CHOICE = {"1": (1.0, 0.0), "2": (0.0, 1.0), "tie": (0.5, 0.5)}


def overall(reply: str) -> tuple[Pair, ...] | None:
    """The two scores, 1..10, that are all of the first line: as in "8 7", "8, 7" or "(8, 7)"."""
    return _pairs(reply, [""])


def by_criterion(criteria: Sequence[str]) -> Parse:
    """Reads one line of two scores, 1..10, per criterion, in order; its name and a colon may stand before them."""
    return lambda reply: _pairs(reply, criteria)


def choice(reply: str) -> tuple[Pair, ...] | None:
    """The answer preferred, all of the first line: "1", "2" or "tie"."""
    found = _CHOICE.get(_lines(reply, 1)[0].casefold()) if reply.strip() else None
    return None if found is None else (found,)


def _pairs(reply: str, criteria: Sequence[str]) -> tuple[Pair, ...] | None:
    lines = _lines(reply, len(criteria))
    if len(lines) < len(criteria):
        return None
    pairs = [_pair(line, criterion) for line, criterion in zip(lines, criteria, strict=True)]
    found = tuple(pair for pair in pairs if pair is not None)
    return found if len(found) == len(criteria) else None


def _lines(reply: str, count: int) -> list[str]:
    return [line.strip() for line in reply.split("\n") if line.strip()][:count]


def _pair(line: str, criterion: str) -> Pair | None:
    name, colon, rest = line.partition(":")
    if colon and criterion and name.strip().casefold() == criterion:
        line = rest.strip()
    match = _PAIR.fullmatch(line)
    if match is None:
        return None
    first, second = float(match[2]), float(match[3])
    return (first, second) if min(first, second) >= LEAST and max(first, second) <= MOST else None


def kick_overall(reply: str) -> tuple[Pair, ...] | None:
    """LLM-KICK's reading of a comparison: the first line, commas as spaces, split at single spaces, is two numbers."""
    words = reply.split("\n", maxsplit=1)[0].replace(",", " ").split(" ")
    return _floats([words]) if len(words) == 2 else None


def kick_criteria(reply: str) -> tuple[Pair, ...] | None:
    """LLM-KICK's reading of four criteria: four lines that begin with two numbers and single spaces."""
    lines = [line.split(" ") for line in reply.split("\n")[:4]]
    return _floats(lines) if len(lines) == 4 and all(len(line) >= 2 for line in lines) else None


def _floats(lines: Sequence[Sequence[str]]) -> tuple[Pair, ...] | None:
    try:
        return tuple((float(line[0]), float(line[1])) for line in lines)
    except ValueError:
        return None
