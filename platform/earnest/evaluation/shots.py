"""Demonstrations drawn as lm-eval draws them, so that prompts are equal to its own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from earnest.data import splits
from earnest.specs import UserError

Row = TypeVar("Row")
SEED = 1234
SHOTS_SPLIT = "train"


def check_shots_split(data: str, split: str, shots: int) -> None:
    """See that demonstrations have a split of their own: from the asked one they would give answers away.

    Raises:
        UserError: `data` is a single file, or a folder without that split.
    """
    there = splits(data)
    if Path(data).is_file() or (there and split not in there):
        raise UserError(
            f"data {data}: has no {split} split for {shots} shots; give a folder that has one, or set shots = 0"
        )


def drawn_shots(pool: Sequence[Row], shots: int, items: int) -> Iterator[list[Row]]:
    """For each of so many items `shots` rows of another split: one stream of draws goes through all items.

    Raises:
        UserError: there are fewer rows.
    """
    if len(pool) < shots:
        raise UserError(f"the split {SHOTS_SPLIT!r} has {len(pool)} rows, too few to draw {shots}; set shots lower")
    draw = random.Random(SEED)
    return (draw.sample(pool, shots) for _ in range(items))
