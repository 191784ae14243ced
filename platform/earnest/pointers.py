"""Git LFS pointers: small texts that stand where a large file was not fetched."""

from __future__ import annotations

POINTER = b"version https://git-lfs"


def is_pointer(begin: bytes) -> bool:
    """Whether a file that begins so, with as many bytes as `POINTER` at least, is one."""
    return begin.startswith(POINTER)
