"""Files on their way to MLflow: fetched from a folder or a bucket, and sent only with the bytes that were noted."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import fsspec

from earnest.store import sha256_of
from earnest.tracking.entries import Artifact


@contextlib.contextmanager
def laid_out(artifacts: Sequence[Artifact], warn: Callable[[str], None]) -> Iterator[tuple[Path, list[Artifact]]]:
    """The files under their artifact names in a folder for a while, so that one call sends them all.

    Gives the folder, and the artifacts that lie in it: a file that is gone is left out, one whose bytes are not those
    that were noted is too, with a warning.
    """
    with tempfile.TemporaryDirectory(prefix="earnest-artifacts-") as name:
        folder = Path(name)
        yield folder, [artifact for artifact in artifacts if _fetch(artifact, folder, warn)]


def _fetch(artifact: Artifact, folder: Path, warn: Callable[[str], None]) -> bool:
    target = folder / artifact.name
    target.parent.mkdir(parents=True, exist_ok=True)
    files, path = fsspec.core.url_to_fs(artifact.path)
    try:
        files.get_file(path, str(target))
    except FileNotFoundError:
        return False
    if sha256_of(target) == artifact.sha256:
        return True
    target.unlink()
    warn(f"{artifact.path}: its bytes changed since the sweep noted it; it is left out")
    return False
