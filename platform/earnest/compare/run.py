"""Compare two subjects, or every cell of a sweep with one of them: find the samples, pair them, judge them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from earnest.cells import jitter_floors, larger, noise_floors
from earnest.compare.cells import find_cell, rebatched_samples, stored_samples, stored_scores
from earnest.plan import Cell, Plan
from earnest.samples import Samples, match_up, open_samples
from earnest.specs import UserError
from earnest.statistics.versus import Matchup, Versus, judge
from earnest.store import Store

ALL = "all"


@dataclass
class _Found:
    """Matchups as they are found, what was decided before, and why others could not be made."""

    wanted: Sequence[str]
    matchups: list[Matchup] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    decided: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        a: Mapping[str, Samples],
        b: Mapping[str, Samples],
        name: str = "",
        noise: Mapping[str, float] | None = None,
    ) -> None:
        """Pair every task that is wanted."""
        for task in dict.fromkeys((*a, *b)):
            if self.wanted and task not in self.wanted:
                continue
            place = f"{name}: {task}" if name else task
            if task not in a or task not in b:
                self.skipped[place] = f"not there for {'A' if task not in a else 'B'}"
                continue
            stopped = {side: of[task].stopped for side, of in (("A", a), ("B", b)) if of[task].stopped}
            if stopped:
                self.decided[place] = "; ".join(f"{side} against dense: {said}" for side, said in stopped.items())
                continue
            try:
                self.matchups.append(match_up(a[task], b[task], name, (noise or {}).get(task)))
            except UserError as error:
                self.skipped[place] = str(error).removeprefix(f"{task}: ")

    def judged(self) -> list[Versus]:
        """All rows, as one family. Raises UserError where there are none."""
        if not self.matchups and not self.decided:
            reasons = "; ".join(f"{task}: {reason}" for task, reason in list(self.skipped.items())[:3])
            asked = f"task {', '.join(self.wanted)}" if self.wanted else "A and B"
            why = reasons or "no such task on either side; has the sweep been run into this store?"
            raise UserError(f"{asked}: nothing to compare ({why})")
        return judge(self.matchups)


def compare_paths(
    a: Path, b: Path, tasks: Sequence[str] = (), cluster: str | None = None
) -> tuple[list[Versus], dict[str, str]]:
    """Compare two files or folders of samples; also task -> why it is not among the rows:
    it could not be paired, or was decided before all questions were asked.

    Raises:
        UserError: a file cannot be read, or nothing pairs up.
    """
    found = _Found(tasks)
    found.add(open_samples(a, cluster), open_samples(b, cluster))
    return found.judged(), {**found.decided, **found.skipped}


def compare_cells(
    plan: Plan, store: Store, a: str, b: str, tasks: Sequence[str] = (), cluster: str | None = None
) -> tuple[list[Versus], dict[str, str]]:
    """Compare a sweep's cells by name; `all` for A takes every cell but B. Seeds of a cell give the noise floor.

    Raises:
        UserError: there is no such cell, or nothing pairs up.
    """
    against = find_cell(plan, b)
    theirs, scores = stored_samples(plan, store, against, cluster), stored_scores(plan, store)
    dense = plan.cells[0]
    again = rebatched_samples(plan, store, dense)
    jitter = jitter_floors(stored_samples(plan, store, dense) if again else {}, again)
    floors = larger(noise_floors(plan, against, scores), jitter)
    found = _Found(tasks)
    for cell in _cells(plan, a, against):
        noise = larger(noise_floors(plan, cell, scores), floors)
        found.add(stored_samples(plan, store, cell, cluster), theirs, _label(plan, cell) if a == ALL else "", noise)
    return found.judged(), {**found.decided, **found.skipped}


def _cells(plan: Plan, name: str, against: Cell) -> Iterator[Cell]:
    if name != ALL:
        yield find_cell(plan, name)
        return
    yield from (cell for cell in plan.cells if cell.key != against.key)


def _label(plan: Plan, cell: Cell) -> str:
    """A cell's name, with its seed or key where others share the name."""
    same: Iterable[Cell] = [other for other in plan.cells if other.name == cell.name]
    if len({other.method for other in same}) > 1:
        return f"{cell.name} {cell.key[:8]}"
    return f"{cell.name} seed {cell.seed}" if any(other.seed != cell.seed for other in same) else cell.name
