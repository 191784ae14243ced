"""What both processes of a trial do first: close the walls from within.

The host gives this file's text to a Python that may be another than its own, be old, and lack this package, so it
needs the standard library alone.
"""

from __future__ import annotations

import ctypes
import os
import resource
import stat
from typing import Any

OPEN_TREE, MOVE_MOUNT, MOUNT_SETATTR, HERE = 428, 429, 442, -100
CLONE_TREE, FROM_THE_FILE, RECURSIVE = 1, 4, 0x8000
READ_ONLY, NO_SUID, NO_DEVICES = 1, 2, 4
DEVICES = ("null", "zero", "urandom", "random")
NO_NEW_PRIVILEGES, DROP_BOUNDING, DUMPABLE, SET_SECCOMP, FILTER_MODE = 38, 24, 4, 22, 2
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


def _uncover(libc: Any, trees: list[str]) -> None:
    """Let everybody reach `trees`: a folder above one that others may not enter is hidden by an empty one with only
    them in it.
    """
    closed: dict[str, list[str]] = {}
    for tree in trees:
        above = _closed_above(tree)
        if above:
            closed.setdefault(above, []).append(tree)
    for above, inside in closed.items():
        held = {tree: libc.syscall(OPEN_TREE, HERE, tree.encode(), CLONE_TREE | RECURSIVE) for tree in inside}
        _mount_memory(libc, above, 1, mode="0755")
        for tree, fd in sorted(held.items()):
            if not os.path.isdir(tree):  # noqa: PTH112  # else it lies in one that is there already
                os.makedirs(tree)  # noqa: PTH103
                _must(libc.syscall(MOVE_MOUNT, fd, b"", HERE, tree.encode(), FROM_THE_FILE), "move_mount " + tree)
            os.close(fd)


def _closed_above(tree: str) -> str:
    """The topmost folder on the way to `tree` that others may not enter; "" if they may enter all."""
    parts = tree.strip("/").split("/")
    for n in range(1, len(parts)):
        above = "/" + "/".join(parts[:n])
        if not os.stat(above).st_mode & stat.S_IXOTH:  # noqa: PTH116
            return above
    return ""


def _restrict(libc: Any, place: bytes, flags: int) -> None:
    wanted = _Attributes(flags)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    _must(libc.syscall(MOUNT_SETATTR, HERE, place, RECURSIVE, ctypes.byref(wanted), size), "mount_setattr")


def _mount_memory(libc: Any, place: str, size_mib: int, mode: str = "0777") -> None:
    options = "size={}m,nr_inodes=4096,mode={}".format(size_mib, mode).encode()  # noqa: UP032
    flags = ctypes.c_ulong(NO_SUID | NO_DEVICES)
    _must(libc.mount(b"memory", place.encode(), b"tmpfs", flags, options), "mount " + place)


def _limit(limits: dict[str, int]) -> None:
    for name, most in limits.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        bound = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (bound, bound))


def _drop_powers(libc: Any, filter_: bytes) -> None:
    """No capability is left, and the filter stands."""
    _must(libc.capset((ctypes.c_uint32 * 2)(CAPABILITIES_V3, 0), (ctypes.c_uint32 * 6)()), "capset")
    _must(libc.prctl(DUMPABLE, 0, 0, 0, 0), "dumpable")  # no process of the same user may read this one's memory
    program = _Program(len(filter_) // 8, filter_)
    _must(libc.prctl(SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0), "seccomp")


def _promise(libc: Any) -> None:
    """No power that is given up can come back; for as long as there are any, since that takes one."""
    _must(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no_new_privs")
    for capability in range(64):
        libc.prctl(DROP_BOUNDING, capability, 0, 0, 0)


def _become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def enclose(asked: dict[str, Any]) -> None:
    """Close the walls: `scratch` (a folder, "" for none), `scratch_mib`, `limits`, `filter`, `trees`, and `user`,
    whom root becomes.

    Raises:
        OSError: the kernel refuses one of them.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if asked["scratch"]:
        if asked["user"]:
            _uncover(libc, asked["trees"])
        _close_files(libc, asked["scratch"], asked["scratch_mib"])
    else:
        os.chdir("/")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    _promise(libc)
    if asked["user"]:
        _become(asked["user"])
    if os.getuid() == 0 and not asked["mapped"]:
        raise PermissionError("code is never run by root")
    _limit(asked["limits"])
    _drop_powers(libc, bytes.fromhex(asked["filter"]))
