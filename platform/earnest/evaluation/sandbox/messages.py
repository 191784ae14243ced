"""What judge and candidate say to each other: messages of one length and one text, through a pipe in each direction.

Needs the standard library alone, as `enclosure` says.
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any

MOST = 64 * 2**20


class ChannelClosedError(Exception):
    """The other process ended, or says what is no message."""


class Channel:
    """One end of two pipes."""

    def __init__(self, reads: int, writes: int) -> None:
        self._reads, self._writes = reads, writes

    def send(self, message: Any) -> None:
        """Send what JSON can say.

        Raises:
            ChannelClosedError: the other process has ended.
        """
        data = json.dumps(message).encode()
        data = len(data).to_bytes(4, "big") + data
        try:
            while data:
                data = data[os.write(self._writes, data) :]
        except BrokenPipeError:
            raise ChannelClosedError from None

    def receive(self) -> Any:
        """The next message.

        Raises:
            ChannelClosedError: there is none, it is longer than `MOST` bytes, or it is no JSON.
        """
        length = int.from_bytes(self._exactly(4), "big")
        if length > MOST:
            raise ChannelClosedError
        try:
            return json.loads(self._exactly(length).decode())
        except ValueError:
            raise ChannelClosedError from None

    def _exactly(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            piece = os.read(self._reads, count - len(found))
            if not piece:
                raise ChannelClosedError
            found += piece
        return found


def read_files() -> dict[str, str]:
    """The files of the working folder by name, as texts that `write_files` takes."""
    found = {}
    for entry in os.scandir("."):
        if entry.is_file(follow_symlinks=False):
            with open(entry.path, "rb") as file:  # noqa: PTH123
                found[entry.name] = base64.b64encode(file.read()).decode()
    return found


def write_files(files: dict[str, str]) -> None:
    """Write them into the working folder.

    Raises:
        ValueError: a name leads elsewhere.
    """
    for name, held in files.items():
        if os.path.basename(name) != name or name in ("", ".", "..") or os.path.islink(name):  # noqa: PTH114, PTH119
            raise ValueError("file {!r}".format(name))  # noqa: UP032
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(base64.b64decode(held))
