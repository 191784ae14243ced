"""The outbox: what MLflow still has to be told, one JSON file per run, written whole or not at all.

An entry gets its timestamp when it is noted, not when it is sent: sending it twice is then the same statement twice,
which MLflow stores once.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from earnest.tracking.entries import Entry


@dataclass(frozen=True)
class Pending:
    """An entry that waits: for which experiment, and since when (milliseconds since the epoch)."""

    experiment: str
    timestamp: int
    entry: Entry


class Outbox:
    """The pending entries under one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, experiment: str, entry: Entry) -> None:
        """Note an entry. One that waits already and says the same keeps its timestamp.

        What is said while a sweep runs never takes the place of what was said at its end.
        """
        path = self._path(experiment, entry)
        waiting = _read(path) if path.is_file() else None
        if waiting is not None:
            final_waits = entry.interim and not waiting.entry.interim
            if final_waits or (waiting.entry.content == entry.content and waiting.entry.interim == entry.interim):
                return
        self._folder.mkdir(parents=True, exist_ok=True)
        pending = {"experiment": experiment, "timestamp": time.time_ns() // 1_000_000, "entry": asdict(entry)}
        writing = path.with_suffix(f".{os.getpid()}.tmp")
        with writing.open("w", encoding="utf-8") as file:
            json.dump(pending, file, indent=1, sort_keys=True, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        writing.replace(path)

    def pending(self) -> list[Pending]:
        """All that waits, oldest first."""
        found = [_read(path) for path in self._folder.glob("*.json")]
        return sorted((one for one in found if one is not None), key=lambda one: (one.timestamp, one.entry.name))

    def drop(self, pending: Pending) -> None:
        """Forget an entry that was sent, unless a newer one took its place meanwhile."""
        path = self._path(pending.experiment, pending.entry)
        if path.is_file() and _read(path) == pending:
            path.unlink()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the outbox alone: two sweeps on one store send one after the other."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            with contextlib.suppress(OSError):  # a file system without locks: a second run is then found and settled
                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, experiment: str, entry: Entry) -> Path:
        return self._folder / f"{experiment}--{entry.sweep}--{entry.name}.json".replace("/", "_")


def _read(path: Path) -> Pending | None:
    """An entry as it was noted. One that cannot be read is kept beside, under a name that is not looked at."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return Pending(fields["experiment"], fields["timestamp"], Entry.from_json(fields["entry"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        path.replace(path.with_suffix(".unreadable"))
        return None
