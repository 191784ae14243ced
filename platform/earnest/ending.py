"""Ending on a signal: SIGTERM, as `ray job stop` and Kubernetes send it, and SIGINT, which is Ctrl-C, end a command in
the same order, with exit code 143 and 130.

Both raise KeyboardInterrupt, the one exception that Ray's C++ carries through without aborting the process: work is
handed back in the `finally` blocks on the way out. The process then ends without running the destructors of libraries,
whose threads may still be at work.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

_received: list[int] = []


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGINT raise KeyboardInterrupt once; the process then ends with 128 + the signal.

    A second Ctrl-C ends it at once; further SIGTERMs change nothing.
    """
    catch_signals()
    try:
        yield
    except KeyboardInterrupt:
        if not _received:
            raise
    finally:
        if _received:
            leave(128 + _received[0])


def catch_signals() -> None:
    """Take the signals (again): Ray puts handlers of its own in their place, which abort."""
    if threading.current_thread() is threading.main_thread():
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, _handle)


def interrupt(signum: int, frame: FrameType | None) -> None:
    """A handler that raises KeyboardInterrupt each time: for who means something by the second one."""
    del frame
    note(signum)
    raise KeyboardInterrupt


def interrupted() -> int | None:
    """The signal that is ending this process, if one is."""
    return _received[0] if _received else None


def note(signum: int) -> None:
    """A signal arrived while somebody else's handler stood."""
    if not _received:
        _received.append(signum)


def _handle(signum: int, frame: FrameType | None) -> None:
    del frame
    if _received:
        if signum == signal.SIGINT:
            leave(128 + signum)
        return
    _received.append(signum)
    raise KeyboardInterrupt


def leave(code: int) -> None:
    """End the process now, with what was printed but without the destructors of libraries."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
