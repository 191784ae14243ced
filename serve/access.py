"""One line per request, on the terminal: gateways write it to a file that the command follows, or to their own errors.

A line names the client, the key by its name, method, path, status and seconds; never a key, a prompt or a query.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

ACCESS = logging.getLogger("earnest.access")
FILE = "EARNEST_ACCESS_LOG"
"""The variable that tells gateways of this machine which file is followed."""
LOOK_S = 0.2


def begin() -> None:
    """Write this process's lines from now on."""
    file = os.environ.get(FILE)
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    ACCESS.handlers = [handler]
    ACCESS.setLevel(logging.INFO)
    ACCESS.propagate = False


@contextlib.contextmanager
def followed() -> Iterator[None]:
    """Show on this terminal what the gateways of a Ray that is started within the block write."""
    with tempfile.TemporaryDirectory(prefix="earnest-access-") as folder:
        file, ended = Path(folder) / "access.log", threading.Event()
        file.touch()
        os.environ[FILE] = str(file)
        thread = threading.Thread(target=_show, args=(file, ended), name="access", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            del os.environ[FILE]


def _show(file: Path, ended: threading.Event) -> None:
    with file.open(encoding="utf-8") as lines:
        over = False
        while not over:
            over = ended.wait(LOOK_S)
            for line in lines:
                sys.stderr.write(line)
            sys.stderr.flush()
