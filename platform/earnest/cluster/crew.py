"""The workers of a run: hire, hand over steps, look, dismiss. What to do with whom is the loop's business."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any

import ray
from ray.exceptions import RayError

from earnest.cluster.actors import ACTORS
from earnest.cluster.capacity import Shape
from earnest.cluster.events import Device, worker_name
from earnest.cluster.policy import Idle, subject_of
from earnest.plan import Kind, Step


@dataclass
class Member:
    """One worker as the driver sees it. It is starting, idle or working; `since` is when that began."""

    name: str
    kind: Kind
    handle: Any
    since: float
    device: Device | None = None
    step: Step | None = None
    loaded: str | None = None
    awaited: Any = None
    run: str = ""
    asked: Any = None

    @property
    def is_idle(self) -> bool:
        """Ready, and without work."""
        return self.awaited is None

    @property
    def is_starting(self) -> bool:
        """Not known to be ready (again)."""
        return self.awaited is not None and self.step is None

    @property
    def seconds(self) -> float:
        """For how long it has been starting, idle or working."""
        return time.monotonic() - self.since


class Crew:
    """All workers of one run.

    Args:
        shape: what each worker reserves.
        store: the store's root.
        runner: what workers run steps with.
        driver: names the driver's runs of steps.
    """

    def __init__(self, shape: Shape, store: str, runner: str, driver: str) -> None:
        self.members: dict[str, Member] = {}
        self._shape, self._store, self._runner, self._driver = shape, store, runner, driver
        self._numbers, self._runs = count(1), count(1)
        # A thread of its own answers `note` while a step runs.
        self._classes = {kind: ray.remote(concurrency_groups={"watch": 1})(actor) for kind, actor in ACTORS.items()}

    def __len__(self) -> int:
        return len(self.members)

    def of(self, kind: Kind) -> list[Member]:
        """The members of a kind."""
        return [member for member in self.members.values() if member.kind == kind]

    def hire(self, kind: Kind) -> Member:
        """Start a worker. It is starting until it has proved its device."""
        options = self._classes[kind].options(
            num_gpus=self._shape.gpus, num_cpus=self._shape.cpus, scheduling_strategy="SPREAD", max_restarts=0
        )
        handle = options.remote(self._store, self._runner, self._shape.cpus)
        member = Member(worker_name(kind, next(self._numbers)), kind, handle, time.monotonic())
        member.awaited = handle.device.remote()
        self.members[member.name] = member
        return member

    def dismiss(self, member: Member) -> None:
        """End a worker, whatever it does."""
        self.members.pop(member.name, None)
        ray.kill(member.handle)

    def dismiss_all(self) -> None:
        """End every worker."""
        for member in list(self.members.values()):
            self.dismiss(member)

    def give(self, member: Member, step: Step) -> None:
        """Hand a step to an idle worker."""
        member.step, member.since = step, time.monotonic()
        member.run = f"{self._driver}-{next(self._runs)}"
        member.awaited = member.handle.run.remote(step, member.run)
        member.loaded = subject_of(step)

    def take_back(self, member: Member) -> None:
        """The worker answered: it is idle."""
        member.step = member.awaited = member.asked = None
        member.since = time.monotonic()

    def idle(self) -> list[Idle]:
        """The idle workers as the policy sees them."""
        members = [member for member in self.members.values() if member.is_idle and member.device is not None]
        return [Idle(m.name, m.kind, m.device.node, m.loaded) for m in members if m.device is not None]

    def held(self) -> set[str]:
        """The subjects that working workers hold."""
        return {m.loaded for m in self.members.values() if m.step is not None and m.loaded is not None}

    def answers(self, timeout: float) -> Iterator[tuple[Member, Any]]:
        """Wait up to `timeout` seconds for a worker to answer; give each that did, and the reference to its answer."""
        waiting = {member.awaited: member for member in self.members.values() if member.awaited is not None}
        if not waiting:
            time.sleep(timeout)
            return
        first, rest = ray.wait(list(waiting), num_returns=1, timeout=timeout, fetch_local=False)
        others, _ = ray.wait(rest, num_returns=len(rest), timeout=0, fetch_local=False) if first and rest else ([], [])
        yield from ((waiting[ref], ref) for ref in [*first, *others])

    def ask_again(self, node: str) -> None:
        """A worker of the node was lost: its idle neighbours must answer before they are given more work."""
        for member in self.members.values():
            if member.is_idle and member.device is not None and member.device.node == node:
                member.awaited, member.since = member.handle.device.remote(), time.monotonic()

    def notes(self) -> Iterator[tuple[Member, str]]:
        """What running steps last said; never waits."""
        for member in self.members.values():
            if member.step is None:
                continue
            if member.asked is None:
                member.asked = member.handle.note.options(concurrency_group="watch").remote()
            elif ray.wait([member.asked], timeout=0)[0]:
                asked, member.asked = member.asked, None
                with suppress(RayError):  # a lost worker is noticed by the step it was running
                    yield member, str(ray.get(asked))
