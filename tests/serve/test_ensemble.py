"""The running ensemble: streams get what they would get alone, rows come back, and nothing ends in silence."""

import asyncio
import contextlib
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from serve.colocated import Placed, colocated
from serve.config import Batch, Config
from serve.ensemble import Ensemble
from serve.members import Host, RemoteMember
from serve.seam import EnsembleLostError

from earnest.almanac.questions import zero_shot
from earnest.almanac.world import World
from earnest.decoding.encoding import encode
from earnest.decoding.local import Done, LocalMember
from earnest.decoding.requests import Chunk, Mixture, QueueFullError, Request, Steering
from earnest.decoding.sampling import Sampling
from earnest.specs import UserError

T = TypeVar("T")

STEERED = Mixture("large", (Steering("small-tuned", "small"),))
LONG = 200
WAIT_S = 120


@pytest.fixture(scope="module")
def placed(config: Config) -> Placed:
    """The nano models with few rows, for ensembles that these tests start and end."""
    models = {name: config.models[name] for name in ("large", "small-tuned", "small")}
    return colocated(config.model_copy(update={"models": models, "batch": Batch(rows=4, context=256)}))


@pytest.fixture
def start() -> Iterator[Callable[[Placed, Batch], Ensemble]]:
    """Ensembles that end with the test."""
    with contextlib.ExitStack() as stack:

        def started(placed: Placed, batch: Batch) -> Ensemble:
            ensemble = Ensemble(placed, batch)
            stack.callback(ensemble.close)
            return ensemble

        yield started


def run(work: Awaitable[T]) -> T:
    """Run a coroutine, but not for ever."""
    return asyncio.run(asyncio.wait_for(work, WAIT_S))  # type: ignore[arg-type]


async def whole(ensemble: Ensemble, request: Request) -> list[Chunk]:
    """All chunks of a stream."""
    return [chunk async for chunks in ensemble.stream(request) for chunk in chunks]


def ids_of(chunks: list[Chunk]) -> tuple[int, ...]:
    assert chunks[-1].finish is not None, chunks[-1].error
    return tuple(token for chunk in chunks for token in chunk.ids)


def requests_of(placed: Placed, count: int) -> list[Request]:
    """Questions and stories, greedy and sampled, steered and not, long and short."""
    questions = [question.prompt for question in zero_shot(World.shipped(), count, seed=11)]
    texts = [text if n % 3 else f"Tell me about {text}" for n, text in enumerate(questions)]
    return [
        Request(
            tuple(prompt),
            STEERED if n % 4 else Mixture("large"),
            max_tokens=4 + n % 29,
            sampling=Sampling(temperature=0.8 * (n % 2), seed=n),
            owner=f"key {n % 5}",
        )
        for n, prompt in enumerate(encode(placed.tokenizer, texts))
    ]


def endless(placed: Placed, **changes: object) -> Request:
    """A request that runs until its row is full."""
    (prompt,) = encode(placed.tokenizer, ["Tell me about the town."])
    asked = Request(tuple(prompt), STEERED, max_tokens=LONG, sampling=Sampling(temperature=1.5, seed=1))
    return replace(asked, **changes)  # type: ignore[arg-type]


async def freed(ensemble: Ensemble) -> None:
    """Return once nothing runs and nothing waits."""
    while (gauges := await ensemble.gauges()).running or gauges.waiting:
        await asyncio.sleep(0.005)


@pytest.mark.slow
def test_200_concurrent_streams_complete_and_equal_what_each_gets_alone(ensemble: Ensemble, placed: Placed) -> None:
    requests = requests_of(placed, 200)

    async def together() -> list[list[Chunk]]:
        return await asyncio.gather(*(whole(ensemble, request) for request in requests))

    async def one_by_one() -> list[list[Chunk]]:
        return [await whole(ensemble, request) for request in requests]

    crowd, alone = run(together()), run(one_by_one())
    assert [ids_of(chunks) for chunks in crowd] == [ids_of(chunks) for chunks in alone]


@pytest.mark.slow
def test_1000_cancelled_requests_leave_nothing_behind(
    start: Callable[[Placed, Batch], Ensemble], placed: Placed
) -> None:
    ensemble = start(placed, Batch(waiting=64))

    async def cancelled_at_once(rounds: int) -> int:
        for number in range(rounds):
            streams = [ensemble.stream(endless(placed, max_tokens=100 + n)) for n in range(20)]
            for stream in streams[: number % 20]:
                waiting = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(0)
                waiting.cancel()
            await anext(streams[-1])
            for stream in streams:
                await stream.aclose()
            await freed(ensemble)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    before = run(cancelled_at_once(20))
    after = run(cancelled_at_once(80))
    assert after - before < 32 * 1024, "KiB of memory more"
    gauges = run(ensemble.gauges())
    assert (gauges.running, gauges.waiting, gauges.kv_bytes_used) == (0, 0, 0)
    assert ids_of(run(whole(ensemble, endless(placed))))


def test_a_closed_stream_gives_its_row_back(start: Callable[[Placed, Batch], Ensemble], placed: Placed) -> None:
    ensemble = start(placed, Batch())

    async def leave() -> None:
        stream = ensemble.stream(endless(placed))
        await anext(stream)
        assert (await ensemble.gauges()).running == 1
        await stream.aclose()
        await freed(ensemble)

    run(leave())


def test_an_item_holds_all_that_came_since_the_last(start: Callable[[Placed, Batch], Ensemble], placed: Placed) -> None:
    ensemble = start(placed, Batch())

    async def slowly() -> list[int]:
        counts = []
        async for chunks in ensemble.stream(endless(placed, draft=False)):
            counts.append(len(chunks))
            await asyncio.sleep(0.1)
        return counts

    counts = run(slowly())
    assert max(counts) > 1
    assert sum(counts) > len(counts)


def test_items_come_no_faster_than_they_may_and_the_last_is_not_held_back(placed: Placed) -> None:
    ensemble = Ensemble(placed, Batch(), items_per_s=4.0)

    async def timed() -> tuple[float, list[int]]:
        began = time.perf_counter()
        request = endless(placed, draft=False, max_tokens=80)
        counts = [len(chunks) async for chunks in ensemble.stream(request)]
        return time.perf_counter() - began, counts

    async def both() -> list[tuple[float, list[int]]]:
        return await asyncio.gather(timed(), timed())

    for seconds, counts in run(both()):
        assert sum(counts) == 80
        assert len(counts) - 2 <= seconds * 4.0 / 2
    ensemble.close()


class Waiting:
    """A member that reads prompts, and behind them only once it may."""

    def __init__(self, member: LocalMember) -> None:
        self._member, self.may = member, threading.Event()
        self.name, self.rows, self.slots = member.name, member.rows, member.slots
        self.vocabulary, self.row_bytes = member.vocabulary, member.row_bytes
        self.draft, self.copy, self.elsewhere = member.draft, member.copy, member.elsewhere

    def read(self, rows: Any, starts: Any, tokens: Any, last: bool = False) -> Done[Any]:
        assert last or self.may.wait(60)
        return self._member.read(rows, starts, tokens, last)


def test_the_first_token_leaves_at_once_and_others_together_once_the_text_has_ended(placed: Placed) -> None:
    large, *others = placed.members
    waiting = Waiting(large)
    ensemble = Ensemble(replace(placed, members=(waiting, *others)), Batch(), items_per_s=0.5)

    async def counts() -> list[int]:
        found = []
        async for chunks in ensemble.stream(endless(placed, draft=False, max_tokens=20)):
            found.append(len(chunks))
            waiting.may.set()
        return found

    assert run(counts()) == [1, 19]
    ensemble.close()


def test_what_the_batch_refuses_reaches_the_caller(start: Callable[[Placed, Batch], Ensemble], placed: Placed) -> None:
    ensemble = start(placed, Batch(waiting=0))
    with pytest.raises(ValueError, match="nobody"):
        run(whole(ensemble, endless(placed, mixture=Mixture("nobody"))))

    async def crowd() -> None:
        await asyncio.gather(*(whole(ensemble, endless(placed)) for _ in range(12)))

    with pytest.raises(QueueFullError):
        run(crowd())


def test_closing_ends_streams_with_an_error_and_takes_no_more(placed: Placed) -> None:
    ensemble = Ensemble(placed, Batch())

    async def closed_meanwhile() -> Chunk:
        stream = ensemble.stream(endless(placed))
        await anext(stream)
        await asyncio.to_thread(ensemble.close)
        return [chunk async for chunks in stream for chunk in chunks][-1]

    assert run(closed_meanwhile()).error == "the ensemble was shut down"
    with pytest.raises(EnsembleLostError):
        run(whole(ensemble, endless(placed)))
    with pytest.raises(EnsembleLostError):
        ensemble.check_health()


class Breaking:
    """A member that breaks, as a bug or a full device would, after some readings."""

    def __init__(self, member: LocalMember, readings: int) -> None:
        self._member, self._left = member, readings
        self.name, self.rows, self.slots = member.name, member.rows, member.slots
        self.vocabulary, self.row_bytes = member.vocabulary, member.row_bytes
        self.draft, self.copy, self.elsewhere = member.draft, member.copy, member.elsewhere

    def read(self, *question: object, **options: object) -> Done[object]:
        self._left -= 1
        if self._left < 0:
            raise MemoryError("no room for one more number")
        return self._member.read(*question, **options)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_crash_of_the_decoding_ends_every_stream_with_an_error_and_is_unhealthy(placed: Placed) -> None:
    large, *others = placed.members
    assert isinstance(large, LocalMember)
    ensemble = Ensemble(replace(placed, members=(Breaking(large, 5), *others)), Batch())
    ensemble.check_health()

    async def all_of_them() -> list[list[Chunk]]:
        return await asyncio.gather(*(whole(ensemble, endless(placed)) for _ in range(8)))

    for chunks in run(all_of_them()):
        assert chunks[-1].error == "the ensemble stopped: no room for one more number"
    with pytest.raises(EnsembleLostError, match="no room"):
        ensemble.check_health()
    with pytest.raises(EnsembleLostError, match="no room"):
        run(whole(ensemble, endless(placed)))
    ensemble.close()


def test_a_lost_member_ends_every_stream_with_an_error_and_is_unhealthy(placed: Placed) -> None:
    host = Host(placed.members[0], b"secret", None)
    remote = RemoteMember(host.card, b"secret")
    ensemble = Ensemble(replace(placed, members=(remote, *placed.members[1:])), Batch())

    async def lost_meanwhile() -> list[Chunk]:
        streams = [ensemble.stream(endless(placed)) for _ in range(4)]
        await asyncio.gather(*(anext(stream) for stream in streams))
        remote.close()
        return [[chunk async for chunks in stream for chunk in chunks][-1] for stream in streams]

    for last in run(lost_meanwhile()):
        assert last.error is not None
        assert "member large: its process is gone" in last.error
    with pytest.raises(EnsembleLostError, match="member large"):
        ensemble.check_health()
    with pytest.raises(EnsembleLostError, match="member large"):
        run(whole(ensemble, endless(placed)))
    ensemble.close()


def test_key_value_memory_decides_how_many_rows_there_are(config: Config) -> None:
    models = {name: config.models[name] for name in ("large", "small")}
    few = config.model_copy(update={"models": models, "pairs": {}, "batch": Batch(rows=8, context=64)})
    row_bytes = sum(member.row_bytes for member in colocated(few).members)
    tight = few.model_copy(update={"batch": Batch(rows=8, context=64, kv_bytes=3 * row_bytes + 1)})
    assert {member.rows for member in colocated(tight).members} == {3}
    with pytest.raises(UserError, match=f"one takes {row_bytes} bytes"):
        colocated(few.model_copy(update={"batch": Batch(context=64, kv_bytes=row_bytes - 1)}))
