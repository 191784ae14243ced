"""Who does what next with hundreds of workers and thousands of steps: the same pairs as the plain search, in little
time, and a makespan close to what is possible.
"""

import heapq
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from random import Random

from earnest.cluster.policy import Idle, assign, chain_costs, subject_of
from earnest.plan import COMPRESS, EVALUATE, Step


def searched(
    ready: Sequence[Step],
    idle: Sequence[Idle],
    chains: Mapping[str, float],
    places: Mapping[str, Collection[str]],
    held: Iterable[str],
) -> list[tuple[str, Step]]:
    """The pairs by definition: again and again the closest of all pairs; among equals the first step, the first worker.

    A step's subject is loaded in a worker (0), lies on its node (1), elsewhere (2), or others hold it (3).
    """
    pairs = []
    for kind in (COMPRESS, EVALUATE):
        steps = sorted((step for step in ready if step.kind == kind), key=lambda step: -chains[step.digest])
        workers = [worker for worker in idle if worker.kind == kind]
        busy = set(held)
        while steps and workers:
            kept = {worker.loaded for worker in workers}
            worker, step = min(
                ((worker, step) for step in steps for worker in workers),
                key=lambda pair: distance(pair[0], pair[1], places, busy | kept),
            )
            pairs.append((worker.name, step))
            busy.add(subject_of(step))
            workers.remove(worker)
            steps.remove(step)
    return pairs


def distance(worker: Idle, step: Step, places: Mapping[str, Collection[str]], others: Collection[str | None]) -> int:
    subject = subject_of(step)
    if step.kind == COMPRESS or worker.loaded == subject:
        return 0
    if subject in others:
        return 3
    return 1 if worker.node in places.get(subject, ()) else 2


def compress(name: str, cost: float) -> Step:
    return Step(COMPRESS, name, {"model_digest": "m"}, label=name, cost=cost)


def evaluate(name: str, subject: str | None, cost: float) -> Step:
    return Step(EVALUATE, name, {"model_digest": "m"}, () if subject is None else (subject,), subject, cost=cost)


def test_pairs_are_those_of_the_plain_search_whatever_the_state() -> None:
    random = Random(0)
    for _ in range(600):
        subjects = [f"c{n}" for n in range(random.randint(1, 5))]
        ready = [compress(f"d{n}", random.randint(1, 3)) for n in range(random.randint(0, 3))]
        ready += [
            evaluate(f"e{n}", random.choice([None, *subjects]), random.randint(1, 3))
            for n in range(random.randint(0, 12))
        ]
        random.shuffle(ready)
        nodes = [f"n{n}" for n in range(random.randint(1, 3))]
        idle = [
            Idle(f"w{n}", random.choice([COMPRESS, EVALUATE, EVALUATE]), random.choice(nodes),
                 random.choice([None, "m", *subjects]))
            for n in range(random.randint(0, 8))
        ]  # fmt: skip
        places = {one: set(random.sample(nodes, random.randint(0, len(nodes)))) for one in [*subjects, "m"]}
        held = set(random.sample(subjects, random.randint(0, len(subjects))))
        chains = chain_costs({step.digest: step for step in ready})
        assert assign(ready, idle, chains=chains, places=places, held=held) == searched(
            ready, idle, chains, places, held
        )


def test_time_grows_with_steps_and_workers_and_not_with_their_product() -> None:
    """Twice the steps and twice the workers take about twice as long; the search's time would grow eightfold."""
    small, large = (min(seconds_of(workers, steps) for _ in range(5)) for workers, steps in ((256, 5000), (512, 10000)))
    assert large < 5 * small


def seconds_of(workers: int, steps: int) -> float:
    ready = [evaluate(f"e{n}", f"c{n % 500}", 1.0 + n % 7) for n in range(steps)]
    idle = [Idle(f"w{n}", EVALUATE, f"n{n % 64}", f"c{n}" if n % 3 else None) for n in range(workers)]
    places = {f"c{n}": {f"n{(n + k) % 64}" for k in range(4)} for n in range(500)}
    chains = chain_costs({step.digest: step for step in ready})
    began = time.thread_time()
    assert len(assign(ready, idle, chains=chains, places=places)) == workers
    return time.thread_time() - began


def test_a_simulated_run_ends_within_a_twentieth_of_the_lower_bound() -> None:
    """Durations are skewed, a few steps are as long as hundreds of others, and a third of the workers is replaced."""
    for seed in range(2):
        random = Random(seed)
        steps = [compress(f"c{n}", random.lognormvariate(2, 1)) for n in range(40)]
        steps += [evaluate(f"e{n}", f"c{n % 40}", random.lognormvariate(1, 1.2)) for n in range(1500)]
        assert simulated(steps, 32, random) < 1.05 * lower_bound(steps, 32)


def lower_bound(steps: Sequence[Step], workers: int) -> float:
    """No run is shorter than its longest chain, nor than all of its work on all workers."""
    chains = chain_costs({step.digest: step for step in steps})
    return max(*chains.values(), sum(step.cost for step in steps) / workers)


def simulated(steps: Sequence[Step], count: int, random: Random) -> float:
    """When the last step ends, if a step takes its cost. A worker that leaves between two steps comes back empty, as
    another one on another node, of whichever kind is wanted.
    """
    chains, done, open_steps = chain_costs({s.digest: s for s in steps}), set[str](), {s.digest: s for s in steps}
    places: dict[str, set[str]] = {}
    free: list[tuple[str, str, str | None]] = [(f"w{n}", f"n{n % 8}", None) for n in range(count)]
    busy: list[tuple[float, int, tuple[str, str, str | None], Step]] = []
    now, made, leaves = 0.0, 0, set(random.sample(range(len(steps)), count // 3))
    while open_steps or busy:
        ready = [step for step in open_steps.values() if done.issuperset(step.needs)]
        for kind in (COMPRESS, EVALUATE):  # a worker takes either kind here: staffing is another question
            held = {worker[2] for _, _, worker, _ in busy if worker[2]}
            idle = [Idle(name, kind, node, loaded) for name, node, loaded in free]
            where = {worker[0]: worker for worker in free}
            mine = [step for step in ready if step.kind == kind]
            for name, step in assign(mine, idle, chains=chains, places=places, held=held):
                _, node, _ = where[name]
                free.remove(where[name])
                made += 1
                heapq.heappush(busy, (now + step.cost, made, (name, node, subject_of(step)), step))
                del open_steps[step.digest]
        now, number, worker, step = heapq.heappop(busy)
        done.add(step.digest)
        places.setdefault(step.digest if step.kind == COMPRESS else subject_of(step), set()).add(worker[1])
        free.append((f"again-{number}", f"n{number % 8}", None) if number in leaves else worker)
    return now
