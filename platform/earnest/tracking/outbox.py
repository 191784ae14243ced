"""The outbox: what MLflow still has to be told, one JSON file per run, written whole or not at all.

An entry gets its timestamp when it is noted, not when it is sent: sending it twice is then the same statement twice,
which MLflow stores once.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
        """Note an entry. One that waits already and says the same keeps its timestamp."""
        path = self._path(experiment, entry)
        if path.is_file() and _read(path).entry.content == entry.content:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        pending = {"experiment": experiment, "timestamp": time.time_ns() // 1_000_000, "entry": asdict(entry)}
        writing = path.with_suffix(f".{os.getpid()}.tmp")
        writing.write_text(json.dumps(pending, indent=1, sort_keys=True, ensure_ascii=False), encoding="utf-8")
        writing.replace(path)

    def pending(self) -> list[Pending]:
        """All that waits, oldest first."""
        found = [_read(path) for path in self._folder.glob("*.json")]
        return sorted(found, key=lambda pending: (pending.timestamp, pending.entry.name))

    def drop(self, pending: Pending) -> None:
        """Forget an entry that was sent, unless a newer one took its place meanwhile."""
        path = self._path(pending.experiment, pending.entry)
        if path.is_file() and _read(path) == pending:
            path.unlink()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the outbox alone: two sweeps on one store send one after the other, so no run is made twice."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _path(self, experiment: str, entry: Entry) -> Path:
        return self._folder / f"{experiment}--{entry.name}.json".replace("/", "_")


def _read(path: Path) -> Pending:
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Pending(fields["experiment"], fields["timestamp"], Entry.from_json(fields["entry"]))
