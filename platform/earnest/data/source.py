"""Where data lies, and the digest of what it holds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from earnest.data.splits import READ, kind_of
from earnest.specs import UserError

NANO = "nano"


@dataclass(frozen=True)
class DataSource:
    """A dataset: the name the user gave, where it lies, and the digest of its content."""

    name: str
    path: str
    digest: str


def resolve_data(name: str, split: str) -> DataSource:
    """Find a dataset and hash what it holds.

    Raises:
        UserError: there is nothing by that name.
    """
    if name == NANO:
        return DataSource(name, NANO, _nano_digest())
    path = Path(name).expanduser()
    if path.exists():
        return DataSource(name, str(path.resolve()), content_digest(path))
    if name.startswith((".", "/", "~")) or kind_of(Path(name)):
        raise UserError(f"data {name}: no such file or folder; give a file ({READ}), a folder of them, or a hub id")
    rows = from_hub(name, split)
    return DataSource(name, name, str(rows._fingerprint))


def _nano_digest() -> str:
    from earnest.almanac.world import World

    return hashlib.sha256(f"almanac {World.shipped().digest()}".encode()).hexdigest()[:32]


def content_digest(path: Path) -> str:
    """The digest of a file's bytes, or of all files in a folder and below it; hidden ones are left out."""
    files = (
        [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    )
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as handle:
            whole.update(f"{file.relative_to(path)}\n{hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()[:32]


def from_hub(name: str, split: str) -> Any:
    """A split of a dataset of the hub. Raises UserError where it is not to be had."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    identifier, _, configuration = name.partition(":")
    try:
        return load_dataset(identifier, configuration or None, split=split)
    except (DatasetNotFoundError, OSError, ValueError, ConnectionError) as error:
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"data {name}: neither a path here nor to be had from the hub ({reason})") from error
