"""One colour per method, the same in every figure, table and chart.

The hues are those of Okabe and Ito's colour-blind-safe set; each has a variant for dark pages with enough contrast.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ink:
    """A colour as it is drawn on a light page and on a dark one."""

    light: str
    dark: str


_INKS = {
    "dense": Ink("#30343b", "#d7dae0"),
    "random": Ink("#7d828c", "#9aa0ab"),
    "magnitude": Ink("#b87900", "#f0b429"),
    "wanda": Ink("#0072b2", "#56b4e9"),
    "sparsegpt": Ink("#00805c", "#2fc79a"),
    "rtn": Ink("#b0588c", "#e08fbf"),
    "gptq": Ink("#c24a00", "#ff8345"),
}
_NEWCOMERS = (Ink("#6a4fb3", "#a996ea"), Ink("#7a6a00", "#d8ca4a"), Ink("#00727a", "#4fc3cb"))


def ink(method: str) -> Ink:
    """A method's colour; one that is not named here gets one of three more, always the same."""
    return _INKS.get(method) or _NEWCOMERS[sum(method.encode()) % len(_NEWCOMERS)]
