"""Who runs which step: leases in the store, so that drivers that share it do not run a step twice.

A lease is a file `leases/<digest>/<number>` that names its driver; the highest number counts. All that must be atomic
is to create a file that is not there yet: O_EXCL, also on network file systems that have no reliable locks, or a
bucket's conditional put. A driver rewrites its heartbeat `drivers/<name>` every few seconds. Who sees one unchanged for
`EXPIRY_S` on its own clock takes the driver for dead, so the machines' clocks need not agree; of a driver of the
same machine it is known at once.

A lease saves work and is no lock: a driver that was held up for longer than that finds its step run elsewhere too, and
whichever output is published first stays.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

EXPIRY_S = 60.0
HEARTBEAT_S = 10.0
LEASES, DRIVERS = "leases", "drivers"
# How a bucket says that an object is there already, or that another request just writes it.
REFUSALS = ("PreconditionFailed", "pre-condition", "ConditionalRequestConflict")


class Leases:
    """The leases of one driver.

    Args:
        fs, base: the store's file system and root.
        name: the driver's; made at random by default.
        expiry_s: for how long a heartbeat may stay unchanged.
    """

    def __init__(self, fs: Any, base: str, name: str | None = None, expiry_s: float = EXPIRY_S) -> None:
        self._fs, self._base, self._expiry_s = fs, base, expiry_s
        self.name = name or uuid.uuid4().hex[:12]
        self._local = "file" in self._fs.protocol
        self._mine: dict[str, int] = {}
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._ending = threading.Event()
        self._beats = 0
        self._thread = threading.Thread(target=self._keep_beating, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Begin the heartbeat: leases can be taken from now on."""
        self._beat()
        self._thread.start()

    def end(self, finished: Iterable[str] = ()) -> None:
        """Give everything back. Of steps that are published, `finished`, no lease need be kept, whosesoever it was."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=HEARTBEAT_S)
        for digest in set(self._names(LEASES)).intersection(finished):
            with contextlib.suppress(OSError):
                self._fs.rm(f"{self._base}/{LEASES}/{digest}", recursive=True)
        for driver in self._names(DRIVERS):
            if driver == self.name or not self._lives(driver):
                with contextlib.suppress(OSError):
                    self._fs.rm_file(f"{self._base}/{DRIVERS}/{driver}")

    def take(self, digest: str) -> bool:
        """Take the step's lease. False while another living driver has it."""
        number = 1
        while digest not in self._mine:
            if self._create(f"{LEASES}/{digest}/{number}", self.name):
                self._mine[digest] = number
                break
            last, owner = self._last(digest)
            if owner is not None and self._lives(owner):
                return False
            number = last + 1
        return True

    def give_back(self, digest: str) -> None:
        """Let others run the step."""
        number = self._mine.pop(digest, None)
        if number is not None:
            self._create(f"{LEASES}/{digest}/{number + 1}", "")

    def is_free(self, digest: str) -> bool:
        """Whether no other living driver has the step's lease."""
        _, owner = self._last(digest)
        return owner is None or owner == self.name or not self._lives(owner)

    def held_by_others(self) -> dict[str, str]:
        """Digest -> the other living driver that has the step's lease."""
        found = {digest: self._last(digest)[1] for digest in self._names(LEASES)}
        owners = {owner for owner in found.values() if owner is not None and owner != self.name}
        living = {owner for owner in owners if self._lives(owner)}
        return {digest: owner for digest, owner in found.items() if owner in living}

    def note_begun(self, digest: str, run: str) -> None:
        """A worker takes the step up, as the run of this name."""
        self._write(f"{LEASES}/{digest}/begun-{run}", b"")

    def had_begun(self, digest: str, run: str) -> bool:
        """Whether a worker took the step up as the run of this name."""
        return bool(self._fs.exists(f"{self._base}/{LEASES}/{digest}/begun-{run}"))

    # --- who lives ----------------------------------------------------------------------------------------------------

    def _lives(self, owner: str) -> bool:
        """Whether a driver's heartbeat goes on, as far as can be seen."""
        try:
            beat: bytes = self._fs.cat_file(f"{self._base}/{DRIVERS}/{owner}")
        except FileNotFoundError:
            # It ended in order. A lease whose writer was killed before it could say who it is expires by itself.
            beat = b""
            if "/" not in owner:
                return False
        now = time.monotonic()
        before, since = self._seen.get(owner, (None, now))
        if beat != before:
            self._seen[owner] = (beat, now)
            since = now
        return now - since < self._expiry_s and not _died_here(beat)

    def _keep_beating(self) -> None:
        while not self._ending.wait(min(HEARTBEAT_S, self._expiry_s / 4)):
            # The store may be out of reach for a while, and each bucket's client says so in errors of its own.
            with contextlib.suppress(Exception):
                self._beat()

    def _beat(self) -> None:
        self._beats += 1
        self._write(f"{DRIVERS}/{self.name}", json.dumps({**_process(os.getpid()), "beat": self._beats}).encode())

    # --- files --------------------------------------------------------------------------------------------------------

    def _last(self, digest: str) -> tuple[int, str | None]:
        """The highest number of a step's leases, and whose it is: None where it was given back."""
        numbers = [int(name) for name in self._names(f"{LEASES}/{digest}") if name.isdigit()]
        if not numbers:
            return 0, None
        last = f"{LEASES}/{digest}/{max(numbers)}"
        try:
            content: bytes = self._fs.cat_file(f"{self._base}/{last}")
        except FileNotFoundError:  # published meanwhile
            return 0, None
        found = _parsed(content)
        return max(numbers), (last if found is None else str(found.get("driver") or "") or None)

    def _names(self, folder: str) -> list[str]:
        self._fs.invalidate_cache()
        try:
            paths = self._fs.ls(f"{self._base}/{folder}", detail=False)
        except FileNotFoundError:
            return []
        return [str(path).rstrip("/").rsplit("/", 1)[1] for path in paths]

    def _create(self, name: str, driver: str) -> bool:
        """Create a lease; False where it is there already."""
        self._make_folder(name)
        path, content = f"{self._base}/{name}", json.dumps({"driver": driver}).encode()
        try:
            if self._local:
                with Path(path).open("xb") as file:  # O_EXCL; fsspec would look first and then write
                    file.write(content)
            else:
                self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            if any(refusal in str(error) for refusal in REFUSALS):
                return False
            raise
        return True

    def _write(self, name: str, content: bytes) -> None:
        self._make_folder(name)
        self._fs.pipe_file(f"{self._base}/{name}", content)

    def _make_folder(self, name: str) -> None:
        if self._local:
            Path(self._base, name).parent.mkdir(parents=True, exist_ok=True)


def _parsed(content: bytes) -> dict[str, Any] | None:
    """What a lease or heartbeat says; None where its writer was killed before it was written whole."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _process(pid: int) -> dict[str, Any]:
    """What names a process of this machine until the machine is started again."""
    return {"host": socket.gethostname(), "machine": _machine(), "pid": pid, "began": _began(pid)}


def _machine() -> str:
    """The running machine, and the container on it whose process numbers are meant."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _began(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty where there is none, or one that is over."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _died_here(beat: bytes) -> bool:
    """Whether the heartbeat is of a process of this machine that is no more."""
    found = _parsed(beat) or {}
    here = bool(found.get("machine")) and found["machine"] == _machine()
    return here and _began(int(found.get("pid") or 0)) != found.get("began")
