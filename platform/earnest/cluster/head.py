"""Watch the head of the cluster. Ray takes up with a head that comes back within a minute, but ends a driver in its C++
when it does not, in the middle of whatever call waits; so the driver ends a little earlier by itself, with one line.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from earnest.ending import leave

LOST_S = 45.0
KNOCK_EVERY_S = 3.0


@contextlib.contextmanager
def watched(address: str, on_lost: Callable[[], None]) -> Iterator[None]:
    """Within the block, end the process with exit code 1 when nobody listens at the head's address for `LOST_S`.

    Args:
        address: host:port of the head.
        on_lost: called before, on a thread of its own: the main one may wait in Ray for ever.
    """
    over = threading.Event()
    threading.Thread(target=_watch, args=(address, on_lost, over), name="head", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(address: str, on_lost: Callable[[], None], over: threading.Event) -> None:
    heard = time.monotonic()
    while not over.wait(min(KNOCK_EVERY_S, LOST_S / 3)):
        if _listens(address):
            heard = time.monotonic()
        elif time.monotonic() - heard >= LOST_S:
            on_lost()
            sys.stderr.write(
                f"error: the head of the Ray cluster at {address} has not answered for {LOST_S:g} s; finished steps "
                "are kept: run the same command again when it is back\n"
            )
            leave(1)


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_EVERY_S).close()
    except OSError:
        return False
    return True
