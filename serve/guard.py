"""What stands before every route: who asks, how much they send, and how it ended. Plain ASGI, so streams pass through.

A request without a right key costs one hash: nothing of its body is read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.config import LOOPBACK, Config, Key
from serve.errors import ApiError
from serve.keys import EVERYBODY, bearer, holder
from serve.metrics import Metrics

OPEN = ("/", "/health", "/ready", "/openapi.json")
OPEN_FOLDER = "/page/"
"""What needs no key; everything else does, whether it is there or not."""


class Guard:
    """Lets requests through to the app with `scope["state"]["key"]` set, or answers for it."""

    def __init__(self, app: ASGIApp, config: Callable[[], Config], metrics: Metrics) -> None:
        self._app, self._config, self._metrics = app, config, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._pass(scope, receive, sent)
        except ApiError as error:
            await error.response()(scope, receive, sent)
        finally:
            route = scope.get("route")
            path = getattr(route, "path", "unknown")
            self._metrics.answered(path, status, time.perf_counter() - began)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        config, headers = self._config(), Headers(scope=scope)
        state = scope.setdefault("state", {})
        state["key"] = self._key(config, scope, headers)
        if scope["method"] == "POST":
            body = await _body(receive, headers, config)
            state["body_bytes"] = len(body)
            receive = _replayed(body, receive)
        await self._app(scope, receive, send)

    @staticmethod
    def _key(config: Config, scope: Scope, headers: Headers) -> Key:
        """Whose request this is. Raises ApiError where that must be known and is not."""
        if not config.keys:
            # A page that some browser here shows must not reach us through a name that leads to 127.0.0.1.
            if not (_names_this_machine(headers.get("host", "")) and _is_near(scope.get("client"))):
                raise ApiError(403, "served without keys, to this machine only: ask for it as 127.0.0.1")
            return EVERYBODY
        # Behind a prefix, the path begins with it.
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN or path.startswith(OPEN_FOLDER):
            return EVERYBODY
        presented = bearer(headers.get("authorization", ""))
        if presented is None:
            challenge = {"WWW-Authenticate": 'Bearer realm="earnest"'}
            raise ApiError(401, "no key: send the header 'Authorization: Bearer KEY'", headers=challenge)
        key = holder(config.keys, presented)
        if key is None:
            challenge = {"WWW-Authenticate": 'Bearer realm="earnest", error="invalid_token"'}
            raise ApiError(401, "this key is not known here", headers=challenge)
        if path == "/metrics" and not key.metrics:
            raise ApiError(403, f"key {key.name} may not read metrics; set metrics = true for it")
        return key


def _names_this_machine(host: str) -> bool:
    """Whether a Host header asks for this machine as itself."""
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:  # such as a bracket that is not closed
        return False


def _is_near(client: Sequence[Any] | None) -> bool:
    """Whether a peer (address, port) is on this machine; one that is not known, as of a Unix socket, is."""
    if not client:
        return True
    try:
        address = ip_address(str(client[0]))
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


async def _body(receive: Receive, headers: Headers, config: Config) -> bytes:
    """The whole body, read at once. Raises ApiError where it is too large or too slow."""
    limit = config.limits.body_bytes
    too_large = ApiError(413, f"the body is larger than {limit} bytes; send less")
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > limit:
        raise too_large
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(config.limits.timeout_s):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise ApiError(408, "the body did not come in time") from None
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """What is received is the body that is read already, and after it what the client does."""
    waiting: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return waiting.pop() if waiting else await receive()

    return replayed
