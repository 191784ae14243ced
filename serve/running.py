"""From requests to their chunks: choices run side by side, no stream ends in silence, and a closed one is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from earnest.decoding.requests import Chunk, QueueFullError, Request
from serve.answers import joined
from serve.errors import ApiError, busy
from serve.seam import EnsembleHandle, EnsembleLostError

LOST_RETRY_S = 5.0


async def run(
    ensemble: EnsembleHandle, requests: Sequence[Request], timeout_s: float
) -> AsyncGenerator[tuple[int, Chunk], None]:
    """The chunks of all requests as they come, each with its request's number; close it to cancel them all.

    Raises:
        ApiError: the queue is full, a request cannot be served, the ensemble is lost, or time is up.
    """
    deadline = asyncio.get_running_loop().time() + timeout_s
    streams = [_one(ensemble, request, deadline, timeout_s) for request in requests]
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for chunk in only:
                yield 0, chunk
        return
    async with aclosing(_merged(streams)) as merged:
        async for item in merged:
            yield item


async def _one(
    ensemble: EnsembleHandle, request: Request, deadline: float, timeout_s: float
) -> AsyncGenerator[Chunk, None]:
    """One continuation, what came together joined, to its last chunk."""
    async with aclosing(ensemble.stream(request)) as items:
        while True:
            chunk = await _next(items, deadline, timeout_s)
            if chunk.error is not None:
                raise lost(chunk.error)
            if chunk.finish == "not_finite":
                raise ApiError(500, "a model's logits are not finite here: this is no end", code="not_finite")
            yield chunk
            if chunk.last:
                return


async def _next(items: AsyncGenerator[list[Chunk], None], deadline: float, timeout_s: float) -> Chunk:
    """What came since the last time; what the ensemble raises, in OpenAI's words."""
    try:
        async with asyncio.timeout_at(deadline):
            return joined(await anext(items))
    except TimeoutError:
        raise ApiError(504, f"not finished within {timeout_s:g} s; ask for fewer tokens, or come back later") from None
    except StopAsyncIteration:
        raise lost("the continuation ended without a reason") from None
    except QueueFullError as error:
        raise busy(f"too busy: {error}", error.retry_after, "queue_full") from None
    except EnsembleLostError as error:
        raise lost(str(error)) from error
    except ValueError as error:
        raise ApiError(400, str(error)) from error


def lost(why: str) -> ApiError:
    """The ensemble is gone or gave up; another may be on its way."""
    return ApiError(
        503, f"the ensemble cannot go on ({why}); try again", code="ensemble_lost",
        headers={"Retry-After": f"{LOST_RETRY_S:.0f}"},
    )  # fmt: skip


async def _merged(streams: Sequence[AsyncGenerator[Chunk, None]]) -> AsyncGenerator[tuple[int, Chunk], None]:
    """The chunks of all streams as they come, numbered; the first error ends all."""
    queue: asyncio.Queue[tuple[int, Chunk] | BaseException | None] = asyncio.Queue()

    async def pump(number: int, stream: AsyncGenerator[Chunk, None]) -> None:
        async with aclosing(stream):
            async for chunk in stream:
                queue.put_nowait((number, chunk))

    def ended(task: asyncio.Task[None]) -> None:
        queue.put_nowait(None if task.cancelled() else task.exception())

    tasks = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    for task in tasks:
        task.add_done_callback(ended)
    going = len(tasks)
    try:
        while going:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                going -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
