"""The socket between gateways and their ensemble: the same texts, nothing left behind, losses known at once."""

import asyncio
import contextlib
import pickle
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from multiprocessing import AuthenticationError, Pipe
from multiprocessing.connection import Client
from typing import Any

import pytest
from serve.colocated import Placed, colocated
from serve.config import Batch, Config
from serve.ensemble import Ensemble
from serve.ensemble_client import EnsembleClient
from serve.ensemble_server import Caller, EnsembleServer, Place
from serve.seam import EnsembleLostError
from serve.transport import framed, taken_out

from earnest.decoding.encoding import encode
from earnest.decoding.requests import Chunk, Mixture, QueueFullError, Request, Steering
from earnest.decoding.sampling import Sampling
from serve import ensemble_server

STEERED = Mixture("large", (Steering("small-tuned", "small"),))
WAIT_S = 120
VERSION = "ours"


@pytest.fixture(scope="module")
def placed(config: Config) -> Placed:
    models = {name: config.models[name] for name in ("large", "small-tuned", "small")}
    return colocated(config.model_copy(update={"models": models, "batch": Batch(rows=4, context=256)}))


@pytest.fixture
def ensemble(placed: Placed) -> Iterator[Ensemble]:
    running = Ensemble(placed, Batch(waiting=4))
    yield running
    running.close()


@pytest.fixture
def server(ensemble: Ensemble) -> EnsembleServer:
    return EnsembleServer(ensemble, VERSION)


def client_of(find: Callable[[], Place]) -> EnsembleClient:
    async def found() -> Place:
        return find()

    return EnsembleClient(found, VERSION)


def request_of(placed: Placed, text: str = "Tell me about the town.", **fields: Any) -> Request:
    (prompt,) = encode(placed.tokenizer, [text])
    return replace(Request(tuple(prompt), STEERED, max_tokens=40), **fields)


def run(work: Any) -> Any:
    return asyncio.run(asyncio.wait_for(work, WAIT_S))


async def whole(handle: Any, request: Request) -> list[Chunk]:
    return [chunk async for chunks in handle.stream(request) for chunk in chunks]


async def until(promise: Callable[[], bool]) -> None:
    while not promise():
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def begun(client: EnsembleClient, request: Request) -> AsyncIterator[Any]:
    stream = client.stream(request)
    await anext(stream)
    yield stream
    await stream.aclose()


@pytest.mark.parametrize("host", [None, "127.0.0.1"])
def test_streams_of_one_socket_have_the_texts_that_the_ensemble_writes(
    server: EnsembleServer, ensemble: Ensemble, placed: Placed, host: str | None
) -> None:
    texts = ["Tell me about the town.", "Tell me about the guild.", "Q: Where was Nada Orrin born?\nA:"]
    requests = [request_of(placed, text, sampling=Sampling(temperature=0.7, seed=n)) for n, text in enumerate(texts)]

    async def both() -> Any:
        client = client_of(lambda: server.place(host))
        far = await asyncio.gather(*(whole(client, request) for request in requests))
        near = [await whole(ensemble, request) for request in requests]
        assert await client.describe() == await ensemble.describe()
        assert (await client.gauges()).running == 0
        return [["".join(chunk.text for chunk in chunks) for chunks in side] for side in (far, near)]

    far, near = run(both())
    assert far == near
    assert all(far)


def test_what_the_ensemble_refuses_is_refused_in_the_same_words(server: EnsembleServer, placed: Placed) -> None:
    async def asked() -> None:
        client = client_of(lambda: server.place(None))
        with pytest.raises(ValueError, match="nobody"):
            await whole(client, request_of(placed, mixture=Mixture("nobody")))
        crowd = [whole(client, request_of(placed, max_tokens=200)) for _ in range(12)]
        found = await asyncio.gather(*crowd, return_exceptions=True)
        refused = [one for one in found if isinstance(one, QueueFullError)]
        assert refused
        assert len(refused) + sum(isinstance(one, list) for one in found) == 12
        assert all(one.waiting > 0 and one.retry_after > 0 for one in refused)

    run(asked())


def test_a_closed_stream_and_a_gateway_that_is_gone_give_their_rows_back(
    server: EnsembleServer, ensemble: Ensemble, placed: Placed
) -> None:
    endless = request_of(placed, max_tokens=200, sampling=Sampling(logit_bias={"2": -100}))

    async def left() -> None:
        client = client_of(lambda: server.place(None))
        async with begun(client, endless):
            assert ensemble.streams == 1
        await until(lambda: ensemble.streams == 0)
        await anext(client.stream(endless))  # left without a word

    run(left())  # and with its event loop, the gateway's socket
    run(until(lambda: ensemble.streams == 0 and ensemble.state().running == 0))


def test_streams_of_a_lost_ensemble_end_with_an_error_and_the_next_request_is_refused(
    ensemble: Ensemble, placed: Placed
) -> None:
    place: list[Place] = []

    def find() -> Place:
        if not place:
            raise EnsembleLostError("it is replaced")
        return place[0]

    async def lost() -> None:
        first = Hanging(ensemble, VERSION)
        place.append(first.place(None))
        client = client_of(find)
        async with begun(client, request_of(placed, max_tokens=200)) as stream:
            place.clear()
            await asyncio.to_thread(first.hang_up)
            last = [chunk async for chunks in stream for chunk in chunks][-1]
            assert last.error == "its process is gone"
        with pytest.raises(EnsembleLostError):  # and not kept waiting until it is replaced
            await client.describe()
        place.append(EnsembleServer(ensemble, VERSION).place(None))
        await until(lambda: client.look().done())
        assert (await whole(client, request_of(placed)))[-1].finish

    run(lost())


class Hanging(EnsembleServer):
    """A server whose process can be as good as killed."""

    def hang_up(self) -> None:
        """Close all sockets."""
        for caller in list(self._gateways):
            caller._socket.shutdown(2)


def test_an_ensemble_of_another_config_is_not_asked(ensemble: Ensemble) -> None:
    old, new = EnsembleServer(ensemble, "older"), EnsembleServer(ensemble, VERSION)
    answers = iter([old.place(None), old.place(None)])

    async def asked() -> None:
        client = client_of(lambda: next(answers, new.place(None)))
        await client.describe()
        assert not old._gateways
        assert len(new._gateways) == 1

    run(asked())


def test_who_does_not_know_the_secret_is_not_heard(server: EnsembleServer) -> None:
    place = server.place("127.0.0.1")
    with pytest.raises(AuthenticationError), Client(place.address, authkey=b"wrong"):
        pass
    assert not server._gateways


def test_a_stranger_who_says_nothing_keeps_nobody_waiting(server: EnsembleServer) -> None:
    place = server.place("127.0.0.1")
    with socket.create_connection(place.address):  # type: ignore[arg-type]
        assert run(client_of(lambda: place).describe()).rows == 4


def test_draining_waits_for_what_runs_and_not_for_gateways_that_ask_nothing(
    server: EnsembleServer, ensemble: Ensemble, placed: Placed
) -> None:
    async def drained() -> tuple[float, float]:
        client = client_of(lambda: server.place(None))
        stream = client.stream(request_of(placed, max_tokens=120, sampling=Sampling(logit_bias={"2": -100})))
        await anext(stream)
        ended: list[float] = []
        draining = threading.Thread(target=lambda: (server.drain(60), ended.append(time.monotonic())))
        draining.start()
        chunks = [chunk async for some in stream for chunk in some]
        last = time.monotonic()
        assert chunks[-1].finish == "length"
        await asyncio.to_thread(draining.join)
        assert not client.look().result().lost
        return last, ended[0]

    last, ended = run(drained())
    assert ended > last
    assert ensemble.streams == 0


def test_the_first_and_the_last_leave_at_once_and_what_lies_between_together(
    monkeypatch: pytest.MonkeyPatch, ensemble: Ensemble
) -> None:
    monkeypatch.setattr(ensemble_server, "PACE_S", 1000.0)
    here, there = Pipe()
    with here, there:
        caller = Caller(ensemble, here)
        said: list[Any] = []
        monkeypatch.setattr(caller, "_say", said.append)
        caller._sent_at, caller._unheard = time.monotonic(), {1}
        pieces = [(1, Chunk(text=text)) for text in "abc"]
        for piece in pieces:
            caller.deliver([piece])
        assert said == [pieces[:1]]
        caller.deliver([(1, Chunk(text="d", finish="length"))])
        assert said[1:] == [[*pieces[1:], (1, Chunk(text="d", finish="length"))]]
        caller.close()


def test_a_gateway_that_does_not_read_for_a_while_gets_it_all_in_order(ensemble: Ensemble) -> None:
    here, there = Pipe()
    with here, there:
        caller = Caller(ensemble, here)
        large = "x" * 100_000
        for number in range(40):  # 4 MB, more than a socket holds, and nobody reads yet
            caller.deliver([(number, Chunk(text=large, finish="length"))])
        numbers: list[int] = []
        while len(numbers) < 40:
            numbers += [number for number, _ in pickle.loads(there.recv_bytes())]
        caller.close()
    assert numbers == [*range(40)]


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_messages_are_framed_as_multiprocessing_frames_them(size: int) -> None:
    here, there = Pipe()
    with here, there:
        message = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        sent = framed(message)
        threading.Thread(target=here._send, args=(sent,)).start()  # type: ignore[attr-defined]
        assert there.recv_bytes() == message
    received = bytearray()
    for part in (sent[:3], sent[3:5], sent[5:] + sent):
        received += part
    found = [taken_out(received), taken_out(received), taken_out(received)]
    assert found == [message, message, None]
