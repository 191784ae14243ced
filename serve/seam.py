"""What the gateway knows of the ensemble: a protocol, so that either is built and tested without the other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from earnest.decoding.batcher import Gauges
from earnest.decoding.requests import Chunk, Request


@dataclass(frozen=True)
class EnsembleCard:
    """What an ensemble is once its models are loaded: their names, and the most tokens of a text, prompt included."""

    members: tuple[str, ...]
    rows: int
    max_length: int


class EnsembleLostError(RuntimeError):
    """The ensemble is gone, or cannot be reached; another one may be on its way."""


class EnsembleHandle(Protocol):
    """An ensemble, wherever it runs.

    All three raise EnsembleLostError where it is gone; `stream` also QueueFullError where too many wait, and ValueError
    where the request cannot be served.
    """

    def stream(self, request: Request) -> AsyncGenerator[list[Chunk], None]:
        """The chunks of one continuation: each item holds all that came since the last. Closing it frees the row."""

    async def describe(self) -> EnsembleCard:
        """What it is."""

    async def gauges(self) -> Gauges:
        """How its batch stands."""
