"""Plans for the tests of the cluster, and what a run of one left behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.runners import work
from earnest.cluster.driver import Outcome, run_plan
from earnest.cluster.events import Event
from earnest.plan import COMPRESS, EVALUATE, Plan, Step
from earnest.records import digest
from earnest.specs import Cluster
from earnest.store import Store

RUNNER = "cluster.runners:work"


def compress(name: str, cost: float = 1.0, **how: str) -> Step:
    """A compress step named `name`."""
    spec = {"kind": COMPRESS, "name": name, "model_digest": "m"}
    return Step(COMPRESS, digest(spec), spec, location=dict(how), label=f"compress tiny {name}", cost=cost)


def evaluate(task: str, of: Step | None = None, reference: Step | None = None, cost: float = 1.0, **how: str) -> Step:
    """An evaluate step of the task `task` on the checkpoint of `of`, or on the dense model."""
    checkpoint = None if of is None else of.digest
    against = None if reference is None else reference.digest
    spec = {"kind": EVALUATE, "task": task, "checkpoint": checkpoint, "reference": against, "model_digest": "m"}
    needs = tuple(need for need in (checkpoint, against) if need is not None)
    where = {"model_name": "tiny", **how}
    return Step(EVALUATE, digest(spec), spec, needs, checkpoint, against, where, f"evaluate {task}", cost)


def plan_of(steps: Iterable[Step]) -> Plan:
    """A plan of these steps, in this order."""
    return Plan("tests", {step.digest: step for step in steps}, ())


def small_sweep(methods: int = 2, tasks: int = 2, **how: str) -> list[Step]:
    """Compressions, the tasks on each, and the same tasks on the dense model."""
    made = [compress(f"method-{number}", **how) for number in range(methods)]
    dense = [evaluate(f"task-{task}", **how) for task in range(tasks)]
    return [*dense, *made, *(evaluate(f"task-{task}", of, **how) for of in made for task in range(tasks))]


@dataclass
class Traced:
    """A store and the trace of a run into it."""

    store: Store
    trace: Path
    events: list[Event] = field(default_factory=list)
    tell: Callable[[Event], object] = lambda _: None

    def run(self, steps: Iterable[Step], **spec: Any) -> Outcome:
        """Run the steps on the Ray that is connected, noting all events."""
        located = [replace(step, location={**step.location, "trace": str(self.trace)}) for step in steps]
        return run_plan(plan_of(located), self.store, Cluster(**spec), on_event=self._note, runner=RUNNER)

    def _note(self, event: Event) -> None:
        self.events.append(event)
        self.tell(event)

    def run_alone(self, steps: Iterable[Step]) -> None:
        """Run the steps in this process, one after the other."""
        for step in steps:
            located = replace(step, location={**step.location, "trace": str(self.trace)})
            work(located, self.store, "cpu", lambda _: None)

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def times(self, step: Step) -> int:
        """How often a step was run."""
        path = self.trace / step.digest
        return len(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else 0

    def contents(self) -> dict[str, str]:
        """All files of the steps' folders by sha256, also what should not lie there; run.json is circumstance."""
        root = Path(self.store.root)
        files = [path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "run.json"]
        return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
