"""What stands before every route: who asks, how much they send, and how it ended. Plain ASGI, so streams pass through.

A request without a right key costs one hash: nothing of its body is read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.access import ACCESS
from serve.bounds import HEAD_BYTES
from serve.config import LOOPBACK, Config, Key
from serve.errors import ApiError
from serve.keys import EVERYBODY, bearer, holder
from serve.metrics import Metrics

LEFT = 499
"""What is counted where the client did not wait for the end of its answer, as nginx does."""
LONGEST_PATH = 200
KIND = "unsupported_media_type"
WHILE_DRAINING = ("/health", "/metrics")
COME_BACK = {"Retry-After": "5"}
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
        began, status, ended = time.perf_counter(), LEFT, False

        async def sent(message: Message) -> None:
            nonlocal status, ended
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        answered = _without_body(sent) if scope["method"] == "HEAD" else sent
        try:
            await self._pass(asked, receive, answered)
        except ApiError as error:
            await error.response()(asked, receive, answered)
        except ClientDisconnect:
            ended = False
        except Exception:
            status, ended = 500, True
            raise
        finally:
            self._note(asked, scope["method"], status if ended else LEFT, time.perf_counter() - began)

    def _note(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        """Count a request, and log it. Whose answer was not sent to its end has left."""
        self._metrics.answered(getattr(scope.get("route"), "path", "unknown"), status, seconds)
        if ACCESS.isEnabledFor(logging.INFO):
            key, client = scope.get("state", {}).get("key"), scope.get("client")
            ACCESS.info(
                '%s %s "%s %s" %d %.3f s', client[0] if client else "-", key.name if key else "-", method,
                quote(scope["path"])[:LONGEST_PATH], status, seconds,
            )  # fmt: skip

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        config, headers = self._config(), Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in scope["headers"]) > HEAD_BYTES:
            raise ApiError(431, f"the headers are longer than {HEAD_BYTES} bytes; send fewer")
        state = scope.setdefault("state", {})
        state["key"] = self._key(config, scope, headers)
        if config.draining and scope["path"] not in WHILE_DRAINING:
            raise ApiError(503, "this server takes no more requests", code="draining", headers=COME_BACK)
        if scope["method"] == "POST":
            body = await _body(receive, headers, config)
            if body:
                _check_kind(headers)
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


def _without_body(send: Send) -> Send:
    """As HEAD is answered: what GET is, its body left out."""

    async def sent(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return sent


def _check_kind(headers: Headers) -> None:
    """Raise ApiError unless a body is said to be plain JSON."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if not (kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))):
        said = f"content type {kind[:80]!r} is not read here" if kind else "the body has no content type"
        raise ApiError(400, f"{said}; send Content-Type: application/json", code=KIND)
    coding = headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity"):
        raise ApiError(400, f"content encoding {coding[:80]!r} is not read; send the body as it is", code=KIND)


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
