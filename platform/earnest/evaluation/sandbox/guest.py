"""What runs inside: close the walls from within, run the program, say how it ended.

The host gives this file's text to the guest's Python, which may be another than the host's and lacks this package, so
it needs the standard library alone. One line of JSON comes in on standard input; what the guest says begins with the
token that came in it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
from typing import Any  # a guest's Python may be old

SAID = 300
OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR, HERE = 428, 429, 442, -100
CLONE_TREE, FROM_THE_FILE, RECURSIVE = 1, 4, 0x8000
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4
DEVICES = ("null", "zero", "urandom", "random")
NO_NEW_PRIVILEGES, DROP_BOUNDING, SET_SECCOMP, FILTER_MODE = 38, 24, 22, 2
CAPABILITIES_V3 = 0x20080522


class _Attributes(ctypes.Structure):
    """struct mount_attr of mount_setattr(2)."""

    _fields_ = [("set", ctypes.c_uint64), ("clear", ctypes.c_uint64), ("more", ctypes.c_uint64 * 2)]


class _Program(ctypes.Structure):
    """struct sock_fprog of seccomp(2)."""

    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def _must(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "{}: {}".format(what, os.strerror(ctypes.get_errno())))  # noqa: UP032


def _close_files(libc: Any, scratch: str, size_mib: int) -> None:
    """Every file system becomes read-only and no device can be opened, but for harmless ones.

    A small file system in memory then lies over `scratch`, for this guest alone.
    """
    devices = {name: libc.syscall(OPEN_TREE, HERE, b"/dev/" + name.encode(), CLONE_TREE) for name in DEVICES}
    _restrict(libc, b"/", READ_ONLY | NO_SUID | NO_DEVICES)
    _mount_memory(libc, "/dev", 1)
    for name, tree in devices.items():
        open("/dev/" + name, "w").close()  # noqa: PTH123
        _must(libc.syscall(MOVE_MOUNT, tree, b"", HERE, b"/dev/" + name.encode(), FROM_THE_FILE), "move_mount " + name)
        os.close(tree)
    _restrict(libc, b"/dev", READ_ONLY | NO_SUID)
    _mount_memory(libc, scratch, size_mib)
    os.chdir(scratch)


def _restrict(libc: Any, place: bytes, flags: int) -> None:
    wanted = _Attributes(flags)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    _must(libc.syscall(MOUNT_SETATTR, HERE, place, RECURSIVE, ctypes.byref(wanted), size), "mount_setattr")


def _mount_memory(libc: Any, place: str, size_mib: int) -> None:
    options = "size={}m,nr_inodes=4096,mode=0777".format(size_mib).encode()  # noqa: UP032
    flags = ctypes.c_ulong(NO_SUID | NO_DEVICES)
    _must(libc.mount(b"memory", place.encode(), b"tmpfs", flags, options), "mount " + place)


def _limit(limits: dict[str, int]) -> None:
    for name, most in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


def _drop_powers(libc: Any, filter_: bytes) -> None:
    """No capability is left, none can come back, and the filter stands."""
    _must(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    for capability in range(64):
        libc.prctl(DROP_BOUNDING, capability, 0, 0, 0)
    _must(libc.capset((ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()), "capset")
    program = _Program(len(filter_) // 8, filter_)
    _must(libc.prctl(SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0), "seccomp")


def _close(asked: dict[str, Any]) -> None:
    """Close the walls."""
    libc = ctypes.CDLL(None, use_errno=True)
    if asked["scratch"]:
        _close_files(libc, asked["scratch"], asked["scratch_mib"])
    else:
        os.chdir("/")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _limit(asked["limits"])
    _drop_powers(libc, bytes.fromhex(asked["filter"]))


def _ending(program: str) -> str:
    """Run the program to its end: how it ended."""
    try:
        exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})  # noqa: S102  # what the walls are for
    except BaseException as error:  # noqa: BLE001  # whatever it raises, SystemExit included, is how it ended
        return "failed {}: {}".format(type(error).__name__, error)[:SAID]  # noqa: UP032
    return "passed"


def _main() -> None:
    asked = json.loads(sys.stdin.readline())
    token, program = asked["token"], asked["program"]
    sys.path[:] = [path for path in sys.path if path]
    sys.argv[:] = ["program"]
    say, leave = os.write, os._exit
    _close(asked)
    say(1, (token + " ready\n").encode())
    ending = _ending(program)
    try:
        sys.stdout.flush()
    finally:
        said = ending.encode("utf-8", "replace").replace(b"\n", b" ")
        say(1, b"\n" + token.encode() + b" " + said + b"\n")
        leave(0)


if __name__ == "__main__":
    _main()
