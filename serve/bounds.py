"""uvicorn's fast HTTP protocol, with bounds on what it keeps of a request before any application sees it.

httptools gathers the line of a request, its headers, the trailers of its body and the extensions of its chunks in
memory, however long they are and whoever sends them. Here they end with 431 at `HEAD_BYTES`, and with 408 where they do
not come within `HEAD_S`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serve.errors import ApiError

HEAD_BYTES = 64 * 1024
HEAD_S = 30.0
LINGER_S = 1.0
"""For what a refused client still sends: a reset would take the answer away before it is read."""


class TooLongError(Exception):
    """The headers of one request are together too long."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection; whatever is refused closes it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unread = self._head = 0
        self._refused = False
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._unread = 0
        self._forget_late()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it is too much."""
        if self._refused:
            return
        self._unread += len(data)
        super().data_received(data)
        if self._unread > HEAD_BYTES:
            self._refuse(431)
        elif self._unread and self._late is None:
            self._await_head()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._head = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of the path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header or a trailer."""
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The application takes over."""
        self._unread = 0
        self._forget_late()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body, which the application bounds."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._unread = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be parsed: by us where it was too long."""
        if self._head > HEAD_BYTES:
            self._refuse(431)
        else:
            super().send_400_response(msg)

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > HEAD_BYTES:
            raise TooLongError

    def _await_head(self) -> None:
        self._late = self.loop.call_later(HEAD_S, self._refuse, 408)

    def _forget_late(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _refuse(self, status: int) -> None:
        """Answer, unless an answer is on its way; hear nothing more, and close."""
        if self._refused or self.transport.is_closing():
            return
        self._refused = True
        self._forget_late()
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()
            return
        said = {408: f"no request came within {HEAD_S:g} s", 431: f"the headers are longer than {HEAD_BYTES} bytes"}
        response = ApiError(status, f"{said[status]}; send fewer" if status == 431 else said[status]).response()
        head = [(b"connection", b"close"), *response.raw_headers]
        lines = b"".join(name + b": " + value + b"\r\n" for name, value in head)
        self.transport.write(STATUS_LINE[status] + lines + b"\r\n" + bytes(response.body))
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)
