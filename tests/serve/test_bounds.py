"""What a server holds of a request before it knows the key: bounded, in its own process and in Ray Serve's proxy."""

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import uvicorn
from serve.bounds import HEAD_BYTES, BoundedProtocol
from serve.config import Config
from serve.ensemble import Ensemble
from serve.front import MOST_BODY, Front
from serve.gateway import make_app
from starlette.types import Message, Receive, Scope, Send
from uvicorn.server import ServerState

from serve import bounds, front

GET = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
CHUNKED = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n"


@pytest.fixture(scope="module")
def place(config: Config, ensemble: Ensemble, serving: Callable[..., Any]) -> Iterator[tuple[str, int]]:
    with serving(make_app(config, ensemble)) as url:
        parts = urlsplit(url)
        yield str(parts.hostname), int(parts.port or 0)


def raw(place: tuple[str, int], *pieces: bytes) -> bytes:
    """What a server says to bytes, all of it until it hangs up; what it does not take any more is not sent."""
    with socket.create_connection(place, timeout=20) as client:
        try:
            for piece in pieces:
                client.sendall(piece)
        except OSError:
            pass
        said = b""
        try:
            while piece := client.recv(65536):
                said += piece
        except OSError:
            pass
        return said


@pytest.mark.parametrize("pieces", [
    (GET, b"X: " + b"a" * HEAD_BYTES, b"\r\n\r\n"),
    (GET, b"X: ", *[b"a" * 65536] * 64),
    (GET, b"a" * 200_000),
    (GET, *[b"X-%d: a\r\n" % n for n in range(20_000)], b"\r\n"),
    (b"GET /", b"a" * 200_000, b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    (GET, b"\r\n", GET, b"X: ", *[b"a" * 65536] * 8),
], ids=["one", "one without an end", "a name", "many", "a path", "the second request"])  # fmt: skip
def test_headers_that_are_too_long_are_refused(place: tuple[str, int], pieces: tuple[bytes, ...]) -> None:
    last = raw(place, *pieces).split(b"HTTP/1.1 ")[-1]
    assert last.startswith(b"431 ")
    assert b'"code": "request_too_large"' in last


@pytest.mark.parametrize("behind", [
    (b"5;", b"x=" + b"a" * 65536, *[b"a" * 65536] * 8),
    (b"0\r\nX: ", *[b"a" * 65536] * 8),
    (b"0\r\n", *[b"X-%d: a\r\n" % n for n in range(20_000)]),
], ids=["chunk extension", "trailer", "trailers"])  # fmt: skip
def test_what_hides_in_a_body_is_bounded_too(behind: tuple[bytes, ...]) -> None:
    async def received() -> bool:
        pipe = Pipe()
        protocol = BoundedProtocol(uvicorn.Config(silent), ServerState(), {})
        protocol.connection_made(pipe)
        protocol.data_received(CHUNKED + b"Content-Type: application/json\r\n\r\n")
        for piece in behind:
            if not pipe.closed:
                protocol.data_received(piece)
        await asyncio.sleep(0)
        protocol.connection_lost(None)
        return pipe.closed

    assert asyncio.run(received())


async def silent(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that does not answer."""


class Pipe(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


def test_ordinary_headers_pass(place: tuple[str, int]) -> None:
    said = raw(place, GET, b"X: " + b"a" * (HEAD_BYTES // 2), b"\r\nConnection: close\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")


def test_a_keep_alive_connection_is_counted_anew_for_each_request(place: tuple[str, int]) -> None:
    one = GET + b"X: " + b"a" * 20_000 + b"\r\n\r\n"
    said = raw(place, *[one] * 9, GET + b"Connection: close\r\n\r\n")
    assert said.count(b"HTTP/1.1 200 ") == 10


def test_who_sends_no_request_is_not_waited_for(place: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "HEAD_S", 0.2)
    with socket.create_connection(place, timeout=30) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
    with socket.create_connection(place, timeout=30) as client:
        client.sendall(GET)
        began = time.monotonic()
        assert client.recv(65536).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 30


def fronted(app: Any, method: str, path: str, **sent: Any) -> httpx.Response:
    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Front(app)), base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **sent)

    return asyncio.run(asked())


async def greedy(scope: Scope, receive: Receive, send: Send) -> None:
    """As Serve's proxy reads: everything, without a look."""
    size, more = 0, True
    while more:
        message: Message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"%d" % size})


def chunks(count: int) -> Any:
    async def parts() -> Any:
        for _ in range(count):
            yield b"a" * 2**20

    return parts()


def test_a_proxy_reads_no_body_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    most = MOST_BODY // 2**20
    assert fronted(greedy, "POST", "/x", content=chunks(most)).text == str(MOST_BODY)
    assert fronted(greedy, "POST", "/x", content=chunks(most + 1)).status_code == 413
    assert fronted(greedy, "POST", "/x", headers={"Content-Length": str(MOST_BODY + 1)}).status_code == 413
    monkeypatch.setattr(front, "MOST_BODIES", 2**20)
    answer = fronted(greedy, "POST", "/x", content=chunks(2))
    assert answer.status_code == 429
    assert answer.headers["Retry-After"]


@pytest.mark.parametrize(("path", "status", "answered"), [
    ("/health", 404, 200), ("/ready", 404, 503), ("/v1/completions", 404, 503), ("/v1/models", 500, 503),
    ("/v1/models", 503, 503), ("/v1/models", 408, 504), ("/-/routes", 404, 404),
])  # fmt: skip
def test_what_a_proxy_says_itself_is_said_in_our_shape(path: str, status: int, answered: int) -> None:
    async def without_an_application(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"Path not found."})

    answer = fronted(without_an_application, "GET", path)
    assert answer.status_code == answered
    if answered == 503:
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.json()["error"]["type"] == "server_error"


def test_clients_do_not_switch_the_proxys_notice_of_those_that_leave() -> None:
    seen: list[Any] = []

    async def look(scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend(name for name, _ in scope["headers"])
        await greedy(scope, receive, send)

    fronted(look, "GET", "/", headers={"X-Request-Disconnect-Disabled": "?1", "X-Request-Timeout-Seconds": "-1"})
    assert not {b"x-request-disconnect-disabled", b"x-request-timeout-seconds"} & {*seen}
