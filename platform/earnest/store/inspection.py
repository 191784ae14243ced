"""Whether a step's output is whole: its `step.json` says which files it has, and with which bytes.

Hashing large checkpoints takes long, so what was found whole is remembered by what changes when its bytes do (inode and
change time, or a bucket's ETag).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earnest.specs import UserError

STEP_FILE = "step.json"
RUN_FILE = "run.json"
# Outputs with fewer bytes are hashed by every process; those with more are remembered on disk too.
WORTH_REMEMBERING = 64 * 2**20
# Of a bucket's larger objects the size alone is looked at here; their bytes are, when they are fetched.
HASHED_REMOTELY = 16 * 2**20


class CorruptOutputError(UserError):
    """A stored file does not have the bytes that were published.

    `kind` and `digest` name the step that made it. They are arguments, so that they survive pickling.
    """

    def __init__(self, message: str, kind: str = "", digest: str = "") -> None:
        super().__init__(message, kind, digest)
        self.kind, self.digest = kind, digest

    def __str__(self) -> str:
        """The message alone."""
        return str(self.args[0])


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing shows it. `version` changes when its bytes do."""

    size: int
    version: str


def entries_of(folder: Path) -> dict[str, StoredFile]:
    """The files in a local folder and below it, by their relative names."""
    found: dict[str, StoredFile] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = path.stat()
                version = f"{status.st_ino}-{status.st_ctime_ns}-{status.st_mtime_ns}"
                found[path.relative_to(folder).as_posix()] = StoredFile(status.st_size, version)
    return found


def parsed(content: bytes, kind: str, digest: str) -> dict[str, Any]:
    """A `step.json`. Raises ValueError where it is not that of the step."""
    step = json.loads(content)
    complete = isinstance(step, dict) and isinstance(step.get("files"), dict) and isinstance(step.get("spec"), dict)
    if not complete or (step.get("kind"), step.get("digest")) != (kind, digest):
        raise ValueError("it is not that of the step")
    return dict(step)


def damage(
    step: Mapping[str, Any],
    entries: Mapping[str, StoredFile],
    digest_of: Callable[[str], str | None],
    *,
    hashed: int | None,
) -> str:
    """The first file that is not as published, and why; empty where all are.

    Args:
        step: what `step.json` says.
        entries: the files that are there.
        digest_of: a file's sha256, None if it is gone.
        hashed: files with more bytes are not hashed; None for all.
    """
    sizes: Mapping[str, int] = step.get("sizes", {})
    for name, expected in step["files"].items():
        if name not in entries:
            return f"{name} is missing"
        size = entries[name].size
        if size != sizes.get(name, size):
            return f"{name} has {size} bytes instead of {sizes[name]}"
        if (hashed is None or size <= hashed) and digest_of(name) != expected:
            return f"the bytes of {name} are not the ones published"
    return ""


class Remembered:
    """Which outputs were found whole, by process and, where they are large, on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder: Path | None = folder
        self._known: dict[tuple[str, str], str] = {}

    def forget(self) -> None:
        """Find everything out afresh, here and now."""
        self._known.clear()
        self._folder = None

    def knows(self, kind: str, digest: str, entries: Mapping[str, StoredFile]) -> bool:
        """Whether the output was whole when it consisted of just these files."""
        print_ = _fingerprint(entries)
        if self._known.get((kind, digest)) == print_:
            return True
        if self._folder is None or _bytes(entries) < WORTH_REMEMBERING:
            return False
        try:
            return (self._folder / kind / digest).read_text(encoding="ascii") == print_
        except (OSError, UnicodeDecodeError):
            return False

    def note(self, kind: str, digest: str, entries: Mapping[str, StoredFile]) -> None:
        """The output was found whole."""
        self._known[kind, digest] = _fingerprint(entries)
        if self._folder is not None and _bytes(entries) >= WORTH_REMEMBERING:
            path = self._folder / kind / digest
            with contextlib.suppress(OSError):  # a home that cannot be written: it is hashed again
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(self._known[kind, digest], encoding="ascii")


def _bytes(entries: Mapping[str, StoredFile]) -> int:
    return sum(entry.size for entry in entries.values())


def _fingerprint(entries: Mapping[str, StoredFile]) -> str:
    # run.json is circumstance and not part of what is promised.
    parts = [f"{name}|{one.size}|{one.version}" for name, one in sorted(entries.items()) if name != RUN_FILE]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
