"""What every task has; the tasks themselves are in `tasks.py` and beside it."""

from __future__ import annotations

import operator
from typing import ClassVar, Self

from pydantic import Field, model_validator

from earnest.specs.frame import Spec


class Task(Spec):
    """What every task has. `data` is a path or hub id of the user's, or `nano` for the almanac's own questions.

    The latter is the default for `nano:` models, and for no other (`defaults`).
    """

    version: ClassVar[int] = 1
    bounded: ClassVar[bool] = False  # the headline is a mean of scores within 0..1, and asking some gives an idea of it
    headline: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    writes: ClassVar[bool] = True  # subjects write sentences for it, and do not only weigh what they are shown
    short_answers: ClassVar[bool] = False  # what is known of a question beforehand is looked at as a reason for a loss
    cost: ClassVar[float] = 2.0  # relative seconds, to start long steps first
    data: str = "nano"
    """A file, a folder, a saved dataset or a hub id; `nano` is the almanac's own questions."""
    split: str = "test"
    """Which split of the data is asked."""
    limit: int | None = Field(default=None, ge=1)
    """At most as many samples, the first of the split; all by default."""
    seed: int = Field(default=0, ge=0)
    """Draws demonstrations, and samples where texts are sampled."""
    columns: dict[str, str | tuple[str, ...]] = Field(
        default={},
        exclude_if=operator.not_,  # a task that maps none is named as ever
        description="Where the data's columns have other names: asked name -> column, column.field, or several columns",
    )

    @model_validator(mode="after")
    def _mapped_data(self) -> Self:
        if self.columns and self.data == "nano":
            raise ValueError("columns: the almanac's questions have the names that are asked for; leave it out")
        return self

    @property
    def label(self) -> str:
        """The task's name in tables, metrics and files; specs with the same label do not share a sweep."""
        return str(self.name or self.task)  # type: ignore[attr-defined]

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the task itself needs beside its subject: folders that workers reach, or hub ids."""
        return ()

    @property
    def places(self) -> dict[str, str]:
        """Fields beside `data` that say where something lies: workers are told them, digests cover what lies there."""
        return {}

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_.-]*$")
    """A name of its own, where one task stands twice in a sweep; the task's by default."""
