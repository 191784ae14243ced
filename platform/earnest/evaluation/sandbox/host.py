"""The host's side of the sandbox: build the walls, start a guest, watch the clock and its output, end it.

Walls are namespaces (network, files, processes, users) with the seccomp filter inside them; where the machine allows
no namespaces the filter stands alone and lets nothing be written at all. Where neither can be had nothing is run.
Root becomes nobody for it; where nobody cannot read the guest's Python, a root without powers in namespaces of its own.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from shutil import which
from typing import Any, Literal

from earnest.evaluation.sandbox.filters import guest_filter
from earnest.specs import UserError

NOBODY = 65534
START_SECONDS = 60.0
THREADS = 64
PIECE = 65_536
SCRATCH = ("/tmp", "/var/tmp", "/mnt")  # noqa: S108  # where the guest's own memory may lie over what is there
NAMESPACES = (
    "--user", "--map-root-user", "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc",
    "--kill-child=SIGKILL",
)  # fmt: skip

Status = Literal["passed", "failed", "timeout", "output", "died"]


@dataclass(frozen=True)
class Walls:
    """What isolates a guest: namespaces and the filter or the filter alone, and whether root becomes nobody."""

    kind: Literal["namespaces", "filter"]
    nobody: bool


@dataclass(frozen=True)
class Limits:
    """What a guest may use: seconds (of the clock, once it runs), memory, scratch, output, open files."""

    seconds: float = 3.0
    memory_mib: int = 1024
    scratch_mib: int = 16
    output_bytes: int = 2**20
    open_files: int = 64


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    "passed": it ran to its end. "failed": it raised. "timeout", "output": it was ended for taking too long or writing
    too much. "died": it ended without a word (the kernel, or an exit that runs no further code). `detail` is the error.
    """

    status: Status
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether it ran to its end."""
        return self.status == "passed"


def run(program: str, limits: Limits | None = None, python: str | None = None) -> Outcome:
    """Run a Python program in the sandbox; it passes by running to its end.

    Args:
        program: source code; its checks are part of it.
        limits: what it may use.
        python: the executable that runs it; this one's by default.

    Raises:
        UserError: this machine cannot isolate a guest, or `python` does not start in the sandbox.
    """
    executable = python or sys.executable
    return _run(program, limits or Limits(), executable, walls(executable))


def run_all(
    programs: Sequence[str], limits: Limits | None = None, python: str | None = None, workers: int | None = None
) -> list[Outcome]:
    """Run programs, `workers` at a time (the CPUs by default); outcomes in order. Raises as `run` does."""
    walls(python or sys.executable)
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda program: run(program, limits, python), programs))


@lru_cache
def walls(python: str = sys.executable) -> Walls:
    """The best walls that this machine can build around `python`, proved by a guest behind them.

    Raises:
        UserError: it can build none.
    """
    root = os.geteuid() == 0
    wanted = [Walls("namespaces", nobody=root), Walls("filter", nobody=root)]
    if root:
        wanted.insert(1, Walls("namespaces", nobody=False))
    problems = []
    for wall in wanted:
        try:
            outcome = _run("pass", Limits(seconds=START_SECONDS), python, wall)
        except (UserError, OSError) as error:
            problems.append(f"{wall.kind}: {error}")
            continue
        if outcome.passed:
            return wall
        problems.append(f"{wall.kind}: {outcome.status} {outcome.detail}")
    raise UserError(
        f"sandbox: {python} cannot be isolated here, so nothing is run ({'; '.join(problems)})\n"
        "it takes Linux on x86_64 or aarch64 with seccomp, best with user namespaces, and a Python that all may read"
    )


def _run(program: str, limits: Limits, python: str, wall: Walls) -> Outcome:
    token = secrets.token_hex(16)
    guest = _start(python, wall)
    try:
        return _watch(guest, _asked(program, limits, python, wall, token), token, limits)
    finally:
        _end(guest)


def _asked(program: str, limits: Limits, python: str, wall: Walls, token: str) -> bytes:
    """The line that a guest reads."""
    filter_ = guest_filter(alone=wall.kind == "filter")
    if filter_ is None:
        raise UserError("no system calls are known of this machine's architecture")
    scratch = _scratch(python) if wall.kind == "namespaces" else ""
    asked: dict[str, Any] = {
        "token": token,
        "program": program,
        "scratch": scratch,
        "scratch_mib": limits.scratch_mib,
        "filter": filter_.hex(),
        "limits": {
            "RLIMIT_AS": limits.memory_mib * 2**20,
            "RLIMIT_CPU": math.ceil(limits.seconds) + 1,
            "RLIMIT_FSIZE": limits.scratch_mib * 2**20 if scratch else 0,
            "RLIMIT_NOFILE": limits.open_files,
            "RLIMIT_NPROC": THREADS,
            "RLIMIT_CORE": 0,
        },
    }
    return json.dumps(asked).encode() + b"\n"


def _scratch(python: str) -> str:
    """A folder for the guest's scratch that does not hide its Python."""
    homes = [Path(python).absolute(), Path(python).resolve()]
    free = (place for place in SCRATCH if Path(place).is_dir() and not any(h.is_relative_to(place) for h in homes))
    return next(free, SCRATCH[-1])


def _start(python: str, wall: Walls) -> subprocess.Popen[bytes]:
    unshare = which("unshare")
    if wall.kind == "namespaces" and unshare is None:
        raise UserError("the program unshare (util-linux) is not installed")
    before = [str(unshare), *NAMESPACES] if wall.kind == "namespaces" else []
    return subprocess.Popen(  # noqa: S603  # a list, no shell
        [*before, python, "-s", "-B", "-c", _guest_source()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=_environment(),
        start_new_session=True,
        user=NOBODY if wall.nobody else None,
        group=NOBODY if wall.nobody else None,
        extra_groups=[] if wall.nobody else None,
    )


@lru_cache(maxsize=1)
def _guest_source() -> str:
    return Path(__file__).with_name("guest.py").read_text(encoding="utf-8")


def _environment() -> dict[str, str]:
    """Nothing of the host's environment: keys live there."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg", **threads}


def _watch(guest: subprocess.Popen[bytes], asked: bytes, token: str, limits: Limits) -> Outcome:
    """Give the guest its program and read what it says, until it ends or breaks a limit."""
    assert guest.stdin is not None
    assert guest.stdout is not None
    ready = f"{token} ready\n".encode()
    said, deadline, started = b"", time.monotonic() + START_SECONDS, False
    try:
        guest.stdin.write(asked)
        guest.stdin.close()
    except BrokenPipeError:
        pass  # it ended before it read: what it said tells why
    with selectors.DefaultSelector() as selector:
        selector.register(guest.stdout, selectors.EVENT_READ)
        while selector.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(guest.stdout.fileno(), PIECE)
            if not piece:
                return _ending(said, token, started)
            said += piece
            if not started and ready in said:
                said, started, deadline = said.partition(ready)[2], True, time.monotonic() + limits.seconds
            if len(said) > limits.output_bytes:
                return Outcome("output", f"more than {limits.output_bytes} bytes")
            if started and time.monotonic() > deadline:
                break
    if not started:
        raise UserError(f"the guest did not start within {START_SECONDS:g} s; is the machine overloaded?")
    return Outcome("timeout", f"{limits.seconds:g} s")


def _ending(said: bytes, token: str, started: bool) -> Outcome:
    """What the guest's last words mean."""
    if not started:
        raise UserError(f"the guest did not start: {said.decode(errors='replace').strip()[-300:]}")
    _, found, verdict = said.rpartition(f"\n{token} ".encode())
    status, _, detail = verdict.decode(errors="replace").strip().partition(" ")
    if not found or status not in {"passed", "failed"}:
        return Outcome("died", said.decode(errors="replace").strip()[-300:])
    return Outcome("passed") if status == "passed" else Outcome("failed", detail)


def _end(guest: subprocess.Popen[bytes]) -> None:
    """End the guest and all it may have started; its namespace of processes dies with it."""
    if guest.stdout is not None:
        guest.stdout.close()
    with contextlib.suppress(ProcessLookupError):  # it may have ended
        os.killpg(guest.pid, signal.SIGKILL)
    guest.wait()
