"""One request under way: its choices run, told as they come or at the end, counted, traced, and cleared away.

A turn ends exactly once, however it ends: finished, refused, timed out, lost, or left by its client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from earnest.decoding.requests import Chunk, Usage
from serve.answers import Json, joined, plain, usage_of
from serve.config import Key
from serve.errors import ApiError
from serve.metrics import Metrics
from serve.orders import Order
from serve.quota import Quota
from serve.running import run
from serve.seam import EnsembleHandle
from serve.traces import Told, Tracer

log = logging.getLogger(__name__)
T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
WRITER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


class LeftError(Exception):
    """The client is gone; nobody hears an answer."""


class Turn:
    """An order of one key, run by an ensemble."""

    def __init__(
        self, order: Order, key: Key, route: str, *, metrics: Metrics, quota: Quota, tracer: Tracer | None
    ) -> None:
        self._order, self._key, self._route = order, key, route
        self._metrics, self._quota, self._tracer = metrics, quota, tracer
        self._head = {
            "id": f"{'chatcmpl' if order.shape.kind.startswith('chat') else 'cmpl'}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": order.body.model,
        }
        self._usages: dict[int, Usage] = {}
        self._kept: list[list[Chunk]] = [[] for _ in order.requests] if tracer else []
        self._began_ns = time.time_ns()

    async def whole(self, ensemble: EnsembleHandle, timeout_s: float) -> Json:
        """The answer at its end. Raises ApiError."""
        chunks: list[list[Chunk]] = [[] for _ in self._order.requests]
        async with aclosing(self._chunks(ensemble, timeout_s)) as found:
            async for index, chunk in found:
                chunks[index].append(chunk)
        choices = []
        for index, chunk in enumerate(self._order.told([joined(own) for own in chunks])):
            choices.append(self._told(self._order.shape.whole(index, chunk), index, chunk))
        return {**self._head, "object": self._order.shape.kind, "choices": choices, "usage": self.usage()}

    async def events(self, ensemble: EnsembleHandle, timeout_s: float) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events. Raises ApiError before the first one; later errors are the last event."""
        with_usage, begun = self._order.body.wants_usage, False
        try:
            async with aclosing(self.pieces(ensemble, timeout_s)) as pieces:
                async for choice in pieces:
                    begun = True
                    yield self._event([choice], with_usage)
            if with_usage:
                yield self._event([], with_usage, self.usage())
            yield DONE
        except ApiError as error:
            if not begun:
                raise
            self._metrics.broke(error.code or str(error.status))
            yield error.event()
        except Exception:  # the status is sent, so only an event can say that this was not the end
            if not begun:
                raise
            log.exception("a stream broke")
            self._metrics.broke("internal_error")
            yield ApiError(500, "internal error; this is not the end of the text").event()

    async def pieces(self, ensemble: EnsembleHandle, timeout_s: float) -> AsyncGenerator[Json, None]:
        """What each event tells of one choice; tokens whose text must wait are not worth one."""
        shape, indices = self._order.shape, range(len(self._order.requests))
        openings = [one for one in map(shape.opening, indices) if one is not None]
        async with aclosing(self._chunks(ensemble, timeout_s)) as found:
            async for index, chunk in found:
                while openings:
                    yield openings.pop(0)
                if chunk.text or chunk.last or chunk.logprobs or chunk.accounts or chunk.prompt_logprobs:
                    yield self._told(shape.piece(index, chunk), index, chunk)

    def _event(self, choices: list[Json], with_usage: bool, usage: Json | None = None) -> bytes:
        piece = {**self._head, "object": self._order.shape.stream_kind, "choices": choices}
        if with_usage:
            piece["usage"] = usage
        return b"data: " + WRITER.encode(piece).encode() + b"\n\n"

    def _told(self, choice: Json, index: int, chunk: Chunk) -> Json:
        report = self._order.report
        return choice if report is None else choice | {"proxy": report.of(index, chunk)}

    def usage(self) -> Json:
        """What it took, once it has ended."""
        usages = [self._usages[index] for index in sorted(self._usages)]
        return usage_of(self._order.prompts, usages, self._order.report is not None)

    async def _chunks(self, ensemble: EnsembleHandle, timeout_s: float) -> AsyncGenerator[tuple[int, Chunk], None]:
        """All choices' chunks, with the books kept."""
        key, model, failed = self._key, self._order.body.model, "left by the client"
        self._quota.enter(key, len(self._order.requests))
        try:
            begun = False
            async with aclosing(run(ensemble, self._order.requests, timeout_s)) as found:
                async for index, chunk in found:
                    if not begun:
                        begun = True
                        read = sum(self._order.prompts)
                        self._quota.pay(key, read)
                        self._metrics.read(key.name, model, read)
                    self._note(index, chunk)
                    yield index, chunk
            failed = ""
        except Exception as error:
            failed = str(error)
            raise
        finally:
            self._quota.leave(key, len(self._order.requests))
            if self._tracer is not None:
                self._tracer.offer(self._trace(failed or None))

    def _note(self, index: int, chunk: Chunk) -> None:
        self._quota.pay(self._key, len(chunk.ids))
        self._metrics.written(self._key.name, self._order.body.model, len(chunk.ids))
        if chunk.usage is not None:
            self._usages[index] = chunk.usage
            self._metrics.finished(self._order.body.model, chunk.usage)
        if self._tracer is not None:
            self._kept[index].append(chunk)

    def _trace(self, failed: str | None) -> Told:
        """What a trace shows: what was asked, the texts, and accounts where they were asked for."""
        request = self._order.requests[0]
        choices = [joined(own) for own in self._kept if own]
        return Told(
            self._route,
            inputs=self._order.body.model_dump(mode="json", exclude_none=True),
            outputs={"texts": [one.text for one in choices], "accounts": [plain(one.accounts) for one in choices]},
            attributes={
                "id": self._head["id"],
                "model": self._order.body.model,
                "key": self._key.name,
                "lead": request.mixture.lead,
                "experts": [one.expert for one in request.mixture.steering],
                "alpha": [one.alpha for one in request.mixture.steering],
                "seed": request.sampling.seed,
                "max_tokens": request.max_tokens,
                "usage": self.usage(),
            },
            failed=failed,
            began_ns=self._began_ns,
            ended_ns=time.time_ns(),
        )


class EventStream(StreamingResponse):
    """Server-sent events, the first of them known; whatever happens to the client, the rest is closed."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], first: bytes) -> None:
        self._events = events
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(self._from(first), headers=headers)

    @classmethod
    async def begun(cls, events: AsyncGenerator[bytes, None]) -> EventStream:
        """A stream once its first event is there. Raises what prevents it."""
        return cls(events, await anext(events))

    async def _from(self, first: bytes) -> AsyncGenerator[bytes, None]:
        yield first
        async for event in self._events:
            yield event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it all."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


async def unless_left(receive: Receive, work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives; it is cancelled when the client goes away. Raises LeftError then."""

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work()), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise LeftError
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
