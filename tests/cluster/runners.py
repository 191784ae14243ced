"""A small real step for workers: it reads what it needs from the store, publishes to it, and misbehaves where asked.

`step.location` says how: `sleep` seconds, `meet` that many steps, wait `until` a file is there, `crash` the worker or
`raise` an error the first `times` times, or `die`
before anything else is done. As with real steps, what a location says does not change the output.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from earnest.plan import COMPRESS, EVALUATE, Step
from earnest.specs import UserError
from earnest.store import Store


@dataclass(frozen=True)
class Summary:
    """What the loop reads of a summary, and where the step ran."""

    digest: str
    seconds: float
    device: str
    gpus: str | None
    pid: int


class StubbornError(Exception):
    """An error that cannot be unpickled: its arguments are not its message."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "runtime": lambda: RuntimeError("the device hiccuped\nand said more"),
    "user": lambda: UserError("gptq: group_size 48 does not divide 128\nuse 32"),
    "memory": lambda: MemoryError("no room for 12 GiB"),
    "stubborn": lambda: StubbornError("cannot be ", "carried"),
}


DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(7),
    "abort": os.abort,
    "sysexit": lambda: sys.exit(3),
}


def work(step: Step, store: Store, device: str, progress: Callable[[str], None]) -> Summary:
    """Publish a step's output: its own spec, after the bytes of everything it needs."""
    began = time.monotonic()
    how = step.location
    times = _trace(step, Path(how["trace"]), device)
    if "die" in how:
        DEATHS[how["die"]]()
    progress(f"time {times}")
    misbehaves = how.get("times", "always") == "always" or times <= int(how["times"])
    inputs = [_read(step, store, need) for need in step.needs]
    with store.publish(step.kind, step.digest, step.spec, {"seconds": 0.0}) as folder:
        (folder / "half.bin").write_bytes(b"half")
        time.sleep(float(how.get("sleep", "0")))
        _meet(int(how.get("meet", "0")), Path(how["trace"]))
        while "until" in how and not Path(how["until"]).exists():
            time.sleep(0.02)
        if misbehaves and "crash" in how:
            os._exit(1)
        if misbehaves and "raise" in how:
            raise ERRORS[how["raise"]]()
        (folder / "half.bin").unlink()
        (folder / "output.bin").write_bytes(b"".join(inputs) + step.label.encode())
    seconds = time.monotonic() - began
    return Summary(step.digest, seconds, device, os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid())


def _read(step: Step, store: Store, need: str) -> bytes:
    kind = COMPRESS if need == step.checkpoint else EVALUATE
    return (store.fetch(kind, need) / "output.bin").read_bytes()


def _meet(count: int, folder: Path) -> None:
    """Wait until so many steps have begun: only as many workers at a time get there."""
    deadline = time.monotonic() + 60
    while sum(1 for _ in folder.iterdir()) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"fewer than {count} steps ran at a time")
        time.sleep(0.02)


def _trace(step: Step, folder: Path, device: str) -> int:
    """Note that the step runs; returns for the how-many-th time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / step.digest
    line = f"{os.getpid()} {device} {os.environ.get('CUDA_VISIBLE_DEVICES')} {time.time()}\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    return len(path.read_text(encoding="utf-8").splitlines())
