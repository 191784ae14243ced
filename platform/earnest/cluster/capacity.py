"""What the cluster has, and how many workers of the asked shape fit in it at a time."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

from earnest.specs import Cluster, UserError


@dataclass(frozen=True)
class Node:
    """The CPUs and GPUs that one living node offers."""

    cpus: float
    gpus: float


@dataclass(frozen=True)
class Shape:
    """What one worker reserves."""

    gpus: float
    cpus: float

    def __str__(self) -> str:
        return f"{self.gpus:g} GPU" if self.gpus else f"{self.cpus:g} CPU"


@dataclass(frozen=True)
class Room:
    """The workers' shape, how many fit at a time, and how many of each kind are allowed at a time."""

    shape: Shape
    slots: int
    compressors: int
    evaluators: int


def living_nodes() -> list[Node]:
    """The nodes of the connected cluster that are alive now."""
    import ray

    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(resources.get("CPU", 0.0), resources.get("GPU", 0.0)) for resources in found]


def shape_of(spec: Cluster, nodes: list[Node]) -> Shape:
    """What one worker reserves: as asked, or one GPU where there are GPUs and none where there are not.

    GPUs are what a GPU worker is scarce in: it takes fewer CPUs than asked where they would not go round.
    """
    with_gpus = [node for node in nodes if node.gpus > 0]
    gpus = spec.gpus_per_worker if spec.gpus_per_worker is not None else float(bool(with_gpus))
    if gpus == 0:
        return Shape(0.0, spec.cpus_per_worker)
    shares = [node.cpus / count for node in with_gpus if (count := gpu_shares(node.gpus, gpus))]
    return Shape(gpus, min([spec.cpus_per_worker, *(floor(share * 100) / 100 for share in shares)]))


def gpu_shares(gpus: float, each: float) -> int:
    """How many workers the GPUs of one node serve. A fraction never spreads over two GPUs.

    >>> gpu_shares(4, 0.3), gpu_shares(8, 3)
    (12, 2)
    """
    if each >= 1:
        return floor(gpus / each)
    return floor(gpus) * floor(1 / each + 1e-9)


def slots_in(nodes: list[Node], shape: Shape) -> int:
    """How many workers fit on all nodes together."""
    return sum(_slots_on(node, shape) for node in nodes)


def _slots_on(node: Node, shape: Shape) -> int:
    by_gpu = gpu_shares(node.gpus, shape.gpus) if shape.gpus else None
    by_cpu = floor(node.cpus / shape.cpus + 1e-9) if shape.cpus else None
    return min(count for count in (by_gpu, by_cpu) if count is not None)


def room_for(spec: Cluster, nodes: list[Node], where: str) -> Room:
    """How the asked workers fit on `nodes`.

    Raises:
        UserError: they do not; it says what was asked and what is there.
    """
    shape = shape_of(spec, nodes)
    slots = slots_in(nodes, shape)
    asked = max(spec.compressors or 1, spec.evaluators or 1)
    if slots < asked:
        raise UserError(_does_not_fit(asked, shape, slots, nodes, where))
    return Room(shape, slots, spec.compressors or slots, spec.evaluators or slots)


def _does_not_fit(asked: int, shape: Shape, slots: int, nodes: list[Node], where: str) -> str:
    gpus, cpus = sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
    workers = f"{asked} worker{'s' if asked != 1 else ''}"
    there = f"{gpus:g} GPUs, {cpus:g} CPUs on {len(nodes)} node{'s' if len(nodes) != 1 else ''}"
    if slots:
        remedy = f"there is room for {slots}: set compressors and evaluators to at most that"
    elif shape.gpus and not gpus:
        remedy = "set gpus_per_worker = 0 to compute on CPUs, or give the address of a cluster with GPUs"
    else:
        remedy = "no node has that many: ask for fewer gpus_per_worker or cpus_per_worker"
    return f"asked for {workers} x {shape}; the cluster at {where} has {there}\n{remedy}"
