"""What happens while a plan runs, as typed events: the loop tells, progress shows, a sweep may log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from earnest.plan import COMPRESS, Kind, Plan, Step


@dataclass(frozen=True)
class Device:
    """What a worker proved to own when it started.

    `gpus` are the ids that Ray pinned it to. `kind` is what it computes on: "cuda" only where CUDA answered.
    `memory_bytes` is the GPUs' memory, or the node's where the worker computes on the CPU.
    """

    node: str
    ip: str
    hostname: str
    pid: int
    kind: str
    gpus: tuple[str, ...]
    name: str
    memory_bytes: int
    cpus: float

    def __str__(self) -> str:
        """As in "GPU 0,1 (NVIDIA H200) on node7"."""
        if not self.gpus:
            return f"CPU on {self.hostname}"
        computes = self.name if self.kind == "cuda" else "no CUDA answers: computes on the CPU"
        return f"GPU {','.join(self.gpus)} ({computes}) on {self.hostname}"


@dataclass(frozen=True)
class Planned:
    """The run begins: of `total` steps those with the digests `cached` lie in the store already."""

    total: int
    cached: frozenset[str]


@dataclass(frozen=True)
class ClusterReady:
    """Ray is connected, and has room for `slots` workers at a time."""

    address: str
    slots: int
    gpus_per_worker: float
    cpus_per_worker: float


@dataclass(frozen=True)
class WorkerReady:
    """A worker started and proved its device."""

    worker: str
    device: Device


@dataclass(frozen=True)
class WorkerGone:
    """A worker was stopped, or lost."""

    worker: str
    reason: str


@dataclass(frozen=True)
class StepStarted:
    """A step was given to a worker."""

    step: Step
    title: str
    worker: str


@dataclass(frozen=True)
class StepElsewhere:
    """Another driver that shares the store runs the step; its output is waited for."""

    step: Step
    title: str


@dataclass(frozen=True)
class StepProgress:
    """What a running step last said about itself."""

    step: Step
    worker: str
    note: str


@dataclass(frozen=True)
class StepFinished:
    """A step's output is published. `finished` of `total` steps are now in the store or set aside."""

    step: Step
    title: str
    worker: str
    seconds: float
    finished: int
    total: int


@dataclass(frozen=True)
class StepRetried:
    """A step did not succeed and will run again."""

    step: Step
    title: str
    worker: str
    reason: str


@dataclass(frozen=True)
class StepReopened:
    """A finished step's output is corrupt or gone, and is made again."""

    step: Step
    title: str


@dataclass(frozen=True)
class StepSetAside:
    """A step failed for good. `detail` is the worker's traceback where there is one."""

    step: Step
    title: str
    reason: str
    detail: str
    finished: int
    total: int


@dataclass(frozen=True)
class StepBlocked:
    """A step cannot run, because one that it needs was set aside."""

    step: Step
    title: str
    reason: str
    finished: int
    total: int


Event = (
    Planned
    | ClusterReady
    | WorkerReady
    | WorkerGone
    | StepStarted
    | StepElsewhere
    | StepProgress
    | StepFinished
    | StepRetried
    | StepReopened
    | StepSetAside
    | StepBlocked
)
OnEvent = Callable[[Event], None]


def title_of(step: Step, plan: Plan) -> str:
    """A step's name for people: its label, and for an evaluation the compression and the pair that it looks at."""
    if step.kind == COMPRESS:
        return step.label
    compress = plan.steps.get(step.checkpoint or "")
    subject = f"{step.location.get('model_name', '')} dense" if compress is None else compress.label
    pair = "" if step.steering is None else f" + {step.steering}"
    return f"{step.label} of {subject.removeprefix('compress ')}{pair}".replace("  ", " ")


def worker_name(kind: Kind, number: int) -> str:
    """As in "compressor-1"."""
    return f"{'compressor' if kind == COMPRESS else 'evaluator'}-{number}"
