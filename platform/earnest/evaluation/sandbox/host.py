"""The host's side of the sandbox: start a candidate and its judge behind walls, watch the clock and their output, end
them.

Walls are namespaces (network, files, processes, users) with the seccomp filter inside them; where the machine allows
no namespaces the filter stands alone and lets nothing be written at all. Where neither can be had nothing is run.
Root's guests are users of their own without any right; a Python that others cannot reach, as in root's home, is shown
to them alone.

Who is trusted: the host, the kernel, the task's tests. Who is not: the candidate, code that a model wrote. The tests
run in the judge's process, which holds what is expected; the candidate's process gets calls and gives values as plain
data (`values`). A program run without tests passes by its own word: that is good for a look, and for no score.
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

USERS = range(61184, 65520)  # what systems keep for users that exist for a while
START_SECONDS = 60.0
THREADS = 64
PIECE = 65_536
SAID = 300
SCRATCH = ("/tmp", "/var/tmp", "/mnt")  # noqa: S108  # where the guest's own memory may lie over what is there
NAMESPACES = ("--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "--mount-proc", "--kill-child=SIGKILL")
MODULES = ("enclosure", "messages", "values", "candidate", "judge")
PACKAGE = __name__.rpartition(".")[0]
# What a guest's Python is given: it takes this package's modules from its standard input and runs the one that is
# named.
LOADER = """
import json, sys, types
asked = json.loads(sys.stdin.readline())
parts = asked["package"].split(".")
for n in range(len(parts)):
    package = types.ModuleType(".".join(parts[: n + 1]))
    package.__path__ = []
    sys.modules[package.__name__] = package
for name, source in asked.pop("modules"):
    module = sys.modules[asked["package"] + "." + name] = types.ModuleType(asked["package"] + "." + name)
    setattr(package, name, module)
    exec(compile(source, name + ".py", "exec"), module.__dict__)
getattr(package, asked["role"]).main(asked)
"""

Status = Literal["passed", "failed", "timeout", "output", "died"]


@dataclass(frozen=True)
class Walls:
    """What isolates a guest: namespaces and the filter or the filter alone, and who it is.

    `user`: "own", this process's own (never root); "nobody", root gave its rights up before any wall stood; "late",
    root closes the walls itself, shows the guest the Python that others cannot reach, and then gives its rights up.
    """

    kind: Literal["namespaces", "filter"]
    user: Literal["own", "nobody", "late"] = "own"


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

    "passed": its tests ran to their end. "failed": it or they raised. "timeout", "output": it was ended for taking too
    long or writing too much. "died": it ended without a word (the kernel, or an exit that runs no further code).
    `detail` is the error.
    """

    status: Status
    detail: str = ""

    @property
    def passed(self) -> bool:
        """Whether its tests ran to their end."""
        return self.status == "passed"


def run(
    program: str,
    limits: Limits | None = None,
    python: str | None = None,
    *,
    checks: str = "",
    wall: Walls | None = None,
) -> Outcome:
    """Run a Python program in the sandbox and judge it by its tests.

    Args:
        program: source code of the candidate.
        limits: what it, and its tests, may use.
        python: the executable that runs both; this one's by default.
        checks: source code of the tests, run in a process that the program cannot reach. They get its function f by
            `__candidate__("f")`, run a text in its process by `__execute__(text, globals)`, and fail by raising.
            Without any, a program passes by running to its end.
        wall: the walls; the best that this machine can build by default.

    Raises:
        UserError: this machine cannot isolate a guest, or `python` does not start in the sandbox.
    """
    executable = python or sys.executable
    wall = wall or walls(executable)
    with contextlib.ExitStack() as stack:
        trial = _start(program, checks, limits or Limits(), executable, wall, stack)
        return _watch(trial, limits or Limits())


def run_all(
    programs: Sequence[tuple[str, str]],
    limits: Limits | None = None,
    python: str | None = None,
    workers: int | None = None,
) -> list[Outcome]:
    """Judge programs, each with its `checks`, `workers` at a time (the CPUs by default); outcomes in order. Raises
    as `run`.
    """
    walls(python or sys.executable)
    with ThreadPoolExecutor(workers or len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(lambda pair: run(pair[0], limits, python, checks=pair[1]), programs))


@lru_cache
def walls(python: str = sys.executable) -> Walls:
    """The best walls that this machine can build around `python`, proved by a guest behind them.

    Raises:
        UserError: it can build none, or only such as would run the code as root.
    """
    users: tuple[Literal["own", "nobody", "late"], ...] = ("nobody", "late") if os.geteuid() == 0 else ("own",)
    wanted = [Walls("namespaces", user) for user in users] + [Walls("filter", users[0])]
    problems = []
    for wall in wanted:
        try:
            outcome = run("pass", Limits(seconds=START_SECONDS), python, checks="pass", wall=wall)
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


@dataclass(frozen=True)
class _Trial:
    """A candidate and its judge at work; `verdict` is the host's end of the judge's own pipe."""

    candidate: subprocess.Popen[bytes]
    judge: subprocess.Popen[bytes]
    verdict: int


def _start(program: str, checks: str, limits: Limits, python: str, wall: Walls, stack: contextlib.ExitStack) -> _Trial:
    """Start both; whatever the `stack` holds is ended and closed by it."""
    to_candidate, to_judge, verdict = os.pipe(), os.pipe(), os.pipe()
    stack.callback(os.close, verdict[0])
    handed = (*to_candidate, *to_judge, verdict[1])
    try:
        common = _asked(limits, python, wall)
        candidate = {"role": "candidate", "program": program, "reads": to_candidate[0], "writes": to_judge[1]}
        judge = {
            "role": "judge",
            "program": checks,
            "reads": to_judge[0],
            "writes": to_candidate[1],
            "verdict": verdict[1],
        }
        started = []
        for role, fds in (
            (candidate, (to_candidate[0], to_judge[1])),
            (judge, (to_judge[0], to_candidate[1], verdict[1])),
        ):
            user = _user(wall)
            guest = _guest(python, wall, user, fds)
            stack.callback(_end, guest)
            _tell(guest, {**common, **role, "user": user if wall.user == "late" else 0})
            started.append(guest)
    finally:
        for fd in handed:
            os.close(fd)
    return _Trial(started[0], started[1], verdict[0])


def _user(wall: Walls) -> int:
    """A user who has nothing and owns nothing, and whom no other guest shares."""
    return secrets.choice(USERS) if wall.user != "own" else 0


def _asked(limits: Limits, python: str, wall: Walls) -> dict[str, Any]:
    """What both guests are told."""
    filter_ = guest_filter(alone=wall.kind == "filter")
    if filter_ is None:
        raise UserError("no system calls are known of this machine's architecture")
    scratch = _scratch(python) if wall.kind == "namespaces" else ""
    return {
        "package": PACKAGE,
        "modules": _modules(),
        "scratch": scratch,
        "scratch_mib": limits.scratch_mib,
        "trees": _trees(python) if wall.user == "late" else [],
        "mapped": wall.kind == "namespaces" and wall.user != "late",  # its root is nobody outside
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


@lru_cache(maxsize=1)
def _modules() -> list[tuple[str, str]]:
    return [(name, Path(__file__).with_name(f"{name}.py").read_text(encoding="utf-8")) for name in MODULES]


@lru_cache
def _trees(python: str) -> list[str]:
    """The folders that a Python reads: its own, its virtual environment's, and where it finds modules."""
    asks = "import sys, json; print(json.dumps([sys.prefix, sys.base_prefix, *sys.path]))"
    said = subprocess.run([python, "-s", "-B", "-c", asks], capture_output=True, check=False, env=_environment())  # noqa: S603
    found = [*json.loads(said.stdout or "[]"), str(Path(python).absolute().parent), str(Path(python).resolve().parent)]
    return sorted({path for path in found if path and Path(path).is_dir()})


def _scratch(python: str) -> str:
    """A folder for the guest's scratch that does not hide its Python."""
    homes = [Path(python).absolute(), Path(python).resolve()]
    free = (place for place in SCRATCH if Path(place).is_dir() and not any(h.is_relative_to(place) for h in homes))
    return next(free, SCRATCH[-1])


def _guest(python: str, wall: Walls, user: int, fds: Sequence[int]) -> subprocess.Popen[bytes]:
    unshare = which("unshare")
    if wall.kind == "namespaces" and unshare is None:
        raise UserError("the program unshare (util-linux) is not installed")
    own_users = ["--user", "--map-root-user"] if wall.user != "late" else []
    before = [str(unshare), *own_users, *NAMESPACES] if wall.kind == "namespaces" else []
    now = user if wall.user == "nobody" else None
    return subprocess.Popen(  # noqa: S603  # a list, no shell
        [*before, python, "-s", "-B", "-c", LOADER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=_environment(),
        start_new_session=True,
        pass_fds=tuple(fds),
        user=now,
        group=now,
        extra_groups=None if now is None else [],
    )


def _tell(guest: subprocess.Popen[bytes], asked: dict[str, Any]) -> None:
    assert guest.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended before it read: what it said tells why
        guest.stdin.write(json.dumps(asked).encode() + b"\n")
        guest.stdin.close()


def _environment() -> dict[str, str]:
    """Nothing of the host's environment: keys live there."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PYTHONHASHSEED": "0", "MPLBACKEND": "Agg", **threads}


def _watch(trial: _Trial, limits: Limits) -> Outcome:
    """Read what both say until there is a verdict, or one breaks a limit."""
    assert trial.candidate.stdout is not None
    assert trial.judge.stdout is not None
    said = {trial.verdict: b"", trial.candidate.stdout.fileno(): b"", trial.judge.stdout.fileno(): b""}
    outputs = list(said)[1:]
    deadline, started = time.monotonic() + START_SECONDS, False
    with selectors.DefaultSelector() as selector:
        for fd in said:
            selector.register(fd, selectors.EVENT_READ)
        while time.monotonic() < deadline and (ready := selector.select(max(0.0, deadline - time.monotonic()))):
            for fd in (key.fd for key, _ in ready):
                said[fd] += _read(fd, selector)
            if trial.verdict not in selector.get_map() or said[trial.verdict].count(b"\n") == 2:
                return _ending(said[trial.verdict], [_drained(fd, said[fd]) for fd in outputs])
            if any(len(said[fd]) > limits.output_bytes for fd in outputs):
                return Outcome("output", f"more than {limits.output_bytes} bytes")
            if not started and said[trial.verdict]:
                started, deadline = True, time.monotonic() + limits.seconds
    if not started:
        raise UserError(f"the guest did not start within {START_SECONDS:g} s; is the machine overloaded?")
    return Outcome("timeout", f"{limits.seconds:g} s")


def _read(fd: int, selector: selectors.BaseSelector) -> bytes:
    """A piece of what was said there; what is closed is not listened to any more."""
    piece = os.read(fd, PIECE)
    if not piece:
        selector.unregister(fd)
    return piece


def _drained(fd: int, said: bytes) -> bytes:
    """What was said, with what is ready to be read."""
    with selectors.DefaultSelector() as selector:
        selector.register(fd, selectors.EVENT_READ)
        return said + os.read(fd, PIECE) if selector.select(0) else said


def _ending(verdict: bytes, outputs: Sequence[bytes]) -> Outcome:
    """What the judge's words mean; `outputs` are the candidate's and the judge's."""
    started, _, said = verdict.partition(b"\n")
    last = [output.decode(errors="replace").strip()[-SAID:] for output in outputs]
    if started != b"ready":
        raise UserError(f"the guest did not start: {' '.join(last).strip()}")
    status, _, detail = said.decode(errors="replace").strip().partition(" ")
    if status not in {"passed", "failed"}:
        return Outcome("died", last[0] if status == "died" else f"the tests ended: {last[1]}")
    return Outcome("passed") if status == "passed" else Outcome("failed", detail)


def _end(guest: subprocess.Popen[bytes]) -> None:
    """End the guest and all it may have started; its namespace of processes dies with it."""
    if guest.stdout is not None:
        guest.stdout.close()
    with contextlib.suppress(ProcessLookupError):  # it may have ended
        os.killpg(guest.pid, signal.SIGKILL)
    guest.wait()
