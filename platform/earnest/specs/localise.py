"""Where in a model a loss lies: which cells are evaluated again with one block at a time put back to dense."""

from __future__ import annotations

from pydantic import Field

from earnest.specs.frame import Spec


class Localise(Spec):
    """Evaluate compressed cells once more per decoder block, that block back at its dense weights.

    `cells` are names of methods ("wanda") or of cells ("wanda 50%"), `tasks` the labels of the sweep's tasks. Every
    cell costs as many further evaluations of a task as the model has blocks.
    """

    cells: tuple[str, ...] = Field(min_length=1)
    """Names of methods or of cells."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Labels of the sweep's tasks."""
