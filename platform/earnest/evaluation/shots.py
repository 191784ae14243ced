"""Which demonstrations stand before a question: never the question itself, which would give its answer away.

Those that are drawn are drawn as lm-eval draws them, so that prompts are equal to its own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from earnest.data import splits
from earnest.evaluation.normal_forms import readable
from earnest.specs import UserError

Row = TypeVar("Row")
SEED = 1234
SHOTS_SPLIT = "train"
OWN_DEMONSTRATION = "own_demonstration"
Asked = TypeVar("Asked", bound=Mapping[str, Any])


@dataclass(frozen=True)
class Demonstrated(Generic[Asked]):
    """A row to ask, its demonstrations, and whether one of these had to go because it was the row's own question."""

    row: Asked
    shots: list[Asked]
    changed: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What is counted of it."""
        return (OWN_DEMONSTRATION,) if self.changed else ()


def other_shots(row: Asked, shots: Sequence[Asked], pool: Sequence[Asked], same: Sequence[str]) -> Demonstrated[Asked]:
    """The row after `shots`; in the place of one that asks the same, the next of the pool that does not, if there is
    one.

    Args:
        row: what is asked.
        shots: what would stand before it.
        pool: where others are taken from.
        same: the columns that tell whether two rows are one question.
    """
    own = _question_of(row, same)
    kept = [shot for shot in shots if _question_of(shot, same) != own]
    if len(kept) == len(shots):
        return Demonstrated(row, list(shots), changed=False)
    known = {own, *(_question_of(shot, same) for shot in kept)}
    spare = (other for other in pool if _question_of(other, same) not in known)
    found = next(spare, None)
    return Demonstrated(row, [*kept, *([found] if found is not None else [])], changed=True)


def _question_of(row: Mapping[str, Any], same: Sequence[str]) -> str:
    """What a row asks, to a reader's eye."""
    return repr([_seen(row[name]) for name in same])


def _seen(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    return [_seen(part) for part in value] if isinstance(value, list) else value


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
