"""Continuous batching: texts join and leave a running batch between its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from earnest.decoding.members import Member
from earnest.decoding.requests import Chunk, Request


@dataclass(frozen=True)
class Limits:
    """What bounds a batch: texts waiting at most, and tokens of prompts read between two steps."""

    waiting: int = 256
    prefill: int = 512


@dataclass(frozen=True)
class Gauges:
    """How a batch stands: what it holds now, and what it did since it began."""

    running: int
    waiting: int
    rows: int
    kv_bytes_used: int
    kv_bytes: int
    rounds: int
    tokens: int
    drafted: int
    accepted: int
    prompt_tokens: int
    cached_tokens: int


class Batcher:
    """A running batch over some members. `submit` and `cancel` may be called from any thread, `step` from one."""

    def __init__(
        self, members: Sequence[Member], tokenizer: Any, *, ends: frozenset[int], limits: Limits = Limits()
    ) -> None:
        raise NotImplementedError

    def submit(self, request: Request) -> int:
        """Take a request; its ticket.

        Raises:
            QueueFullError: too many wait.
            ValueError: the request cannot be served: unknown member, prompt longer than the rows, bad settings.
        """
        raise NotImplementedError

    def cancel(self, ticket: int) -> None:
        """Forget a request; its rows are free before the next step. A ticket that has ended is ignored."""
        raise NotImplementedError

    def step(self) -> list[tuple[int, Chunk]]:
        """One round: admit, read prompts, draft, verify. The chunks that came of it, by ticket; [] when idle."""
        raise NotImplementedError

    @property
    def idle(self) -> bool:
        """Whether nothing runs and nothing waits."""
        raise NotImplementedError

    def gauges(self) -> Gauges:
        """How the batch stands."""
        raise NotImplementedError
