"""What names a store wherever it is mounted: runs are found again by it, so that two stores never share a run."""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path

import fsspec

IDENTITY_FILE = "identity"


def store_identity(root: str) -> str:
    """The identity in the file at a store's root, drawn when it is first asked for.

    A store that can only be read and has none is named by where it lies.
    """
    files, base = fsspec.core.url_to_fs(root)
    path = f"{base.rstrip('/')}/{IDENTITY_FILE}"
    try:
        if not files.exists(path):
            _write_first(files, path, uuid.uuid4().hex)
        return str(files.cat_file(path).decode())
    except OSError:
        return hashlib.sha256(root.encode()).hexdigest()[:32]


def _write_first(files: fsspec.AbstractFileSystem, path: str, text: str) -> None:
    """Write a small file whole, unless somebody else writes it first."""
    if not isinstance(files, fsspec.implementations.local.LocalFileSystem):
        with contextlib.suppress(FileExistsError):
            files.pipe_file(path, text.encode(), mode="create")
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    beside = Path(f"{path}.{text}")
    beside.write_text(text, encoding="utf-8")
    with contextlib.suppress(FileExistsError):
        os.link(beside, path)
    beside.unlink()
