"""What stands in Ray Serve's own proxies, before requests are passed on to a gateway.

A proxy reads every body whole into memory, obeys headers that switch its timeouts and its notice of clients that leave,
and answers in plain text while no application is deployed. `middlewares` is called by each proxy when
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH is `serve.front:middlewares` in the environment that Ray is started in.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import uvicorn.config
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.config import MOST_BODY
from serve.errors import ApiError, busy
from serve.replies import StateReply

MOST_BODIES = 256 * 2**20
"""Bytes of all bodies of requests under way."""
RETRY_S = 5
CONTROL = frozenset((b"x-request-timeout-seconds", b"x-request-disconnect-disabled"))
"""Headers with which a client could keep the rows of an answer that it no longer waits for."""
CALLBACK = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"


def wanted() -> None:
    """Have the proxies of a Ray that this process starts stand behind the front."""
    os.environ.setdefault(CALLBACK, f"{__name__}:{middlewares.__name__}")


def middlewares() -> list[Middleware]:
    """For Ray Serve, in the process of a proxy, before its HTTP server starts."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = "serve.bounds:BoundedProtocol"
    return [Middleware(Front)]


class Front:
    """Bounds what is read of requests, and says in OpenAI's shape what the proxy itself would say."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in CONTROL]
        try:
            await self._pass(scope, receive, send)
        except ApiError as error:
            await error.response()(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Raises ApiError for what is answered here."""
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > MOST_BODY:
            raise _too_large()
        passage = Passage(receive, send, self.take)
        try:
            await self._app(scope, passage.receive, passage.send)
        finally:
            self._held -= passage.held
        if passage.refused:
            raise passage.refused
        if passage.own and scope["path"].startswith("/-/"):
            for message in passage.own:
                await send(message)
        elif passage.own:
            await _translated(scope, receive, send, passage.own[0]["status"])

    def take(self, size: int, held: int) -> ApiError | None:
        """Count `size` bytes more of a request that holds `held` with them; why they are too many, if they are."""
        self._held += size
        if held > MOST_BODY:
            return _too_large()
        return busy("too many bodies are under way", RETRY_S) if self._held > MOST_BODIES else None


class Passage:
    """One request on its way through: the bytes of its body that were `held`, why it was `refused`, and what the proxy
    says of its `own`, which is kept back.
    """

    def __init__(self, receive: Receive, send: Send, take: Callable[[int, int], ApiError | None]) -> None:
        self._receive, self._send, self._take = receive, send, take
        self.held, self.refused, self.own = 0, None, list[Message]()  # type: int, ApiError | None, list[Message]

    async def receive(self) -> Message:
        """What the client sends; that it left where it sent too much."""
        if self.refused is None:
            message = await self._receive()
            size = len(message.get("body", b""))
            self.held += size
            self.refused = self._take(size, self.held)
        return message if self.refused is None else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """What a gateway answers."""
        if self.own or _is_the_proxys_own(message):
            self.own.append(message)
        elif self.refused is None:
            await self._send(message)


def _is_the_proxys_own(message: Message) -> bool:
    """Whether a response begins that no gateway wrote: theirs are JSON where they are errors."""
    if message["type"] != "http.response.start" or message["status"] < 400:
        return False
    return Headers(raw=message["headers"]).get("content-type", "").startswith("text/plain")


async def _translated(scope: Scope, receive: Receive, send: Send, status: int) -> None:
    """Say what a proxy said: nothing is deployed (404), a gateway is lost, or time was up (408)."""
    if status == 404 and scope["path"] == "/health":
        await JSONResponse(StateReply(status="alive").model_dump())(scope, receive, send)
        return
    if status == 408:
        raise ApiError(504, "not finished in time")
    why = "no ensemble is served: one is starting, or ending" if status == 404 else "the gateway was lost"
    raise ApiError(503, f"{why}; try again", code="unavailable", headers={"Retry-After": str(RETRY_S)})


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {MOST_BODY} bytes; send less")
