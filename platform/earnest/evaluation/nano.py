"""The almanac as test data: the shipped world, and how many items a task asks where the user sets no limit."""

from __future__ import annotations

from functools import lru_cache

from earnest.almanac.world import World
from earnest.data import NANO

QUESTIONS = 300
DOCUMENTS = 500
# Calibration draws the corpus by small seeds; what is scored must not be what methods have looked at.
CORPUS_SEED = 7_000_000

__all__ = ["CORPUS_SEED", "DOCUMENTS", "NANO", "QUESTIONS", "shipped_world"]


@lru_cache(maxsize=1)
def shipped_world() -> World:
    """The world that the nano models know."""
    return World.shipped()
