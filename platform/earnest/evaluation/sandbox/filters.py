"""The seccomp filter: which system calls a guest may not make, as the kernel's BPF program.

Always refused: sockets (a Unix socket's path reaches through a network namespace), other processes, other namespaces,
mounts, tracing, io_uring (which could make the refused calls unseen), and memory that no limit counts. Without
namespaces the filter is the only wall, so writing to files and signalling are refused as well.
"""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

CLONE_THREAD = 0x10000
WRITING = 0o1 | 0o2 | 0o100 | 0o1000 | 0o20000000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_TMPFILE's own bit
X32 = 0x40000000
LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x00050000
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


@dataclass(frozen=True)
class _Calls:
    """System calls of an architecture by number; `opens` maps a call to the place of its flags."""

    audit: int
    refused: tuple[int, ...]
    clone: int
    opens: dict[int, int]
    writes: tuple[int, ...]


# pidfd_send_signal, io_uring (3), the mount calls of 5.2 (6), pidfd_open, pidfd_getfd, mount_setattr, memfd_secret
_EVERYWHERE = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 442, 447)
_CALLS = {
    "x86_64": _Calls(
        audit=0xC000003E,
        # socket connect fork vfork ptrace shmget semget msgget mount umount2 pivot_root chroot unshare setns bpf
        # perf_event_open add_key request_key keyctl memfd_create userfaultfd process_vm_readv process_vm_writev
        # name_to_handle_at open_by_handle_at mq_open setsid setpgid kexec_load init_module delete_module
        # finit_module reboot
        refused=(41, 42, 57, 58, 101, 29, 64, 68, 165, 166, 155, 161, 272, 308, 321, 298, 248, 249, 250, 319, 323,
                 310, 311, 303, 304, 240, 112, 109, 246, 175, 176, 313, 169, *_EVERYWHERE),
        clone=56,
        opens={2: 1, 257: 2},
        # kill tkill tgkill prlimit64 creat truncate rename* mkdir* rmdir link* unlink* symlink* chmod* chown* mknod*
        # utime* *setxattr* removexattr*
        writes=(62, 200, 234, 302, 85, 76, 82, 264, 316, 83, 258, 84, 86, 265, 87, 263, 88, 266, 90, 91, 268, 452, 92,
                93, 94, 260, 133, 259, 132, 235, 280, 261, 188, 189, 190, 197, 198, 199, 463, 466),
    ),
    "aarch64": _Calls(
        audit=0xC00000B7,
        refused=(198, 203, 117, 194, 190, 186, 40, 39, 41, 51, 97, 268, 280, 241, 217, 218, 219, 279, 282, 270, 271,
                 264, 265, 180, 157, 154, 104, 105, 106, 273, 142, *_EVERYWHERE),
        clone=220,
        opens={56: 2},
        writes=(129, 130, 131, 261, 45, 38, 276, 34, 37, 35, 36, 52, 53, 452, 54, 55, 33, 88, 5, 6, 7, 14, 15, 16,
                463, 466),
    ),
}  # fmt: skip
CLONE3, OPENAT2 = 435, 437


def guest_filter(*, alone: bool) -> bytes | None:
    """The filter for this machine's guests, or None for an architecture whose calls are not known here.

    `alone`: there are no namespaces behind it, so it also keeps files and other processes from harm.
    """
    calls = _CALLS.get(platform.machine())
    if calls is None:
        return None
    found = [_op(LOAD, ARCHITECTURE), _op(EQUAL, calls.audit, yes=1), _op(RETURN, KILL), _op(LOAD, NUMBER)]
    if platform.machine() == "x86_64":
        found += [_op(AT_LEAST, X32, no=1), _op(RETURN, KILL)]
    # The C library asks for these two first and is content with the older calls, whose flags a filter can see.
    found += _refuse(CLONE3, errno.ENOSYS)
    found += _only(calls.clone, 0, CLONE_THREAD, wanted=True)
    for number in calls.refused:
        found += _refuse(number, errno.EPERM)
    if alone:
        found += _refuse(OPENAT2, errno.ENOSYS)
        for number, place in calls.opens.items():
            found += _only(number, place, WRITING, wanted=False)
        for number in calls.writes:
            found += _refuse(number, errno.EPERM)
    return b"".join([*found, _op(RETURN, ALLOW)])


def _refuse(number: int, error: int) -> list[bytes]:
    return [_op(EQUAL, number, no=1), _op(RETURN, REFUSE | error)]


def _only(number: int, argument: int, bits: int, *, wanted: bool) -> list[bytes]:
    """Refuse a call unless one of `bits` is set in an argument; with `wanted` false, if one is."""
    passes = {"yes": 1} if wanted else {"no": 1}
    return [
        _op(EQUAL, number, no=4),
        _op(LOAD, ARGUMENTS + 8 * argument),
        _op(ANY_BIT, bits, **passes),
        _op(RETURN, REFUSE | errno.EPERM),
        _op(LOAD, NUMBER),
    ]


def _op(code: int, k: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, k)
