"""The running ensemble: a thread that decodes, and streams that hand on what comes of it.

Plain Python, so that it runs inside a Serve replica as well as beside a gateway in one process. The batch belongs to
the decoding thread; everything else belongs to the event loops of those who stream. A stream that is closed gives its
row back before the next step, and a thread that dies ends every stream with an error.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import torch

from earnest.decoding.batcher import Batcher, Gauges, Limits
from earnest.decoding.members import MemberLostError
from earnest.decoding.requests import Chunk, Request
from serve.colocated import Placed
from serve.config import Batch
from serve.inbox import Inbox, LoopOutlet, Outlet
from serve.members import RemoteMember
from serve.seam import EnsembleCard, EnsembleLostError


class Ensemble:
    """A batch over some members and the thread that decodes it (see `seam.EnsembleHandle`).

    Args:
        placed: the members.
        batch: what bounds it.
        items_per_s: how many items all streams together hand on at most, where each costs something; a stream's first
            and last item are never held back.
    """

    def __init__(self, placed: Placed, batch: Batch, items_per_s: float = math.inf) -> None:
        self._members, self._items_per_s = placed.members, items_per_s
        limits = Limits(batch.waiting, batch.prefill)
        self._batcher = Batcher(placed.members, placed.tokenizer, ends=placed.ends, limits=limits)
        self._streams: dict[int, tuple[Outlet, Any]] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._failure: str | None = None
        self._thread = threading.Thread(target=self._decode, args=(torch.get_num_threads(),), daemon=True)
        self._thread.start()

    async def stream(self, request: Request) -> AsyncGenerator[list[Chunk], None]:
        """The chunks of one continuation: each item holds all that came since the last. Closing it frees the row.

        Raises:
            QueueFullError: too many wait.
            ValueError: the request cannot be served.
            EnsembleLostError: nothing decodes any more. Streams that were running end with an error chunk instead.
        """
        inbox = Inbox()
        ticket = self.submit(request, LoopOutlet(asyncio.get_running_loop()), inbox)
        try:
            async with aclosing(inbox.items(lambda: self.streams / self._items_per_s)) as items:
                async for chunks in items:
                    yield chunks
        finally:
            self.cancel(ticket)

    def submit(self, request: Request, outlet: Outlet, stream: Any) -> int:
        """Continue a text, its chunks going to `outlet` under the name `stream`; its ticket. Raises as `stream` does.

        Every ticket must be given back to `cancel`, also where its text has ended.
        """
        with self._changed:
            if self._failure is not None:
                raise EnsembleLostError(self._failure)
            try:
                ticket = self._batcher.submit(request)
            except MemberLostError as error:
                raise EnsembleLostError(str(error)) from error
            self._streams[ticket] = outlet, stream
            self._changed.notify()
        return ticket

    def cancel(self, ticket: int) -> None:
        """Send no more chunks of a text, and free its row before the next step where it has not ended."""
        with self._changed:
            del self._streams[ticket]
        self._batcher.cancel(ticket)

    @property
    def streams(self) -> int:
        """How many texts have not been cancelled."""
        return len(self._streams)

    async def describe(self) -> EnsembleCard:
        """See `card`."""
        return self.card()

    async def gauges(self) -> Gauges:
        """See `state`."""
        return self.state()

    def card(self) -> EnsembleCard:
        """What it is. Raises EnsembleLostError."""
        self.check_health()
        return EnsembleCard(
            tuple(member.name for member in self._members),
            min(member.rows for member in self._members),
            min(member.slots for member in self._members),
        )

    def state(self) -> Gauges:
        """How the batch stands. Raises EnsembleLostError."""
        self.check_health()
        return self._batcher.gauges()

    def check_health(self) -> None:
        """Raise EnsembleLostError where decoding has ended or a member's process is gone."""
        gone = [member.name for member in self._members if isinstance(member, RemoteMember) and member.lost]
        if gone:
            raise EnsembleLostError(f"member {gone[0]}: its process is gone")
        if self._failure is not None:
            raise EnsembleLostError(self._failure)

    def close(self) -> None:
        """End the thread after its step; streams that still run end with an error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        for member in self._members:
            if isinstance(member, RemoteMember):
                member.close()

    def _decode(self, threads: int) -> None:
        torch.set_num_threads(threads)  # OpenMP counts threads per calling thread
        try:
            while self._wait_for_work():
                self._deliver(self._batcher.step())
        finally:
            self._end(sys.exc_info()[1])

    def _wait_for_work(self) -> bool:
        """Whether there is some; False when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or not self._batcher.idle)
            return not self._closing

    def _end(self, error: BaseException | None) -> None:
        with self._changed:
            self._failure = f"the ensemble stopped: {error}" if error else "the ensemble was shut down"
            self._deliver([(ticket, Chunk(error=self._failure)) for ticket in self._streams])

    def _deliver(self, chunks: Sequence[tuple[int, Chunk]]) -> None:
        """Give each outlet, once, everything that came for its streams."""
        parcels: defaultdict[Outlet, list[tuple[Any, Chunk]]] = defaultdict(list)
        with self._changed:
            for ticket, chunk in chunks:
                if (found := self._streams.get(ticket)) is not None:
                    outlet, stream = found
                    parcels[outlet].append((stream, chunk))
        for outlet, parcel in parcels.items():
            outlet.deliver(parcel)
