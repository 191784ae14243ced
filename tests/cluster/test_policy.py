"""Who does what next, without a cluster."""

from collections.abc import Mapping
from random import Random

from cluster.plans import compress, evaluate
from earnest.cluster.policy import Idle, Staff, assign, chain_costs, next_dismissal, next_hire
from earnest.plan import COMPRESS, EVALUATE, Kind, Step


def pairs(
    ready: list[Step], idle: list[Idle], places: Mapping[str, set[str]] | None = None, held: tuple[str, ...] = ()
) -> dict[str, Step]:
    chains = chain_costs({step.digest: step for step in ready})
    return dict(assign(ready, idle, chains=chains, places=places or {}, held=held))


def staff(kind: Kind, ready: int = 0, cost: float = 1.0, idle: int = 0, starting: int = 0, working: int = 0) -> Staff:
    return Staff(kind, ready, cost, idle, starting, working, most=8)


def test_a_chain_costs_what_waits_for_its_head_too() -> None:
    dense = evaluate("perplexity", cost=3)
    made = compress("wanda", cost=2)
    against = evaluate("perplexity", made, dense, cost=3)
    other = evaluate("biography", made, cost=6)
    steps = {step.digest: step for step in (against, other, dense, made)}
    assert chain_costs(steps) == {dense.digest: 6, made.digest: 8, against.digest: 3, other.digest: 6}


def test_long_steps_go_first_and_ties_keep_the_plans_order() -> None:
    steps = [evaluate("a", cost=2), evaluate("b", cost=8), evaluate("c", cost=8)]
    idle = [Idle("w1", EVALUATE, "n"), Idle("w2", EVALUATE, "n")]
    assert pairs(steps, idle) == {"w1": steps[1], "w2": steps[2]}


def test_a_worker_stays_with_the_subject_that_it_holds() -> None:
    here, there = compress("here"), compress("there")
    long, short = evaluate("long", there, cost=9), evaluate("short", here, cost=1)
    assert pairs([long, short], [Idle("w", EVALUATE, "n", loaded=here.digest)]) == {"w": short}


def test_a_checkpoint_is_evaluated_where_it_lies() -> None:
    first, second = compress("first"), compress("second")
    steps = [evaluate("task", first), evaluate("task", second)]
    idle = [Idle("w1", EVALUATE, "n1"), Idle("w2", EVALUATE, "n2")]
    places = {first.digest: {"n2"}, second.digest: {"n1"}}
    assert pairs(steps, idle, places) == {"w1": steps[1], "w2": steps[0]}


def test_a_subject_that_another_worker_holds_is_left_to_it_while_there_is_other_work() -> None:
    held, free = compress("held"), compress("free")
    steps = [evaluate("long", held, cost=9), evaluate("short", free)]
    idle = [Idle("w", EVALUATE, "n")]
    assert pairs(steps, idle, held=(held.digest,)) == {"w": steps[1]}
    assert pairs(steps[:1], idle, held=(held.digest,)) == {"w": steps[0]}


def test_kinds_do_not_mix() -> None:
    steps = [compress("c", cost=9), evaluate("e")]
    assert pairs(steps, [Idle("w", EVALUATE, "n")]) == {"w": steps[1]}
    assert pairs(steps[:1], [Idle("w", EVALUATE, "n")]) == {}


def test_no_worker_idles_while_a_step_fits_it() -> None:
    """Of each kind as many pairs as the smaller of workers and steps, and nothing twice, whatever the state."""
    random = Random(0)
    for _ in range(200):
        made = [compress(f"m{n}", cost=random.randint(1, 9)) for n in range(random.randint(0, 4))]
        tasks = [evaluate(f"t{n}", random.choice([None, *made])) for n in range(random.randint(0, 6))]
        subjects = [None, "m", *(step.digest for step in made)]
        idle = [
            Idle(f"w{n}", random.choice([COMPRESS, EVALUATE]), f"n{n % 2}", random.choice(subjects))
            for n in range(random.randint(0, 6))
        ]
        places = {step.digest: {f"n{random.randint(0, 2)}"} for step in made}
        given = assign([*made, *tasks], idle, chains=chain_costs({s.digest: s for s in [*made, *tasks]}), places=places)
        assert len({name for name, _ in given}) == len({step.digest for _, step in given}) == len(given)
        for kind, steps in ((COMPRESS, made), (EVALUATE, tasks)):
            fits = min(len(steps), sum(worker.kind == kind for worker in idle))
            assert sum(step.kind == kind for _, step in given) == fits


def test_two_slots_get_one_worker_of_each_kind_and_compressors_come_first() -> None:
    assert next_hire(staff(COMPRESS, ready=26, cost=90), staff(EVALUATE, ready=7, cost=500)) == COMPRESS
    assert next_hire(staff(COMPRESS, ready=26, cost=90, starting=1), staff(EVALUATE, ready=7, cost=500)) == EVALUATE


def test_eight_slots_are_shared_by_the_work_that_remains() -> None:
    count = {COMPRESS: 0, EVALUATE: 0}
    for _ in range(8):
        kind = next_hire(
            staff(COMPRESS, ready=30, cost=100, starting=count[COMPRESS]),
            staff(EVALUATE, ready=30, cost=300, starting=count[EVALUATE]),
        )
        assert kind is not None
        count[kind] += 1
    assert count == {COMPRESS: 2, EVALUATE: 6}


def test_nobody_is_hired_for_work_that_an_idle_or_starting_worker_will_take() -> None:
    assert next_hire(staff(COMPRESS, ready=1, idle=1), staff(EVALUATE, ready=2, starting=2)) is None


def test_an_idle_worker_makes_room_only_for_work_that_waits() -> None:
    nothing_left, much = staff(COMPRESS, idle=1), staff(EVALUATE, ready=5, working=1)
    assert next_dismissal(nothing_left, much) == COMPRESS
    assert next_dismissal(nothing_left, staff(EVALUATE, working=1)) is None
    assert next_dismissal(staff(COMPRESS, ready=3, working=1), staff(EVALUATE, idle=1)) == EVALUATE
