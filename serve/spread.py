"""Each model of an ensemble in a process of its own, pinned to its own GPUs by the replica's placement group."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from earnest.decoding.distribution import end_tokens
from earnest.decoding.local import LocalMember
from earnest.models.loading import load_tokenizer
from earnest.models.source import resolve
from serve.colocated import Placed, fitting_rows, load_model, room, row_bytes
from serve.config import Config, Model
from serve.members import Card, Host, RemoteMember, keep_to

LOADING_S = 1800


def spread(config: Config) -> Placed:
    """Start and load all members side by side, the nth in bundle n + 1 of this replica's placement group.

    Raises:
        UserError: a model cannot be loaded, or `kv_bytes` hold no text.
        ray.exceptions.RayActorError: a process died meanwhile.
    """
    processes = _started(config)
    traits: list[Traits] = _all(processes, "traits")
    slots = room(config.batch, (one.max_length for one in traits))
    rows = fitting_rows(config.batch, lambda: sum(_all(processes, "row_bytes", slots)))
    secret = secrets.token_bytes(32)
    node = ray.get_runtime_context().get_node_id()
    cards: list[Card] = _all(processes, "offer", rows, slots, secret, node)
    members = tuple(RemoteMember(card, secret) for card in cards)
    base = resolve(config.models[config.base].source)
    ends = traits[list(config.models).index(config.base)].ends
    return Placed(members, load_tokenizer(base.path, base.name), ends, tuple(processes))


@dataclass(frozen=True)
class Traits:
    """What the ensemble must know of a model before it is decided how many texts all hold."""

    max_length: int
    ends: frozenset[int]


@dataclass(frozen=True)
class Whereabouts:
    """For operators: which process a member is, and which GPUs it sees."""

    pid: int
    node: str
    gpus: str | None


class MemberProcess:
    """One model in an actor."""

    def __init__(self, name: str, model: Model) -> None:
        keep_to(name, model.cores)
        # Of the GPUs that Ray lets this process see, its own is the first.
        device = "cuda" if model.device.startswith("cuda") else model.device
        self._name, self._loaded = name, load_model(model.model_copy(update={"device": device}))

    def traits(self) -> Traits:
        """What must be known before rows are decided."""
        return Traits(self._loaded.max_length, end_tokens(self._loaded))

    def row_bytes(self, slots: int) -> int:
        """What one text of `slots` tokens takes."""
        return row_bytes(self._name, self._loaded, slots)

    def offer(self, rows: int, slots: int, secret: bytes, caller: str) -> Card:
        """Answer the caller on the node `caller` from now on."""
        here = ray.get_runtime_context().get_node_id() == caller
        member = LocalMember(self._name, self._loaded, rows=rows, slots=slots)
        self._host = Host(member, secret, None if here else ray.util.get_node_ip_address())
        return self._host.card

    def whereabouts(self) -> Whereabouts:
        """Which process this is."""
        node = ray.get_runtime_context().get_node_id()
        return Whereabouts(os.getpid(), node, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _started(config: Config) -> list[Any]:
    group, mark = ray.util.get_current_placement_group(), secrets.token_hex(4)
    actor = ray.remote(MemberProcess)
    return [
        actor.options(
            name=f"{config.name}:{name}:{mark}",
            num_cpus=model.cpus,
            num_gpus=model.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=number),
        ).remote(name, model)
        for number, (name, model) in enumerate(config.models.items(), start=1)
    ]


def _all(processes: Sequence[Any], question: str, *arguments: Any) -> list[Any]:
    """Ask all processes at once."""
    answers = [getattr(process, question).remote(*arguments) for process in processes]
    return list(ray.get(answers, timeout=LOADING_S))
