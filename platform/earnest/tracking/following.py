"""Tell MLflow of each cell when its last step has ended, in a thread of its own: a sweep never waits for a server.

Nothing is told before `begin`: MLflow's import would compete with the start of a cluster.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from types import TracebackType

PROGRESS_S = 15.0
HURRY_S = 15.0  # what a sweep that is stopped waits for a server; the rest waits in the outbox


class Follower:
    """Counts the steps that end, and has cells told once all of theirs have.

    Args:
        cells: cell key -> the digests of the steps that fill it.
        tell: has the cells with these keys recorded; runs in the follower's thread.
        progress: has it said how far the sweep is: steps ended, cells ended; runs in the same thread.
    """

    def __init__(
        self,
        cells: Mapping[str, Collection[str]],
        tell: Callable[[Sequence[str]], None],
        progress: Callable[[int, int], None],
    ) -> None:
        self._open = {key: set(steps) for key, steps in cells.items()}
        self._tell, self._progress = tell, progress
        self._ended: set[str] = set()
        self._ready: list[str] = []
        self._begun = self._stop = False
        self._said_at = -PROGRESS_S
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="tracking", daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Tell what is ready still, then end. Where nothing was begun and all is well, the sweep's end says it all."""
        with self._change:
            if kind is None and not self._begun:
                self._ready.clear()
            self._begun = self._stop = True
            self._change.notify()
        self._thread.join(None if kind is None else HURRY_S)

    def begin(self) -> None:
        """The first step is about to run."""
        with self._change:
            self._begun = True
            self._change.notify()

    def end(self, digests: Collection[str]) -> None:
        """These steps are in the store, or never will be."""
        with self._change:
            self._ended |= set(digests)
            full = [key for key, steps in self._open.items() if steps <= self._ended]
            for key in full:
                del self._open[key]
            self._ready += full
            self._change.notify()

    def reopen(self, digest: str) -> None:
        """A step's output is made again; cells that were told stay told, and are told anew when the sweep ends."""
        with self._change:
            self._ended.discard(digest)

    def _run(self) -> None:
        with self._change:
            self._change.wait_for(lambda: self._begun)
        while True:
            with self._change:
                self._change.wait_for(lambda: self._ready or self._stop, timeout=PROGRESS_S)
                ready, self._ready, stop = self._ready, [], self._stop
                ended, cells = len(self._ended), len(self._open)
            if ready:
                self._tell(ready)
            if not stop and (ready or time.monotonic() - self._said_at >= PROGRESS_S):
                self._said_at = time.monotonic()
                self._progress(ended, cells)
            if stop:
                return
