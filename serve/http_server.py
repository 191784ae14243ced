"""A gateway's own way in: uvicorn on a thread of its own, on a port that several gateways of a machine may share."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import uvicorn

from earnest.specs import UserError
from serve.bounds import BoundedProtocol

BACKLOG = 2048
START_S = 60.0
LOOK_S = 0.01


class HttpServer:
    """Serves an ASGI app from when this returns until `stop`.

    Raises:
        UserError: the port is taken.
    """

    def __init__(self, app: Any, host: str, port: int) -> None:
        listening = _listening(host, port)
        self._server = uvicorn.Server(
            uvicorn.Config(app, loop="uvloop", http=BoundedProtocol, log_level="warning", access_log=False)
        )
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="http", daemon=True)
        self._thread.start()
        end = time.monotonic() + START_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(LOOK_S)
        self.check_health()

    def check_health(self) -> None:
        """Raise RuntimeError where nothing is answered any more."""
        if not (self._server.started and self._thread.is_alive()):
            raise RuntimeError("the HTTP server has ended")

    def stop(self, seconds: float) -> None:
        """End once no request is under way, or time is up. Until then new ones are heard, for the app to refuse."""
        end = time.monotonic() + seconds
        while self._server.server_state.tasks and time.monotonic() < end:
            time.sleep(LOOK_S)
        self._server.should_exit = True
        self._thread.join(max(0.0, end - time.monotonic()))


def _listening(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise UserError(
            f"port {port} of {host} cannot be had ({error.strerror}); set another one in the config"
        ) from error
    listening.listen(BACKLOG)
    return listening
