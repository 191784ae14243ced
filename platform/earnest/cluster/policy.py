"""Who does what next: a pure function of the ready steps and the idle workers. Nothing here knows Ray.

Three rules, in this order. No worker idles while a ready step fits it. A worker prefers the subject that it holds
loaded, then a checkpoint that lies on its node, then one that no other worker holds. Among equals the step at the
head of the longest chain of work goes first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from earnest.plan import COMPRESS, EVALUATE, Kind, Step


@dataclass(frozen=True)
class Idle:
    """A worker waiting for work; `loaded` is the subject it evaluated last and still holds."""

    name: str
    kind: Kind
    node: str
    loaded: str | None = None


@dataclass(frozen=True)
class Staff:
    """Workers of one kind, and what awaits them.

    `ready`: steps that could start now; `cost`: relative work of all its steps that are not finished;
    `most`: how many workers of the kind are allowed at a time.
    """

    kind: Kind
    ready: int
    cost: float
    idle: int
    starting: int
    working: int
    most: int

    @property
    def present(self) -> int:
        """All workers of the kind, whatever they do."""
        return self.idle + self.starting + self.working

    @property
    def wants_more(self) -> bool:
        """Whether there is a ready step that no present worker is free to take."""
        return self.ready > self.idle + self.starting and self.present < self.most


def subject_of(step: Step) -> str:
    """What a worker has loaded after the step: a checkpoint's digest, or the dense model's."""
    return step.checkpoint or str(step.spec.get("model_digest", ""))


def chain_costs(steps: Mapping[str, Step]) -> dict[str, float]:
    """Each step's cost plus the costliest chain of steps that waits for it.

    `steps` come in any order; a need outside of them is left out.
    """
    waiting: dict[str, list[str]] = {digest: [] for digest in steps}
    for step in steps.values():
        for need in step.needs:
            if need in waiting:
                waiting[need].append(step.digest)
    costs: dict[str, float] = {}
    for digest in reversed(_needs_first(steps)):
        costs[digest] = steps[digest].cost + max((costs[later] for later in waiting[digest]), default=0.0)
    return costs


def _needs_first(steps: Mapping[str, Step]) -> list[str]:
    order: dict[str, None] = {}
    stack = list(steps)[::-1]
    while stack:
        digest = stack[-1]
        unmet = [need for need in steps[digest].needs if need in steps and need not in order]
        if unmet:
            stack.extend(unmet)
        else:
            order.setdefault(stack.pop())
    return list(order)


def assign(
    ready: Sequence[Step],
    idle: Sequence[Idle],
    *,
    chains: Mapping[str, float],
    places: Mapping[str, Collection[str]],
    held: Iterable[str] = (),
) -> list[tuple[str, Step]]:
    """Give ready steps to idle workers.

    Args:
        ready: steps whose needs are all met.
        idle: workers without work.
        chains: `chain_costs` of the whole plan.
        places: subject -> the nodes on which it lies.
        held: subjects that busy workers hold loaded.

    Returns:
        (worker's name, step) pairs; each worker and each step at most once, as many as fit.
    """
    pairs: list[tuple[str, Step]] = []
    for kind in (COMPRESS, EVALUATE):
        steps = sorted((step for step in ready if step.kind == kind), key=lambda step: -chains[step.digest])
        workers = [worker for worker in idle if worker.kind == kind]
        busy = set(held)
        while steps and workers:
            worker, step = _best_pair(workers, steps, places, busy)
            pairs.append((worker.name, step))
            busy.add(subject_of(step))
            workers.remove(worker)
            steps.remove(step)
    return pairs


def _best_pair(
    workers: Sequence[Idle], steps: Sequence[Step], places: Mapping[str, Collection[str]], busy: Collection[str]
) -> tuple[Idle, Step]:
    """The pair of the lowest distance; among equals the first step, then the first worker."""
    kept = {worker.loaded for worker in workers if worker.loaded is not None}
    pairs = ((worker, step) for step in steps for worker in workers)
    return min(pairs, key=lambda pair: _distance(pair[0], pair[1], places, busy, kept))


def _distance(
    worker: Idle, step: Step, places: Mapping[str, Collection[str]], busy: Collection[str], kept: Collection[str]
) -> int:
    """How far a step's subject lies from a worker: 0 loaded, 1 on its node, 2 elsewhere, 3 others hold it."""
    if step.kind == COMPRESS:
        return 0
    subject = subject_of(step)
    if worker.loaded == subject:
        return 0
    if subject in busy or subject in kept:
        return 3
    return 1 if worker.node in places.get(subject, ()) else 2


def next_hire(compress: Staff, evaluate: Staff) -> Kind | None:
    """Which kind of worker to start where a slot is free; None if no ready step wants one.

    Compressors come first because they unblock evaluations; after one of each, slots go by the work that remains.
    """
    wanting = [staff for staff in (compress, evaluate) if staff.wants_more]
    if not wanting:
        return None
    return min(wanting, key=_crowding).kind


def _crowding(staff: Staff) -> float:
    """Workers per remaining work if one more came; nothing at all while there is none of the kind."""
    return (staff.present + 1) / max(staff.cost, 1e-9) if staff.present else 0.0


def next_dismissal(compress: Staff, evaluate: Staff) -> Kind | None:
    """Which kind has an idle worker to give up where no slot is free, so that the other kind can start one."""
    for staff, other in ((compress, evaluate), (evaluate, compress)):
        if staff.idle and not staff.ready and other.wants_more:
            return staff.kind
    return None
