"""What papers claim, written as tests on sweeps' samples, and whether the tests together hold or refute it.

Every test of every claim is judged as one family, as `earnest compare` judges its rows. A claim holds where all of its
tests are shown, fails where one is refuted, and is not decided in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, TypeAdapter, model_validator

from earnest.compare.cells import find_cell
from earnest.compare.measures import stored_measure
from earnest.plan import Plan
from earnest.records import Estimate, Verdict
from earnest.samples import Samples, match_up
from earnest.specs import Spec, UserError, read_toml
from earnest.statistics.gaps import Headline, share_closed
from earnest.statistics.paired import Sums
from earnest.statistics.versus import Versus, judge
from earnest.store import Store

Ruling = Literal["held", "not held", "not decided"]
Expected = Literal["worse", "better", "kept", "gap closed"]
GAP: Expected = "gap closed"
SHOWN: Mapping[Expected, tuple[Verdict, ...]] = {
    "worse": ("falls",),
    "better": ("rises",),
    "kept": ("matches", "no worse", "rises"),
}
REFUTED: Mapping[Expected, tuple[Verdict, ...]] = {
    "worse": ("matches", "no worse", "rises"),
    "better": ("matches", "falls"),
    "kept": ("falls",),
}


class Prediction(Spec):
    """One thing that a claim says of cell `a` against cell `b` of a sweep, both named as for `earnest compare`.

    `worse` and `better` are by more than 5 %, `kept` is no worse than that; `gap closed`: of the way from b to
    `target`, a goes at least `least`. `metric` is the task's headline, or another that its samples hold.
    """

    sweep: str
    a: str
    b: str = "dense"
    task: str
    metric: str | None = None
    expect: Expected
    target: str | None = None
    least: float = Field(default=0.5, gt=0)

    @model_validator(mode="after")
    def _target_where_there_is_a_gap(self) -> Self:
        if (self.expect == "gap closed") != (self.target is not None):
            raise ValueError(f"expect {self.expect!r}: a target belongs to 'gap closed', and to nothing else")
        return self


class Claim(Spec):
    """A paper's claim in one sentence, where it stands, and the tests that it must pass, all of them."""

    title: str
    says: str
    paper: str
    predictions: tuple[Prediction, ...] = Field(min_length=1)


class ClaimsFile(Spec):
    """A file of claims: the models, the sweeps' configurations (beside this file), what is claimed."""

    family: str
    sweeps: tuple[str, ...] = Field(min_length=1)
    claims: tuple[Claim, ...] = Field(min_length=1)


@dataclass(frozen=True)
class Tested:
    """A prediction with what was found: a comparison, or the share of a gap (None where no better target is shown)."""

    prediction: Prediction
    versus: Versus | None = None
    closed: Estimate | None = None

    @property
    def ruling(self) -> Ruling:
        """Whether what was predicted is shown, refuted or open."""
        expect = self.prediction.expect
        if self.versus is not None:
            verdict = self.versus.verdict
            return "held" if verdict in SHOWN[expect] else "not held" if verdict in REFUTED[expect] else "not decided"
        if self.closed is None or self.closed.low is None or self.closed.high is None:
            return "not decided"
        low, high, least = self.closed.low, self.closed.high, self.prediction.least
        return "held" if low >= least else "not held" if high < least else "not decided"


@dataclass(frozen=True)
class Ruled:
    """A claim with all of its tests."""

    claim: Claim
    tested: tuple[Tested, ...]

    @property
    def ruling(self) -> Ruling:
        """Held where every test is, not held where one is refuted."""
        rulings = {tested.ruling for tested in self.tested}
        return "not held" if "not held" in rulings else "not decided" if "not decided" in rulings else "held"


def read_claims(path: Path) -> ClaimsFile:
    """Claims from a TOML file. Raises UserError naming the file, the key, the value and the rule."""
    return read_toml(path, TypeAdapter(ClaimsFile), "file of claims; jobs/claims holds one")


def rule(claims: Sequence[Claim], sweeps: Mapping[str, tuple[Plan, Store]]) -> list[Ruled]:
    """Test every claim on the samples that the sweeps (by name) have in their stores.

    Raises:
        UserError: a sweep, a cell or a task is not there or not finished, or subjects were asked different questions.
    """
    every = [prediction for claim in claims for prediction in claim.predictions]
    compared = [prediction for prediction in every if prediction.expect != GAP]
    rows = iter(judge(match_up(_samples(one, one.a, sweeps), _samples(one, one.b, sweeps)) for one in compared))
    tested = iter([_closed(one, sweeps) if one.expect == GAP else Tested(one, next(rows)) for one in every])
    return [Ruled(claim, tuple(next(tested) for _ in claim.predictions)) for claim in claims]


def _samples(one: Prediction, cell: str, sweeps: Mapping[str, tuple[Plan, Store]]) -> Samples:
    if one.sweep not in sweeps:
        raise UserError(f"claims: no sweep {one.sweep!r} among {', '.join(sweeps)}; name its configuration in `sweeps`")
    plan, store = sweeps[one.sweep]
    return stored_measure(plan, store, find_cell(plan, cell), one.task, one.metric)


def _closed(one: Prediction, sweeps: Mapping[str, tuple[Plan, Store]]) -> Tested:
    base, reached, goal = (_samples(one, str(cell), sweeps) for cell in (one.b, one.a, one.target))
    if not base.prompts == reached.prompts == goal.prompts:
        raise UserError(f"{one.sweep}: {one.task}: {one.a}, {one.b} and {one.target} were asked different questions")
    known = ~np.isnan(base.above + reached.above + goal.above)
    start, end, aim = (Headline(Sums(s.above[known], s.below[known]), s.exponential) for s in (base, reached, goal))
    better = aim.value > start.value if base.higher_is_better else aim.value < start.value
    return Tested(one, closed=share_closed(start, end, aim) if better else None)
