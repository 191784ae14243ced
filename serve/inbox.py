"""What came for one stream, and how it is handed on: together what came together, the first and the last at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from earnest.decoding.requests import Chunk


class Inbox:
    """What came for one stream since it last looked. For one event loop."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []
        self._refused: Exception | None = None
        self._came, self._ended = asyncio.Event(), asyncio.Event()

    def put(self, chunk: Chunk) -> None:
        """Add a chunk; nothing comes behind the last."""
        if not self._ended.is_set():
            self._chunks.append(chunk)
            self._came.set()
            if chunk.last:
                self._ended.set()

    def refuse(self, error: Exception) -> None:
        """There will be no chunk, but this error."""
        self._refused = error
        self._came.set()
        self._ended.set()

    async def items(self, rest: Callable[[], float]) -> AsyncGenerator[list[Chunk], None]:
        """Everything that came, again and again to the last chunk.

        Args:
            rest: seconds between two items, asked before each; the first and the last item do not wait for them.

        Raises:
            Exception: what `refuse` was told.
        """
        yield (chunks := await self._take())
        while not chunks[-1].last:
            if seconds := rest():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._ended.wait()
            yield (chunks := await self._take())

    async def _take(self) -> list[Chunk]:
        await self._came.wait()
        self._came.clear()
        if self._refused is not None:
            raise self._refused
        chunks, self._chunks = self._chunks, []
        return chunks


class Outlet(Protocol):
    """Where the chunks of some streams go."""

    def deliver(self, parcel: list[tuple[Any, Chunk]]) -> None:
        """Take all chunks of a round with the names of their streams, on the decoding thread: it must not wait."""


@dataclass(frozen=True)
class LoopOutlet:
    """An event loop of this process; its streams are named by their inboxes."""

    loop: asyncio.AbstractEventLoop

    def deliver(self, parcel: list[tuple[Any, Chunk]]) -> None:
        """See `Outlet.deliver`; the loop is woken once."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(_hand_over, parcel)


def _hand_over(parcel: Iterable[tuple[Inbox, Chunk]]) -> None:
    for inbox, chunk in parcel:
        inbox.put(chunk)
