"""The loop that carries a plan out: staff, hand out, wait, settle. Imported after Ray's settings are made."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError

from earnest.cluster import events
from earnest.cluster.capacity import Room, living_nodes, slots_in
from earnest.cluster.crew import Crew, Member
from earnest.cluster.failures import cause_of, is_deterministic, is_out_of_memory, reason_of
from earnest.cluster.ledger import Ledger
from earnest.cluster.policy import Staff, assign, chain_costs, next_dismissal, next_hire, subject_of
from earnest.plan import COMPRESS, EVALUATE, Kind, Step
from earnest.store import Leases, Store

TICK_S = 0.5
LOOK_S = 2.0
# An idle evaluator waits this long for a checkpoint before it makes room for a compressor: a start costs about as much.
PATIENCE_S: dict[Kind, float] = {COMPRESS: 0.0, EVALUATE: 3.0}
# A worker that starts for longer may be waiting for a device that others hold: others are asked to do its work.
SLOW_START_S = 30.0
START_LIMIT_S = 900.0
# How long a cluster without room for a single worker is given to get its nodes back.
NO_ROOM_S = 60.0
# So many failed starts in a row per slot, with a pause after each wave, and the run ends with the reason.
START_FAILURES = 3
RESTART_PAUSE_S = 1.0


class Loop:
    """One run of the open steps of a ledger.

    Args:
        ledger: which steps remain.
        store: where outputs go.
        leases: this driver's, begun.
        room: the workers' shape and how many fit.
        step_timeout_s: how long one step may run.
        runner: what workers run steps with.
        on_event: told everything that happens.
    """

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        leases: Leases,
        room: Room,
        step_timeout_s: float,
        runner: str,
        on_event: events.OnEvent,
    ) -> None:
        self._ledger, self._store, self._leases, self._room, self._tell = ledger, store, leases, room, on_event
        self._step_timeout_s = step_timeout_s
        self._crew = Crew(room.shape, store.root, runner, leases.name)
        self._chains = chain_costs(ledger.plan.steps)
        self._places: defaultdict[str, set[str]] = defaultdict(set)
        self._slots = room.slots
        self._out_of_memory: set[str] = set()
        self._failed_starts = 0
        self._listened = self._looked = self._had_room = self._failed_start_at = time.monotonic()

    def run(self) -> None:
        """Run until every step is in the store, set aside or blocked."""
        try:
            while self._ledger.remaining():
                self._hand_out()
                self._staff()
                for member, answer in self._crew.answers(TICK_S):
                    self._settle(member, answer)
                self._look_around()
                self._block_unreachable()
        finally:
            self._crew.dismiss_all()

    # --- handing out --------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        while pairs := assign(
            self._ledger.ready(), self._crew.idle(), chains=self._chains, places=self._places, held=self._crew.held()
        ):
            for name, step in pairs:
                if self._claim(step):
                    self._ledger.begin(step)
                    self._crew.give(self._crew.members[name], step)
                    self._tell(events.StepStarted(step, self._title(step), name))

    def _claim(self, step: Step) -> bool:
        """Take the step for this driver; False where another runs it, or has finished it since it was looked for."""
        if not self._leases.take(step.digest):
            self._ledger.leave(step)
            self._tell(events.StepElsewhere(step, self._title(step)))
            return False
        if self._store.has(step.kind, step.digest):
            self._find(step, "another driver")
            return False
        return True

    def _find(self, step: Step, worker: str) -> None:
        """The step's output is in the store, though nobody here was told."""
        self._ledger.find(step)
        seconds = self._store.read_run(step.kind, step.digest).get("seconds", 0.0)
        self._tell_finished(step, worker, float(seconds))

    def _look_elsewhere(self) -> None:
        """What became of the steps that other drivers run: finished, or free again."""
        for step in self._ledger.elsewhere():
            if self._store.has(step.kind, step.digest):
                self._find(step, "another driver")
            elif self._leases.is_free(step.digest):
                self._ledger.put_back(step)

    def _staff(self) -> None:
        if self._failed_starts and time.monotonic() - self._failed_start_at < RESTART_PAUSE_S:
            return
        while (kind := next_hire(*self._staffs())) is not None and self._make_room():
            self._crew.hire(kind)

    def _make_room(self) -> bool:
        """Whether a slot is free, if need be by dismissing a worker that has nothing left to do."""
        if len(self._crew) < self._slots:
            return True
        kind = next_dismissal(*self._staffs())
        if kind is None:
            return False
        patient = [m for m in self._crew.of(kind) if m.is_idle and m.seconds >= PATIENCE_S[kind]]
        if patient:
            self._dismiss(patient[0], f"no {kind} step is waiting")
        return bool(patient)

    def _staffs(self) -> tuple[Staff, Staff]:
        ready, remaining = self._ledger.ready(), self._ledger.remaining()
        return self._staff_of(COMPRESS, ready, remaining), self._staff_of(EVALUATE, ready, remaining)

    def _staff_of(self, kind: Kind, ready: list[Step], remaining: list[Step]) -> Staff:
        members = self._crew.of(kind)
        return Staff(
            kind=kind,
            ready=sum(step.kind == kind for step in ready),
            cost=sum(step.cost for step in remaining if step.kind == kind),
            idle=sum(member.is_idle for member in members),
            starting=sum(member.is_starting and member.seconds < SLOW_START_S for member in members),
            working=sum(member.step is not None for member in members),
            most=self._room.compressors if kind == COMPRESS else self._room.evaluators,
        )

    # --- settling -----------------------------------------------------------------------------------------------------

    def _settle(self, member: Member, answer: Any) -> None:
        try:
            result = ray.get(answer)
        except (RayActorError, OutOfMemoryError) as error:
            self._lose(member, error)
        except RayError as error:
            self._settle_failure(member, error)
        else:
            self._settle_success(member, result)

    def _settle_success(self, member: Member, result: Any) -> None:
        step = member.step
        if step is None:
            self._welcome(member, result)
            return
        self._crew.take_back(member)
        self._ledger.finish(step, result)
        if member.device is not None:
            self._places[step.digest if step.kind == COMPRESS else subject_of(step)].add(member.device.node)
        self._tell_finished(step, member.name, result.seconds)

    def _welcome(self, member: Member, device: events.Device) -> None:
        first = member.device is None
        member.device = device
        self._failed_starts = 0
        self._crew.take_back(member)
        if first:
            self._tell(events.WorkerReady(member.name, device))

    def _settle_failure(self, member: Member, error: RayError) -> None:
        """The step raised; the worker lives."""
        step, cause = member.step, cause_of(error)
        if step is None:
            self._lose(member, error)
            return
        self._crew.take_back(member)
        if is_out_of_memory(cause):
            self._dismiss(member, reason_of(cause))
            self._retry_once_after_memory_ran_out(step, member.name, cause)
        elif self._reopen_lost_needs(step):
            self._ledger.put_back(step)
        elif is_deterministic(cause) or not self._ledger.may_run_again(step, began=True):
            self._set_aside(step, reason_of(cause), detail=str(error))
        else:
            self._tell(events.StepRetried(step, self._title(step), member.name, reason_of(cause)))

    def _retry_once_after_memory_ran_out(self, step: Step, worker: str, cause: BaseException) -> None:
        """A fresh worker may have the memory that a fragmented one lacks; twice is enough."""
        if step.digest in self._out_of_memory or not self._ledger.may_run_again(step, began=True):
            self._set_aside(step, f"out of memory twice: {reason_of(cause)}", detail=str(cause))
            return
        self._out_of_memory.add(step.digest)
        self._tell(events.StepRetried(step, self._title(step), worker, reason_of(cause)))

    def _reopen_lost_needs(self, step: Step) -> bool:
        """Have outputs made again that the step needs and that are corrupt (workers discard those) or gone."""
        steps = self._ledger.plan.steps
        gone = [need for need in step.needs if not self._store.has(steps[need].kind, need)]
        if not gone or not all(map(self._ledger.may_reopen, gone)):
            return False
        for need in filter(self._ledger.is_stored, gone):
            reopened = self._ledger.reopen(need)
            self._places.pop(need, None)
            self._tell(events.StepReopened(reopened, self._title(reopened)))
        return True

    def _lose(self, member: Member, error: RayError, reason: str | None = None) -> None:
        """The worker is dead, or its node is, or it is about to be ended: its step runs elsewhere."""
        step, why = member.step, reason or f"its worker died ({reason_of(error)})"
        began = step is not None and self._leases.had_begun(step.digest, member.run)
        self._dismiss(member, why)
        if member.device is not None:
            self._crew.ask_again(member.device.node)
        if step is None:
            self._note_failed_start(member, error)
        elif self._store.has(step.kind, step.digest):
            self._find(step, member.name)
        elif isinstance(error, OutOfMemoryError):
            self._retry_once_after_memory_ran_out(step, member.name, error)
        elif self._ledger.may_run_again(step, began=began):
            self._tell(events.StepRetried(step, self._title(step), member.name, why))
        else:
            self._set_aside(step, f"{why}; tried {self._ledger.runs(step)} times", detail=str(error))

    def _note_failed_start(self, member: Member, error: RayError) -> None:
        if member.device is not None:
            return
        self._failed_starts += 1
        self._failed_start_at = time.monotonic()
        if self._failed_starts > START_FAILURES * self._slots and not self._has_workers():
            self._give_up(f"no worker could start: {reason_of(error)}", detail=str(error))

    def _set_aside(self, step: Step, reason: str, detail: str = "") -> None:
        self._ledger.set_aside(step, reason)
        self._leases.give_back(step.digest)
        counts = (self._ledger.finished, self._ledger.total)
        self._tell(events.StepSetAside(step, self._title(step), reason, detail, *counts))

    def _block_unreachable(self) -> None:
        for step in self._ledger.block_unreachable():
            why = self._ledger.outcome.blocked[step.digest]
            self._tell(events.StepBlocked(step, self._title(step), why, self._ledger.finished, self._ledger.total))

    def _give_up(self, reason: str, detail: str = "") -> None:
        """Nothing can run any more: the steps that could are set aside with the reason, which blocks all others."""
        for step in self._ledger.ready():
            self._set_aside(step, reason, detail)

    # --- looking around -----------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        """Now and then: who takes too long, how far the running steps are, and what the cluster still has."""
        now = time.monotonic()
        if now - self._listened >= TICK_S:
            self._listened = now
            self._end_overdue()
            for member, note in self._crew.notes():
                if note and member.step is not None:
                    self._tell(events.StepProgress(member.step, member.name, note))
        if now - self._looked >= LOOK_S:
            self._looked = now
            self._fit_into_cluster()
            self._look_elsewhere()

    def _end_overdue(self) -> None:
        for member in list(self._crew.members.values()):
            if member.step is not None and member.seconds > self._step_timeout_s:
                self._lose(member, RayError("timed out"), f"ran longer than {self._step_timeout_s:g} s")
            elif member.is_starting and member.seconds > START_LIMIT_S:
                self._lose(member, RayError(f"no start in {START_LIMIT_S:g} s: others may hold its device"))

    def _fit_into_cluster(self) -> None:
        """After a loss of nodes: keep no more workers than fit, and no hope that nothing supports."""
        self._slots = slots_in(living_nodes(), self._room.shape)
        expendable = sorted((m for m in self._crew.members.values() if m.step is None), key=lambda m: not m.is_starting)
        for member in expendable[: max(0, len(self._crew) - self._slots)]:
            self._dismiss(member, "the cluster has become smaller")
        if self._slots:
            self._had_room = time.monotonic()
        elif time.monotonic() - self._had_room > NO_ROOM_S and not self._has_workers():
            self._give_up(f"the cluster lost its nodes: no room for a worker of {self._room.shape}")

    def _has_workers(self) -> bool:
        return any(member.device is not None for member in self._crew.members.values())

    # --- telling ------------------------------------------------------------------------------------------------------

    def _dismiss(self, member: Member, reason: str) -> None:
        self._crew.dismiss(member)
        self._tell(events.WorkerGone(member.name, reason))

    def _tell_finished(self, step: Step, worker: str, seconds: float) -> None:
        counts = (self._ledger.finished, self._ledger.total)
        self._tell(events.StepFinished(step, self._title(step), worker, seconds, *counts))

    def _title(self, step: Step) -> str:
        return events.title_of(step, self._ledger.plan)
