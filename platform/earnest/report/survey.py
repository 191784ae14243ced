"""A sweep's cells seen as a whole: the dense model, the curves, what each metric claims, and the finding in words.

What pairs gain is seen by `gains`; here steered cells stand in the list of all cells only. Pure: figures, table and
page all draw what is computed here, so they cannot disagree.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from statistics import fmean

from earnest.records import CellRecord, Estimate, Scores, digest
from earnest.statistics.paired import MATCHING

CONTROLS = ("random",)
MINUS = "−"
FAILED = "failed"
NO_SHARES = frozenset({"judge_score", "bits_per_byte", "bleu", "chrf", "ter"})


@dataclass(frozen=True)
class Point:
    """One ratio of one curve: its cells differ in nothing but the seed."""

    cells: tuple[CellRecord, ...]

    @property
    def nominal(self) -> str:
        """What was asked, as in "50%"."""
        return self.cells[0].nominal

    @property
    def saved(self) -> float:
        """Share of bytes saved, the mean of the seeds."""
        return fmean(cell.saved for cell in self.cells)

    @property
    def harshness(self) -> float:
        """What was asked as a number that grows with compression: sparsity, or bits below 16."""
        cell = self.cells[0]
        return cell.nominal_sparsity if cell.nominal_sparsity is not None else 16.0 - (cell.nominal_bits or 16)

    def score(self, task: str) -> Estimate | None:
        """The task's headline; of several seeds the mean value, with the mean of their intervals' ends.

        None where the task was not scored, or where a seed is not fluent.
        """
        if not self.is_fluent(task):
            return None
        found = [cell.scores[task].main for cell in self.cells if task in cell.scores]
        return mean_of(found) if found else None

    def relative(self, task: str) -> float | None:
        """The headline's relative change against dense, the mean of the seeds; None where a seed is not fluent."""
        if not self.is_fluent(task):
            return None
        comparisons = [cell.comparisons[task].relative for cell in self.cells if task in cell.comparisons]
        found = [relative for relative in comparisons if relative is not None]
        return fmean(found) if found else None

    def no_worse(self, task: str) -> bool:
        """Whether every seed is fluent and shown to be no more than 5 % worse than dense."""
        found = [task in cell.comparisons and cell.comparisons[task].no_worse for cell in self.cells]
        return all(found) and self.is_fluent(task)

    def falls(self, task: str) -> bool:
        """Whether every seed is shown to be more than 5 % worse than dense, or one is not fluent."""
        found = [task in cell.comparisons and cell.comparisons[task].falls for cell in self.cells]
        return all(found) or not self.is_fluent(task)

    def is_measured(self, task: str) -> bool:
        """Whether every seed has a score that was compared with dense."""
        return all(task in cell.comparisons for cell in self.cells)

    def is_fluent(self, task: str) -> bool:
        """Whether every seed that was scored is fluent."""
        return all(cell.scores[task].means_something for cell in self.cells if task in cell.scores)


@dataclass(frozen=True)
class Curve:
    """The points of one method and its options, in order of bytes saved."""

    name: str
    method: str
    family: str
    is_pattern: bool
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Claim:
    """How far along a curve a metric still matches dense.

    `shown` is the last point to which every one is shown to be no more than 5 % worse, `undecided` the last one before
    the first that is shown to be more; None where there is none. Both end before a ratio that is `unmeasured`.
    """

    task: str
    shown: Point | None
    undecided: Point | None
    unmeasured: str | None = None

    @property
    def saved(self) -> float:
        """Share of bytes saved at the last point that is shown; 0 when there is none."""
        return self.shown.saved if self.shown else 0.0

    @property
    def at_most(self) -> float:
        """Share of bytes saved at the last point that is not shown to fall."""
        return self.undecided.saved if self.undecided else 0.0

    @property
    def ratios(self) -> str:
        """As in "20%", "20% (40%?)", "none (30%?)" or "none": in brackets what is not decided.

        Where the next ratio was not measured: "20%, 30% not measured".
        """
        gap = "" if self.unmeasured is None else f"{self.unmeasured.split(' g')[0]} not measured"
        if gap and self.undecided is None:
            return gap
        shown, end = (point.nominal.split(" g")[0] if point else "none" for point in (self.shown, self.undecided))
        return ", ".join(filter(None, (shown if shown == end else f"{shown} ({end}?)", gap)))


@dataclass(frozen=True)
class Survey:
    """All cells of a sweep, and the questions that the report asks of them."""

    cells: tuple[CellRecord, ...]

    @cached_property
    def plain(self) -> list[CellRecord]:
        """The cells that nothing steers."""
        return [cell for cell in self.cells if cell.steering is None]

    @cached_property
    def compressed(self) -> list[CellRecord]:
        """The cells that are not a model as it is."""
        return [cell for cell in self.plain if cell.family != "dense"]

    @cached_property
    def dense(self) -> CellRecord | None:
        """The model that all others are compared with."""
        models = [cell.model for cell in [*self.compressed, *self.plain]]
        return next((cell for cell in self.plain if cell.family == "dense" and cell.model == models[0]), None)

    @cached_property
    def references(self) -> list[CellRecord]:
        """Other models as they are, to stand beside."""
        return [cell for cell in self.plain if cell.family == "dense" and cell is not self.dense]

    @cached_property
    def dtypes(self) -> list[str]:
        """What the cells compute in, each once."""
        return list(dict.fromkeys(cell.dtype for cell in self.cells if cell.dtype))

    @cached_property
    def tasks(self) -> list[str]:
        """Every task that any cell scored, in the sweep's order; first those where lower is better (perplexity), then
        those that tell fluent from true.
        """
        found = dict.fromkeys(task for cell in self.cells for task in [*cell.steps, *cell.scores])
        scored = [task for task in found if any(task in cell.scores for cell in self.cells)]
        return sorted(scored, key=lambda task: (self.higher_is_better(task), not self.tells_fluent(task)))

    def tells_fluent(self, task: str) -> bool:
        """Whether the task has a share of fluent statements beside its headline."""
        metrics = next(cell.scores[task].metrics for cell in self.cells if task in cell.scores)
        return "fluent" in metrics and self.headline(task) != "fluent"

    def heading(self, task: str) -> str:
        """The task's name over a column of its scores: "closed book", "biography: fluent → true"."""
        return spoken(task) + (f": fluent → {spoken(self.headline(task))}" if self.tells_fluent(task) else "")

    def higher_is_better(self, task: str) -> bool:
        """The task's direction."""
        return next(cell.scores[task].higher_is_better for cell in self.cells if task in cell.scores)

    def scale(self, task: str) -> float:
        """What a task's scores are drawn with: shares of which more is better as percent."""
        return 100.0 if self.higher_is_better(task) and is_share(self.headline(task)) else 1.0

    def headline(self, task: str) -> str:
        """The name of the task's headline metric."""
        return next(cell.scores[task].headline for cell in self.cells if task in cell.scores)

    def dense_score(self, task: str) -> Estimate | None:
        """The dense model's headline; None where it is not fluent."""
        scores = self.dense.scores.get(task) if self.dense else None
        return scores.main if scores and scores.means_something else None

    def not_fluent(self, task: str) -> list[CellRecord]:
        """The cells whose score in this task rests on almost no well-formed statements."""
        return [cell for cell in self.cells if task in cell.scores and not cell.scores[task].means_something]

    @cached_property
    def curves(self) -> list[Curve]:
        """Every method's curve, in the sweep's order; N:M patterns are curves of one point."""
        return curves_of(self.compressed)

    def claims(self, curve: Curve) -> list[Claim]:
        """Per task, how far along a curve it says that nothing was lost."""
        judged = [task for task in self.tasks if any(point.relative(task) is not None for point in curve.points)]
        unsized = curve_points([cell for cell in self.compressed if cell.curve == curve.name and cell.size is None])
        points = sorted((*curve.points, *unsized), key=lambda point: point.harshness) if unsized else curve.points
        return [_claim(task, points) for task in judged]

    def loss(self, cell: CellRecord, task: str) -> float | None:
        """How much worse than dense, relative: 0.24 is 24 % worse, whatever the task's direction.

        None where the cell or dense is not fluent: then the score says nothing.
        """
        if any(each in self.not_fluent(task) for each in (cell, self.dense)):
            return None
        relative = cell.comparisons[task].relative if task in cell.comparisons else None
        return relative if relative is None or not self.higher_is_better(task) else -relative

    def shown_loss(self, cell: CellRecord, task: str) -> float | None:
        """The loss where it is shown to be more than 5 %."""
        return self.loss(cell, task) if task in cell.comparisons and cell.comparisons[task].falls else None

    @cached_property
    def blind_spot(self) -> tuple[CellRecord, str, str] | None:
        """Where a perplexity is shown to match and a task, shown to fall, lost most: (cell, perplexity, task).

        Controls are left out.
        """
        lower = [task for task in self.tasks if not self.higher_is_better(task)]
        found = [
            (loss, cell, claimed, task)
            for cell in self.compressed
            for claimed in lower
            if cell.method not in CONTROLS and claimed in cell.comparisons and cell.comparisons[claimed].no_worse
            for task in self.tasks
            if task not in lower and (loss := self.shown_loss(cell, task)) is not None
        ]
        worst = max(found, key=lambda item: item[0], default=None)
        return None if worst is None else worst[1:]

    @cached_property
    def most_lost(self) -> str | None:
        """The task that tells most: that of the blind spot, or else the one with the largest loss anywhere."""
        if self.blind_spot:
            return self.blind_spot[2]
        tasks = [task for task in self.tasks if self.higher_is_better(task)]
        return max(tasks, key=self._largest_loss, default=None)

    def _largest_loss(self, task: str) -> float:
        return max((self.loss(cell, task) or 0.0 for cell in self.compressed), default=0.0)

    @cached_property
    def finding(self) -> str:
        """The sweep's finding in one line, computed from its cells: only what is shown is said."""
        if self.blind_spot:
            cell, claimed, task = self.blind_spot
            changes = (f"{spoken(name)} {percent_change(cell.comparisons[name].relative)}" for name in (claimed, task))
            return f"{cell.label}: " + ", ".join(changes)
        judged = [(cell, task) for cell in self.compressed for task in self.tasks if task in cell.comparisons]
        if not judged:
            nothing = (
                "Nothing is compared with dense yet" if self.unfinished else "Nothing was compared with a dense model"
            )
            return nothing if self.compressed else "The dense model alone"
        losses = [(loss, *each) for each in judged if (loss := self.shown_loss(*each)) is not None]
        if losses:
            _, cell, task = max(losses, key=lambda item: item[0])
            return f"{cell.label}: {spoken(task)} {percent_change(cell.comparisons[task].relative)}"
        matching = sum(cell.comparisons[task].no_worse for cell, task in judged)
        others = f"; {self.not_compared} more are not measured" if self.not_compared else ""
        if matching == len(judged) and not others:
            return f"Nothing lost more than {MATCHING:.0%}: every score is shown to match dense"
        shown = f"{matching} of {len(judged)} scores are shown to match{others}"
        return f"Nothing is shown to lose more than {MATCHING:.0%}; {shown}"

    @cached_property
    def unfinished(self) -> str:
        """What is still to be measured, as in "Not measured yet: 40 steps have not run, 2 are running."; else empty."""
        states = {
            cell.steps.get(name, f"{cell.key} {name}"): s for cell in self.cells for name, s in cell.waiting.items()
        }
        counts = Counter[str](states.values())
        parts = [
            f"{counts[state]} {singular if counts[state] == 1 else plural}"
            for state, singular, plural in (
                ("not run yet", "step has not run", "steps have not run"),
                ("running", "step is running", "steps are running"),
            )
            if counts[state]
        ]
        return f"Not measured yet: {', '.join(parts)}." if parts else ""

    @cached_property
    def not_compared(self) -> int:
        """How many scores of compressed cells are not there, or could not be compared with dense."""
        asked = ((cell, task) for cell in self.compressed for task in cell.steps if task != "compress")
        return sum(task not in cell.comparisons for cell, task in asked)

    @cached_property
    def failures(self) -> list[tuple[CellRecord, str, str]]:
        """Every step that failed: (cell, step, reason)."""
        return [(cell, step, reason) for cell in self.cells for step, reason in cell.failures.items()]


def computed_in(survey: Survey) -> str:
    """As in "Computed in float32."; empty where nobody knows."""
    return f"Computed in {' or '.join(survey.dtypes)}." if survey.dtypes else ""


def missing(cell: CellRecord, task: str) -> tuple[str, str]:
    """What stands where a cell has no score, and why: failed, running, not run yet, or – where it was not asked."""
    for step in (task, "compress"):
        if step in cell.failures:
            return FAILED, cell.failures[step]
    state = cell.waiting.get(task)
    return (state, state) if state else ("–", "not asked of this cell")


def spoken(task: str) -> str:
    """A task's name as read: "closed book"."""
    return task.replace("_", " ")


def percent_change(relative: float | None) -> str:
    """A relative change with its sign, short enough for a table: "−24%", "+4.1%", "0%"."""
    if relative is None:
        return ""
    percent = 100 * relative
    if abs(percent) >= 1000:
        return f"{'+' if percent > 0 else MINUS}{abs(percent) / 100:.0f}×"
    digits = 0 if abs(percent) >= 9.95 or abs(percent) < 0.05 else 1
    text = f"{abs(percent):.{digits}f}%"
    return text if float(text[:-1]) == 0 else ("+" if percent > 0 else MINUS) + text


def figure_text(value: float, headline: str, more: int = 0) -> str:
    """A score as people write it: shares as percent with one decimal, others with three, a judge's with two.

    `more` digits where these do not show what is to be told.
    """
    if headline == "judge_score":
        return f"{value:.{2 + more}f}"
    return f"{100 * value:.{1 + more}f}" if is_share(headline) else f"{value:.{3 + more}f}"


def is_share(headline: str) -> bool:
    """Whether a metric lies in 0..1 and is read as percent; perplexities, judges' and sacrebleu's do not."""
    return "perplexity" not in headline and headline not in NO_SHARES


def score_text(scores: Scores) -> str:
    """The headline as people write it; of statements with the share of fluent ones before it: "97.1 → 74.5"."""
    text, fluent = figure_text(scores.main.value, scores.headline), scores.metrics.get("fluent")
    return text if fluent is None or scores.headline == "fluent" else f"{figure_text(fluent.value, 'fluent')} → {text}"


def curves_of(cells: Sequence[CellRecord]) -> list[Curve]:
    """The curves of some compressed cells, in the cells' order; those without a size are left out."""
    sized = [cell for cell in cells if cell.size is not None]
    return [_curve(name, [c for c in sized if c.curve == name]) for name in dict.fromkeys(c.curve for c in sized)]


def _curve(name: str, cells: Sequence[CellRecord]) -> Curve:
    points = sorted(curve_points(cells), key=lambda point: point.saved)
    is_pattern = (cells[0].method_spec.get("pattern") or {}).get("kind") == "n:m"
    return Curve(name, cells[0].method, cells[0].family, is_pattern, tuple(points))


def curve_points(cells: Sequence[CellRecord]) -> list[Point]:
    """One point per ratio; cells that differ in nothing but the seed share one."""
    ratios: dict[str, list[CellRecord]] = {}
    for cell in cells:
        asked = {key: value for key, value in cell.method_spec.items() if key not in ("seed", "calibration")}
        ratios.setdefault(digest(asked), []).append(cell)
    return [Point(tuple(same)) for same in ratios.values()]


def _claim(task: str, points: Sequence[Point]) -> Claim:
    shown = takewhile(lambda point: point.no_worse(task), points)
    standing = list(takewhile(lambda point: point.is_measured(task) and not point.falls(task), points))
    beyond = points[len(standing)] if len(standing) < len(points) else None
    gap = beyond.nominal if beyond and not beyond.falls(task) else None
    return Claim(task, _last(shown), _last(standing), gap)


def _last(points: Iterable[Point]) -> Point | None:
    return next(reversed(list(points)), None)


def mean_of(found: Sequence[Estimate]) -> Estimate:
    """The mean of several seeds' estimates, with the mean of their intervals' ends."""
    lows, highs = ([end for e in found if (end := getattr(e, name)) is not None] for name in ("low", "high"))
    return Estimate(
        value=fmean(e.value for e in found),
        low=fmean(lows) if lows else None,
        high=fmean(highs) if highs else None,
        n=found[0].n,
    )
