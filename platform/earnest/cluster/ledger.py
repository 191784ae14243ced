"""The state of every step of a running plan: open, running, in the store, set aside or blocked. Pure bookkeeping."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from earnest.plan import Plan, Step

if TYPE_CHECKING:
    from earnest.steps import StepSummary

# A worker may die before the step it was given begins: no fault of the step, but not without end either.
LOSSES_PER_ATTEMPT = 3


@dataclass(frozen=True)
class Outcome:
    """How a plan ended.

    `done`: steps run now, with their summaries; `cached`: steps found in the store; `failed`: steps set aside, with
    the reason; `blocked`: steps that need one of those, with the reason. Every step of the plan is in exactly one.
    """

    done: dict[str, StepSummary] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every step's output is in the store."""
        return not self.failed and not self.blocked


class Ledger:
    """Which steps of `plan` remain, given the digests that the store has. `attempts`: how often one step may run."""

    def __init__(self, plan: Plan, cached: Collection[str], attempts: int) -> None:
        unknown = [need for step in plan.steps.values() for need in step.needs if need not in plan.steps]
        if unknown:
            raise ValueError(f"the plan of {plan.sweep} needs step {unknown[0]}, which it does not have")
        self.plan = plan
        self.outcome = Outcome(cached=set(cached))
        self._attempts = attempts
        self._running: set[str] = set()
        self._runs: Counter[str] = Counter()
        self._losses: Counter[str] = Counter()
        self._elsewhere: dict[str, Step] = {}
        self._reopened: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """How many steps the plan has."""
        return len(self.plan.steps)

    @property
    def finished(self) -> int:
        """How many steps will not run (again)."""
        outcome = self.outcome
        return len(outcome.done) + len(outcome.cached) + len(outcome.failed) + len(outcome.blocked)

    def is_stored(self, digest: str) -> bool:
        """Whether a step's output is known to be in the store."""
        return digest in self.outcome.done or digest in self.outcome.cached

    @property
    def stored(self) -> set[str]:
        """The digests of the steps whose output is known to be in the store."""
        return self.outcome.cached | self.outcome.done.keys()

    def remaining(self) -> list[Step]:
        """Steps that are open or running, in the plan's order."""
        settled = self.outcome.failed.keys() | self.outcome.blocked.keys()
        return [s for s in self.plan.steps.values() if not self.is_stored(s.digest) and s.digest not in settled]

    def ready(self) -> list[Step]:
        """Open steps whose needs are all in the store, in the plan's order."""
        taken = self._running | self._elsewhere.keys()
        still = [step for step in self.remaining() if step.digest not in taken]
        return [step for step in still if all(map(self.is_stored, step.needs))]

    def begin(self, step: Step) -> None:
        """The step was given to a worker."""
        self._running.add(step.digest)

    def leave(self, step: Step) -> None:
        """Another driver runs the step."""
        self._elsewhere[step.digest] = step

    def elsewhere(self) -> list[Step]:
        """The steps that other drivers run."""
        return list(self._elsewhere.values())

    def finish(self, step: Step, summary: StepSummary) -> None:
        """The step's output is in the store."""
        self._running.discard(step.digest)
        self.outcome.done[step.digest] = summary

    def find(self, step: Step) -> None:
        """The step's output is in the store, by another driver, or by a worker that did not live to say so."""
        self._running.discard(step.digest)
        self._elsewhere.pop(step.digest, None)
        self.outcome.cached.add(step.digest)

    def put_back(self, step: Step) -> None:
        """The step goes back to the open ones; this attempt does not count."""
        self._running.discard(step.digest)
        self._elsewhere.pop(step.digest, None)

    def may_run_again(self, step: Step, *, began: bool) -> bool:
        """Count an attempt that came to nothing. False once the step has used all of its attempts."""
        self._running.discard(step.digest)
        counter, limit = (self._runs, 1) if began else (self._losses, LOSSES_PER_ATTEMPT)
        counter[step.digest] += 1
        return counter[step.digest] < self._attempts * limit

    def runs(self, step: Step) -> int:
        """How often the step ran to no avail."""
        return self._runs[step.digest]

    def may_reopen(self, digest: str) -> bool:
        """Whether a stored output that turned out corrupt or gone may be made (once more)."""
        return self._reopened[digest] < self._attempts

    def reopen(self, digest: str) -> Step:
        """A stored output is corrupt or gone: its step is open again."""
        self._reopened[digest] += 1
        self.outcome.done.pop(digest, None)
        self.outcome.cached.discard(digest)
        return self.plan.steps[digest]

    def set_aside(self, step: Step, reason: str) -> None:
        """The step failed for good."""
        self._running.discard(step.digest)
        self.outcome.failed[step.digest] = reason

    def block_unreachable(self) -> list[Step]:
        """Block the open steps that need, directly or not, one that was set aside. Returns the newly blocked."""
        blocked: list[Step] = []
        while found := {s.digest: why for s in self.remaining() if (why := self._why_unreachable(s)) is not None}:
            self.outcome.blocked.update(found)
            blocked += [self.plan.steps[digest] for digest in found]
        return blocked

    def _why_unreachable(self, step: Step) -> str | None:
        if step.digest in self._running:
            return None
        for need in step.needs:
            if need in self.outcome.failed:
                return f"needs {self.plan.steps[need].label}, which was set aside: {self.outcome.failed[need]}"
            if need in self.outcome.blocked:
                return self.outcome.blocked[need]
        return None
