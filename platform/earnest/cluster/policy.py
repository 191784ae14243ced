"""Who does what next: a pure function of the ready steps and the idle workers. Nothing here knows Ray.

Three rules, in this order. No worker idles while a ready step fits it. A worker prefers the subject that it holds
loaded, then a checkpoint that lies on its node, then one that no other worker holds. Among equals the step at the
head of the longest chain of work goes first.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
        workers = [worker for worker in idle if worker.kind == kind]
        if workers:
            steps = sorted((step for step in ready if step.kind == kind), key=lambda step: -chains[step.digest])
            pairs += _assign_compress(steps, workers) if kind == COMPRESS else _Pairing(workers, places, held).of(steps)
    return pairs


def _assign_compress(steps: Sequence[Step], workers: Sequence[Idle]) -> list[tuple[str, Step]]:
    return [(worker.name, step) for worker, step in zip(workers, steps, strict=False)]


class _Pairing:
    """Evaluators are paired with steps by how far a step's subject lies from them: loaded, on their node, elsewhere,
    held by others; within each, the first step gets the first worker.

    A pair once made brings no other pair closer: it only takes a worker away and makes its subject one that others
    hold. So each distance needs one pass over the steps.
    """

    def __init__(self, workers: Sequence[Idle], places: Mapping[str, Collection[str]], held: Iterable[str]) -> None:
        self._workers, self._places = workers, places
        self._busy = set(held)
        self._taken = [False] * len(workers)
        self._free = len(workers)
        self._all = deque(range(len(workers)))
        self._holding: defaultdict[str, deque[int]] = defaultdict(deque)
        self._on: defaultdict[str, deque[int]] = defaultdict(deque)
        for place, worker in enumerate(workers):
            self._on[worker.node].append(place)
            if worker.loaded is not None:
                self._holding[worker.loaded].append(place)

    def of(self, steps: Sequence[Step]) -> list[tuple[str, Step]]:
        """All pairs, the closest first."""
        pairs: list[tuple[str, Step]] = []
        for nearest in (self._that_holds, self._on_its_node, self._elsewhere, self._any):
            if not self._free:
                break
            steps = self._pass(steps, nearest, pairs)
        return pairs

    def _pass(
        self, steps: Sequence[Step], nearest: Callable[[str], int | None], pairs: list[tuple[str, Step]]
    ) -> list[Step]:
        """Pair the steps for which there is such a worker; returns the others."""
        left = []
        for step in steps:
            subject = subject_of(step)
            place = nearest(subject) if self._free else None
            if place is None:
                left.append(step)
                continue
            self._taken[place] = True
            self._free -= 1
            self._busy.add(subject)
            pairs.append((self._workers[place].name, step))
        return left

    def _that_holds(self, subject: str) -> int | None:
        return self._first(self._holding[subject]) if subject in self._holding else None

    def _on_its_node(self, subject: str) -> int | None:
        if subject in self._busy:
            return None
        queues = (self._on[node] for node in self._places.get(subject, ()) if node in self._on)
        return min((place for queue in queues if (place := self._first(queue)) is not None), default=None)

    def _elsewhere(self, subject: str) -> int | None:
        return None if subject in self._busy else self._any(subject)

    def _any(self, subject: str) -> int | None:
        del subject
        return self._first(self._all)

    def _first(self, queue: deque[int]) -> int | None:
        while queue and self._taken[queue[0]]:
            queue.popleft()
        return queue[0] if queue else None


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
