"""An ensemble in another process, as a `seam.EnsembleHandle`: one socket carries all streams of a gateway.

The socket is there before it is asked for, and is looked for again as soon as it is lost: a request that comes while no
ensemble answers is refused within a second.
"""

from __future__ import annotations

import asyncio
import math
import pickle
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from itertools import count
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from typing import Any, cast

from earnest.decoding.batcher import Gauges
from earnest.decoding.requests import Chunk, Request
from serve.ensemble_server import HANDSHAKE_S, Place
from serve.inbox import Inbox
from serve.seam import EnsembleCard, EnsembleLostError
from serve.transport import framed, keep_alive, taken_out

PATIENCE_S = 0.8  # of a request, for an ensemble to be found
LOOK_S = 0.2


class EnsembleClient:
    """Finds the ensemble, and streams from it. For one event loop.

    Args:
        find: says where the ensemble answers, as long as that takes; raises EnsembleLostError where it cannot.
        version: of the ensemble that is meant; another one, which is about to go, is not asked.
        items_per_s: see `Ensemble`.
    """

    def __init__(self, find: Callable[[], Awaitable[Place]], version: str, items_per_s: float = math.inf) -> None:
        self._find, self._version, self._items_per_s = find, version, items_per_s
        self._looking: asyncio.Task[Link] | None = None

    def look(self) -> asyncio.Task[Link]:
        """Look for the ensemble, unless it is found already or looked for."""
        if self._looking is None or (self._looking.done() and self._looking.result().lost):
            self._looking = asyncio.get_running_loop().create_task(self._look())
        return self._looking

    async def stream(self, request: Request) -> AsyncGenerator[list[Chunk], None]:
        """See `Ensemble.stream`; closing it cancels the request."""
        link = await self._link()
        inbox = Inbox()
        number = link.submit(request, inbox)
        try:
            async with aclosing(inbox.items(lambda: link.streams / self._items_per_s)) as items:
                async for chunks in items:
                    yield chunks
        finally:
            link.cancel(number)

    async def describe(self) -> EnsembleCard:
        """See `Ensemble.describe`."""
        card: EnsembleCard = await (await self._link()).ask("card")
        return card

    async def gauges(self) -> Gauges:
        """See `Ensemble.gauges`."""
        gauges: Gauges = await (await self._link()).ask("state")
        return gauges

    async def _link(self) -> Link:
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.shield(self.look())
        except TimeoutError:
            raise EnsembleLostError("no ensemble answers yet") from None

    async def _look(self) -> Link:
        while True:
            try:
                place = await self._find()
                if place.version == self._version:
                    return await Link.to(place, self.look)
            except (EnsembleLostError, AuthenticationError, EOFError, OSError):
                pass  # it is not there yet, or has just gone
            await asyncio.sleep(LOOK_S)


class Link(asyncio.Protocol):
    """The socket and what is expected of it; `lost` once it hung up, which `on_lost` is told."""

    def __init__(self, on_lost: Callable[[], object]) -> None:
        self._on_lost, self._numbers, self._received = on_lost, count(), bytearray()
        self._inboxes: dict[int, Inbox] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._transport: asyncio.WriteTransport | None = None
        self.lost = False

    @classmethod
    async def to(cls, place: Place, on_lost: Callable[[], object]) -> Link:
        """Call an ensemble. Raises OSError where nobody answers, EOFError or AuthenticationError where another does."""
        loop = asyncio.get_running_loop()
        end = await asyncio.to_thread(_dial, place)
        connect = loop.create_unix_connection if end.family == socket.AF_UNIX else loop.create_connection
        _, link = await connect(lambda: cls(on_lost), sock=end)
        return link

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return len(self._inboxes)

    def submit(self, request: Request, inbox: Inbox) -> int:
        """Ask for a continuation; the number of its stream, which must be cancelled at last."""
        number = next(self._numbers)
        self._inboxes[number] = inbox
        self._say(number, request)
        if self.lost:
            self._end(inbox)
        return number

    def cancel(self, number: int) -> None:
        """Hear no more of a stream."""
        del self._inboxes[number]
        self._say(number, "cancel")

    async def ask(self, what: str) -> Any:
        """Ask for the card or the state. Raises EnsembleLostError."""
        if self.lost:
            raise EnsembleLostError("its process is gone")
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._say(number, what)
        try:
            return await self._asked[number]
        finally:
            del self._asked[number]

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._received += data
        while (message := taken_out(self._received)) is not None:
            for number, said in pickle.loads(message):  # noqa: S301 (from who knows the secret)
                self._hear(number, said)

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        del error
        self.lost = True
        for inbox in self._inboxes.values():
            self._end(inbox)
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(EnsembleLostError("its process is gone"))
        self._on_lost()

    def _hear(self, number: int, said: Any) -> None:
        if (inbox := self._inboxes.get(number)) is not None:
            if isinstance(said, Chunk):
                inbox.put(said)
            else:
                inbox.refuse(said)
        elif (asked := self._asked.get(number)) is not None and not asked.done():
            if isinstance(said, Exception):
                asked.set_exception(said)
            else:
                asked.set_result(said)

    def _say(self, number: int, wanted: Request | str) -> None:
        if not self.lost:
            assert self._transport is not None
            self._transport.write(framed(pickle.dumps((number, wanted), pickle.HIGHEST_PROTOCOL)))

    @staticmethod
    def _end(inbox: Inbox) -> None:
        inbox.put(Chunk(error="its process is gone"))


def _dial(place: Place) -> socket.socket:
    """A socket whose handshake is done."""
    with Client(place.address, authkey=place.secret) as connection:
        keep_alive(connection, HANDSHAKE_S)
        end = socket.socket(fileno=socket.dup(connection.fileno()))
    end.setblocking(False)
    return end
