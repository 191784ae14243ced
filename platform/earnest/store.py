"""Step outputs by digest, on a path or a bucket: published atomically, verified on read.

A finished step is a folder `<kind>/<digest>` that holds `step.json` (the step's spec, and every file's sha256).
Locally the folder is written beside its place and renamed; on a bucket `step.json` is written last, so that a
folder without it does not exist for any reader. `run.json` tells the circumstances (node, device, seconds): it is
not part of what the step promises and is not hashed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec

from earnest.specs import UserError

STEP_FILE = "step.json"
RUN_FILE = "run.json"
FAILED = "failed"  # the folder of what is known of steps that failed
PREFIX = 12


class CorruptOutputError(RuntimeError):
    """A stored file does not have the bytes that were published."""


class Store:
    """Outputs of steps under one root.

    Args:
        root: a local folder, or an fsspec URL such as s3://bucket/earnest.
        cache: where a bucket's outputs are fetched to; a folder of the user's cache by default.

    Raises:
        UserError: the root cannot be written.
    """

    def __init__(self, root: str, cache: Path | None = None) -> None:
        self.root = str(Path(root).expanduser().resolve()) if "://" not in root else root.rstrip("/")
        self.remote = "://" in self.root
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise UserError(f"store {root}: {error}; a bucket wants its fsspec package, as s3:// wants s3fs") from error
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        self._cache = cache or home / "earnest" / hashlib.sha256(self.root.encode()).hexdigest()[:16]
        self._prove_writable()

    def _prove_writable(self) -> None:
        probe = f"{self._base}/.probe-{uuid.uuid4().hex}"
        try:
            self._fs.makedirs(self._base, exist_ok=True)
            self._fs.pipe_file(probe, b"earnest")
            self._fs.rm_file(probe)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f'store {self.root}: cannot be written ({reason}); choose another with store = "..." or --store'
            ) from error

    def _place(self, kind: str, digest: str) -> str:
        return f"{self._base}/{kind}/{digest}"

    def has(self, kind: str, digest: str) -> bool:
        """Whether the step's output is there, whole."""
        return bool(self._fs.exists(f"{self._place(kind, digest)}/{STEP_FILE}"))

    def digests(self, kind: str) -> set[str]:
        """All finished steps of a kind."""
        try:
            folders = self._fs.ls(f"{self._base}/{kind}", detail=False)
        except FileNotFoundError:
            return set()
        names = (str(folder).rstrip("/").rsplit("/", 1)[1] for folder in folders)
        return {name for name in names if not name.startswith(".") and self.has(kind, name)}

    @contextlib.contextmanager
    def publish(
        self, kind: str, digest: str, spec: dict[str, Any], run: dict[str, Any] | None = None
    ) -> Iterator[Path]:
        """Give a folder to write into; on leaving it without an error, publish it whole under its digest.

        `run` is read when the block ends, so a caller may fill it inside. A step that somebody else published in the
        meantime is left as it is. Nothing remains of a block that raised.
        """
        parent = self._scratch(kind)
        folder = Path(tempfile.mkdtemp(prefix=f".{digest[:PREFIX]}-", dir=parent))
        held = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):  # a file system without locks: what is abandoned there stays
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            yield folder
            self._seal(folder, kind, digest, spec, run)
            self._move_into_place(folder, kind, digest)
        finally:
            os.close(held)
            shutil.rmtree(folder, ignore_errors=True)

    def clear_abandoned(self, kind: str) -> None:
        """Remove what writers that were killed left behind. A living one holds a lock, which ends with its process."""
        for folder in self._scratch(kind).glob(".*-*"):
            with contextlib.suppress(OSError):
                held = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(held)

    def _scratch(self, kind: str) -> Path:
        parent = self._cache / "writing" if self.remote else Path(self._base) / kind
        parent.mkdir(parents=True, exist_ok=True)
        return parent

    def _seal(self, folder: Path, kind: str, digest: str, spec: dict[str, Any], run: dict[str, Any] | None) -> None:
        folder.chmod(0o755)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in paths:
            path.chmod(0o644)  # safetensors writes for the owner alone, but a store is shared
        files = {str(path.relative_to(folder)): sha256_of(path) for path in paths}
        if run is not None:
            _write_json(folder / RUN_FILE, run)
        _write_json(folder / STEP_FILE, {"kind": kind, "digest": digest, "spec": spec, "files": files})

    def _move_into_place(self, folder: Path, kind: str, digest: str) -> None:
        place = self._place(kind, digest)
        if self.remote:
            self._upload(folder, place)
            return
        try:
            folder.rename(place)
        except OSError:
            if not self.has(kind, digest):
                raise

    def _upload(self, folder: Path, place: str) -> None:
        files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != STEP_FILE]
        for path in [*files, folder / STEP_FILE]:
            self._fs.put_file(str(path), f"{place}/{path.relative_to(folder).as_posix()}")

    def fetch(self, kind: str, digest: str) -> Path:
        """The local folder of a finished step, every file checked against its sha256.

        Raises:
            FileNotFoundError: the step is not finished.
            CorruptOutputError: a file is missing or its bytes changed.
        """
        if not self.has(kind, digest):
            raise FileNotFoundError(f"store {self.root}: {kind} {digest} is not finished")
        folder = self._download(kind, digest) if self.remote else Path(self._place(kind, digest))
        for name, expected in self.read_step(kind, digest)["files"].items():
            path = folder / name
            if not path.is_file() or sha256_of(path) != expected:
                raise CorruptOutputError(
                    f"{path}: its bytes are not the ones published; delete the folder {folder} and run the sweep again"
                )
        return folder

    def _download(self, kind: str, digest: str) -> Path:
        folder = self._cache / kind / digest
        if not (folder / STEP_FILE).is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            writing = Path(tempfile.mkdtemp(prefix=f".{digest[:12]}-", dir=folder.parent))
            place = self._place(kind, digest)
            for remote in self._fs.find(place):
                target = writing / str(remote)[len(str(self._fs._strip_protocol(place))) :].lstrip("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(remote, str(target))
            with contextlib.suppress(OSError):  # another process was faster: its copy serves
                writing.rename(folder)
            shutil.rmtree(writing, ignore_errors=True)
        return folder

    def read_step(self, kind: str, digest: str) -> dict[str, Any]:
        """The step's spec and its files' sha256."""
        loaded: dict[str, Any] = json.loads(self._fs.cat_file(f"{self._place(kind, digest)}/{STEP_FILE}"))
        return loaded

    def read_file(self, kind: str, digest: str, name: str) -> bytes:
        """One file of a finished step, checked against its sha256, without fetching its neighbours.

        Raises:
            FileNotFoundError: the step is not finished, or has no such file.
            CorruptOutputError: the file's bytes changed.
        """
        place = f"{self._place(kind, digest)}/{name}"
        content: bytes = self._fs.cat_file(place)
        if hashlib.sha256(content).hexdigest() != self.read_step(kind, digest)["files"].get(name):
            raise CorruptOutputError(
                f"{place}: its bytes are not the ones published; delete it and run the sweep again"
            )
        return content

    def read_run(self, kind: str, digest: str) -> dict[str, Any]:
        """The circumstances under which the step ran; empty where none were written."""
        try:
            loaded: dict[str, Any] = json.loads(self._fs.cat_file(f"{self._place(kind, digest)}/{RUN_FILE}"))
        except FileNotFoundError:
            return {}
        return loaded

    def running(self, kind: str) -> set[str]:
        """The first digits (`PREFIX` of them) of the digests that somebody on this file system writes now."""
        found = set()
        for folder in self._scratch(kind).glob(".*-*"):
            with contextlib.suppress(FileNotFoundError):  # it was published meanwhile
                if _is_held(folder):
                    found.add(folder.name[1:].partition("-")[0])
        return found

    def note_failure(self, digest: str, reason: str) -> None:
        """Keep why a step failed, for those who look when the run is over."""
        self._fs.makedirs(f"{self._base}/{FAILED}", exist_ok=True)
        self._fs.pipe_file(f"{self._base}/{FAILED}/{digest}", reason.encode())

    def failures(self) -> dict[str, str]:
        """Digest -> why that step failed when it was last tried."""
        try:
            paths = [str(path) for path in self._fs.ls(f"{self._base}/{FAILED}", detail=False)]
        except FileNotFoundError:
            return {}
        return {path.rsplit("/", 1)[1]: self._fs.cat_file(path).decode() for path in paths}

    def forget_failures(self, digests: Iterable[str]) -> None:
        """Forget why these steps failed: they are tried again."""
        for digest in self.failures().keys() & set(digests):
            with contextlib.suppress(FileNotFoundError):
                self._fs.rm_file(f"{self._base}/{FAILED}/{digest}")

    def discard(self, kind: str, digest: str) -> None:
        """Remove a step's output, so that it runs again."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm(self._place(kind, digest), recursive=True)
        shutil.rmtree(self._cache / kind / digest, ignore_errors=True)


def _is_held(folder: Path) -> bool:
    """Whether a living process writes into a folder of `publish`."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # a file system without locks
    finally:
        os.close(opened)
    return False


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
