"""Carry a plan out on a cluster: what is in the store is not run again, what fails is set aside while the rest goes on.

The store is the ledger that outlives everything: a driver, a worker or a node may die at any moment, and the next run
takes up what is not published yet. Ray is not even imported when nothing is left to do.
"""

from __future__ import annotations

from earnest.cluster import events
from earnest.cluster.ledger import Ledger, Outcome
from earnest.plan import Kind, Plan
from earnest.specs import Cluster
from earnest.store import Leases, Store

__all__ = ["RUN_STEP", "Outcome", "run_plan"]

RUN_STEP = "earnest.steps:run_step"


def run_plan(
    plan: Plan,
    store: Store,
    spec: Cluster,
    *,
    address: str | None = None,
    on_event: events.OnEvent = lambda _: None,
    runner: str = RUN_STEP,
) -> Outcome:
    """Run every step of `plan` whose output is not in `store`.

    Args:
        plan: the steps and their needs.
        store: where outputs are and go; every worker must reach its root.
        spec: the workers to ask for, attempts per step, and the time-out of one.
        address: of a Ray cluster; None for that of the submitted job, or one of this machine.
        on_event: told everything that happens.
        runner: "module:function" with `steps.run_step`'s signature that workers run steps with.

    Returns:
        What ran, what was there, what failed and why, what was blocked by that.

    Raises:
        UserError: no cluster at the address, or one without room for the workers asked for.
    """
    store.refresh()
    store.forget_failures(plan.steps)
    on_event = _keeping_failures(store, on_event)
    ledger = Ledger(plan, stored(plan, store), spec.attempts)
    on_event(events.Planned(ledger.total, frozenset(ledger.outcome.cached)))
    if ledger.remaining():
        leases = store.leases()
        leases.start()
        try:
            _clear_abandoned(plan, store, leases)
            _run_remaining(ledger, store, leases, spec, address, on_event, runner)
        finally:
            _clear_abandoned(plan, store, leases)
            leases.end(ledger.stored)
            store.refresh()
    return ledger.outcome


def stored(plan: Plan, store: Store) -> set[str]:
    """The digests of the plan's steps whose output is in the store, whole."""
    return set[str]().union(*(store.intact(kind, digests) for kind, digests in _by_kind(plan).items()))


def damaged(plan: Plan, store: Store) -> dict[str, str]:
    """The digests of the plan's steps whose output is in the store, but not whole -> what is wrong with it."""
    return {d: why for kind, digests in _by_kind(plan).items() for d, why in store.damaged(kind, digests).items()}


def _by_kind(plan: Plan) -> dict[Kind, list[str]]:
    kinds = dict.fromkeys(step.kind for step in plan.steps.values())
    return {kind: [step.digest for step in plan.steps.values() if step.kind == kind] for kind in kinds}


def _keeping_failures(store: Store, tell: events.OnEvent) -> events.OnEvent:
    """Tell everything on, and keep in the store which steps failed and why."""

    def on_event(event: events.Event) -> None:
        if isinstance(event, events.StepSetAside | events.StepBlocked):
            store.note_failure(event.step.digest, event.reason)
        tell(event)

    return on_event


def _clear_abandoned(plan: Plan, store: Store, leases: Leases) -> None:
    others = leases.held_by_others()
    for kind in _by_kind(plan):
        store.clear_abandoned(kind, others)


def _run_remaining(
    ledger: Ledger,
    store: Store,
    leases: Leases,
    spec: Cluster,
    address: str | None,
    on_event: events.OnEvent,
    runner: str,
) -> None:
    from earnest.cluster.session import connected, head_address

    with connected(address) as where:
        # Only now: Ray reads its settings when it is imported.
        from earnest.cluster.capacity import living_nodes, room_for
        from earnest.cluster.head import watched
        from earnest.cluster.loop import Loop

        room = room_for(spec, living_nodes(), where)
        on_event(events.ClusterReady(where, room.slots, room.shape.gpus, room.shape.cpus))
        with watched(head_address(), on_lost=lambda: leases.end(ledger.stored)):
            Loop(ledger, store, leases, room, spec.step_timeout_s, runner, on_event).run()
