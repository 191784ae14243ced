"""What pairs gain: a sweep's steered cells beside the same cells without the pair.

Pure, like the survey: table, figures and page draw what is computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from earnest.records import CellRecord, Estimate, Gain, Steered, TokenShift
from earnest.report.survey import Curve, Point, Survey, curves_of, figure_text, mean_of, spoken

USUAL_ALPHA = 1.0


@dataclass(frozen=True)
class AlphaLine:
    """One base under one pair: its score at each alpha, and under adaptive alpha where that was run."""

    pair: str
    base: CellRecord
    points: tuple[tuple[float, Estimate], ...]
    adaptive: Estimate | None

    @property
    def name(self) -> str:
        """The base, as in "magnitude 50%"."""
        return self.base.model if self.base.family == "dense" else self.base.base_label


@dataclass(frozen=True)
class Recovery:
    """One method's compressed bases without and with a pair: two curves over the same ratios."""

    without: Curve
    steered: Curve


@dataclass(frozen=True)
class Row:
    """One steered cell in one task, beside its base and the target; a score that is not fluent is None.

    Then, and where the base is not fluent, nothing is said of a gap either.
    """

    cell: CellRecord
    without: Estimate | None
    score: Estimate | None
    target: Estimate | None
    gap_closed: Estimate | None
    won_back: Estimate | None
    shift: TokenShift | None


@dataclass(frozen=True)
class Gains:
    """The steered cells of a survey, and the questions that the report asks of them."""

    survey: Survey

    @cached_property
    def cells(self) -> list[CellRecord]:
        """Every steered cell."""
        return [cell for cell in self.survey.cells if cell.steering is not None]

    @cached_property
    def tasks(self) -> list[str]:
        """The tasks that a pair was measured in, those first in which it closes a gap where dense is."""
        measured = [task for task in self.survey.tasks if any(task in cell.gains for cell in self.cells)]
        return sorted(measured, key=lambda task: -self._main_gap(task))

    def _main_gap(self, task: str) -> float:
        """How much the pair moves its usual base towards the target; tasks without a gap, and perplexity, come last."""
        gain = self.gain_of(self.main, task) if self.main else None
        if gain is None or gain.gap_closed is None or not self.survey.higher_is_better(task):
            return -1.0 if self.survey.higher_is_better(task) else -2.0
        return abs(gain.difference.value)

    @cached_property
    def main(self) -> CellRecord | None:
        """The sweep's dense model under its first pair at the alpha nearest the usual one."""
        dense = self.survey.dense
        found = [c for c in self.cells if c.gains and dense is not None and self.steering(c).base == dense.key]
        return min(found, key=self._unusual, default=None)

    def _unusual(self, cell: CellRecord) -> float:
        alpha = self.steering(cell).alpha
        return 2.0**30 if isinstance(alpha, str) else abs(alpha - USUAL_ALPHA)

    @staticmethod
    def steering(cell: CellRecord) -> Steered:
        """What steers a steered cell."""
        assert cell.steering is not None
        return cell.steering

    def base_of(self, cell: CellRecord) -> CellRecord | None:
        """The same cell without the pair."""
        return next((other for other in self.survey.plain if other.key == self.steering(cell).base), None)

    def score_of(self, model: str | None, task: str) -> Estimate | None:
        """The headline of a model as it is; None where it was not scored."""
        cells = (cell for cell in self.survey.plain if cell.family == "dense" and cell.model == model)
        return next((cell.scores[task].main for cell in cells if task in cell.scores), None)

    def rows(self, task: str) -> list[Row]:
        """Every steered cell that has the task."""
        return [self._row(cell, task) for cell in self.cells if task in cell.scores]

    def _row(self, cell: CellRecord, task: str) -> Row:
        base, gain = self.base_of(cell), self.gain_of(cell, task)
        return Row(
            cell=cell,
            without=_fluent(base, task),
            score=_fluent(cell, task),
            target=self.score_of(self.steering(cell).target, task),
            gap_closed=gain.gap_closed if gain else None,
            won_back=gain.won_back if gain else None,
            shift=cell.scores[task].token_shift,
        )

    def gain_of(self, cell: CellRecord, task: str) -> Gain | None:
        """What the pair gained in a task; None where the cell or its base is not fluent."""
        fluent = _fluent(cell, task) and _fluent(self.base_of(cell), task)
        return cell.gains.get(task) if fluent else None

    def alpha_lines(self, task: str) -> list[AlphaLine]:
        """Each base that a pair steers at several alphas; a base's own score stands at 0."""
        groups: dict[tuple[str, str], list[CellRecord]] = {}
        for cell in self.cells:
            if task in cell.scores and cell.scores[task].means_something:
                groups.setdefault((self.steering(cell).pair, self.steering(cell).base), []).append(cell)
        lines = [self._alpha_line(task, cells) for cells in groups.values()]
        return [line for line in lines if line is not None and len(line.points) > 2]

    def _alpha_line(self, task: str, cells: Sequence[CellRecord]) -> AlphaLine | None:
        base = self.base_of(cells[0])
        if base is None or task not in base.scores:
            return None
        fixed: dict[float, Estimate] = {0.0: base.scores[task].main}
        adaptive = None
        for cell in cells:
            alpha = self.steering(cell).alpha
            if isinstance(alpha, str):
                adaptive = cell.scores[task].main
            else:
                fixed[alpha] = cell.scores[task].main
        return AlphaLine(self.steering(cells[0]).pair, base, tuple(sorted(fixed.items())), adaptive)

    @cached_property
    def strengths(self) -> list[str]:
        """Each pair at each alpha under which compressed bases were run, as in "tuned α 1"."""
        steering = [self.steering(cell) for cell in self.cells if cell.family != "dense"]
        return list(dict.fromkeys(one.label for one in steering if one.alpha != 0))

    def recoveries(self, strength: str) -> list[Recovery]:
        """Each method's curve without and with a pair at one alpha; only ratios that were run both ways."""
        steered = [c for c in self.cells if c.family != "dense" and self.steering(c).label == strength]
        bases = {self.steering(cell).base for cell in steered}
        without = {curve.name: curve for curve in curves_of([c for c in self.survey.compressed if c.key in bases])}
        pairs = [(without.get(curve.name.removesuffix(f" + {strength}")), curve) for curve in curves_of(steered)]
        return [Recovery(base, curve) for base, curve in pairs if base is not None]

    def share(self, point: Point, task: str) -> Estimate | None:
        """The gap closed at one ratio, of a pair without a target what is won back; the mean of its seeds.

        None where a seed has none.
        """
        gains = [(self.gain_of(cell, task), self.steering(cell).target) for cell in point.cells]
        shares = [gain.gap_closed if target else gain.won_back for gain, target in gains if gain is not None]
        known = [share for share in shares if share is not None]
        return mean_of(known) if known and len(known) == len(point.cells) else None

    def dense_under(self, strength: str) -> CellRecord | None:
        """The sweep's dense model under a pair at one alpha."""
        dense = self.survey.dense
        found = (c for c in self.cells if dense is not None and self.steering(c).base == dense.key)
        return next((cell for cell in found if self.steering(cell).label == strength), None)

    @cached_property
    def shifts(self) -> list[tuple[str, TokenShift]]:
        """Which words the pair changes on the main cell, by task."""
        scores = self.main.scores if self.main else {}
        return [(task, shift) for task in self.tasks if task in scores and (shift := scores[task].token_shift)]

    @cached_property
    def finding(self) -> str | None:
        """What the pair does for the dense model, in one line; None where nothing is steered or no gap is closed."""
        task = next(iter(self.tasks), None)
        if self.main is None or task is None or task not in self.main.gains:
            return None
        row, headline = self._row(self.main, task), self.survey.headline(task)
        if row.without is None or row.score is None or row.gap_closed is None:
            return None
        scores = " → ".join(figure_text(estimate.value, headline) for estimate in (row.without, row.score))
        gap = f"{row.gap_closed.value:.0%} of the gap to {self.steering(self.main).target} closed"
        return f"{self.main.model} + {self.steering(self.main).label}: {spoken(task)} {scores}, {gap}"


def _fluent(cell: CellRecord | None, task: str) -> Estimate | None:
    """A cell's headline; None where it has none, or is not fluent."""
    scores = cell.scores.get(task) if cell else None
    return scores.main if scores and scores.means_something else None
