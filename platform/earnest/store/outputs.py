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
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec

from earnest.specs import UserError
from earnest.store.inspection import (
    HASHED_REMOTELY,
    RUN_FILE,
    STEP_FILE,
    CorruptOutputError,
    Remembered,
    StoredFile,
    damage,
    entries_of,
    parsed,
    sha256_of,
)
from earnest.store.leases import Leases
from earnest.store.listing import Listing

FAILED = "failed"  # the folder of what is known of steps that failed
PREFIX = 12
WORKERS = 8  # threads that look at outputs side by side


class Store:
    """Outputs of steps under one root.

    Args:
        root: a local folder, or an fsspec URL such as s3://bucket/earnest.
        cache: where a bucket's outputs are fetched to; a folder of the user's cache by default.
        writable: whether outputs are to go there; otherwise nothing is written, and the root need not exist.

    Raises:
        UserError: the root cannot be written, or read.
    """

    def __init__(self, root: str, cache: Path | None = None, *, writable: bool = True) -> None:
        self.root = str(Path(root).expanduser().resolve()) if "://" not in root else root.rstrip("/")
        self.remote = "://" in self.root
        try:
            self._fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise UserError(f"store {root}: {error}; a bucket wants its fsspec package, as s3:// wants s3fs") from error
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        self._cache = cache or home / "earnest" / hashlib.sha256(self.root.encode()).hexdigest()[:16]
        self._listing = Listing(self._fs, self._base)
        self._whole = Remembered(self._cache / "whole")
        if writable:
            self._prove_writable()

    def leases(self, name: str | None = None) -> Leases:
        """The leases on this store's steps, for one driver."""
        return Leases(self._fs, self._base, name)

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
        return self._damage(kind, digest, self._entries(kind, digest)) == ""

    def digests(self, kind: str) -> set[str]:
        """All steps of a kind that were published; whether they are still whole, `intact` tells."""
        if self.remote:
            return {digest for digest, files in self._listing.of(kind).items() if STEP_FILE in files}
        folder = Path(self._base) / kind
        there = folder.iterdir() if folder.is_dir() else ()
        return {path.name for path in there if path.name[0] != "." and (path / STEP_FILE).is_file()}

    def intact(self, kind: str, wanted: Iterable[str]) -> set[str]:
        """Those of the wanted steps whose output is there, whole."""
        return {digest for digest, wrong in self._inspect(kind, wanted).items() if wrong == ""}

    def verify(self, kind: str) -> tuple[int, dict[str, str]]:
        """Read every byte of a kind: how many outputs there are, and which are not whole -> what is wrong."""
        self._whole.forget()
        if self.remote:
            every = set(self._listing.of(kind))
        else:
            folder = Path(self._base) / kind
            every = {path.name for path in folder.iterdir() if path.name[0] != "."} if folder.is_dir() else set()
        found = self._inspect(kind, every, hashed=None)
        return len(found), {
            digest: wrong or f"{STEP_FILE} is missing" for digest, wrong in found.items() if wrong != ""
        }

    def damaged(self, kind: str, wanted: Iterable[str]) -> dict[str, str]:
        """Those of the wanted steps whose output is there but not whole -> what is wrong. They count as absent."""
        return {digest: wrong for digest, wrong in self._inspect(kind, wanted).items() if wrong}

    def refresh(self) -> None:
        """Forget what was listed: others have published since."""
        self._listing.forget()

    def _inspect(self, kind: str, wanted: Iterable[str], hashed: int | None = HASHED_REMOTELY) -> dict[str, str | None]:
        """Digest -> what is wrong with its output: nothing (""), or None where there is no output."""
        listed = self._listing.of(kind) if self.remote else None
        wanted = sorted(set(wanted) if listed is None else listed.keys() & set(wanted))

        def look(digest: str) -> str | None:
            entries = self._entries(kind, digest) if listed is None else listed[digest]
            return self._damage(kind, digest, entries, hashed)

        with ThreadPoolExecutor(WORKERS) as pool:
            return dict(zip(wanted, pool.map(look, wanted), strict=True))

    def _entries(self, kind: str, digest: str) -> dict[str, StoredFile]:
        return self._listing.below(f"{kind}/{digest}") if self.remote else entries_of(Path(self._place(kind, digest)))

    def _damage(
        self, kind: str, digest: str, entries: dict[str, StoredFile], hashed: int | None = HASHED_REMOTELY
    ) -> str | None:
        """What is wrong with the output that consists of these files; None where there is none.

        Of a bucket's files those with more than `hashed` bytes are not read.
        """
        if not entries:
            return None
        if STEP_FILE not in entries:
            return None if self.remote else f"{STEP_FILE} is missing"  # a bucket's step.json is written last
        if self._whole.knows(kind, digest, entries):
            return ""
        try:
            step = self.read_step(kind, digest)
        except CorruptOutputError:
            return f"{STEP_FILE} is not as published"
        except FileNotFoundError:
            return None
        wrong = damage(
            step,
            entries,
            lambda name: self._sha256(kind, digest, name),
            hashed=hashed if self.remote else None,
        )
        if not wrong:
            self._whole.note(kind, digest, entries)
        return wrong

    def _sha256(self, kind: str, digest: str, name: str) -> str | None:
        with contextlib.suppress(OSError):
            if self.remote:
                return hashlib.sha256(self._fs.cat_file(f"{self._place(kind, digest)}/{name}")).hexdigest()
            return sha256_of(Path(self._place(kind, digest)) / name)
        return None

    @contextlib.contextmanager
    def publish(
        self, kind: str, digest: str, spec: dict[str, Any], run: dict[str, Any] | None = None
    ) -> Iterator[Path]:
        """Give a folder to write into; on leaving it without an error, publish it whole under its digest.

        `run` is read when the block ends, so a caller may fill it inside. A step that somebody else published in the
        meantime is left as it is; a damaged output makes room. Nothing remains of a block that raised.
        """
        parent = self._scratch(kind)
        parent.mkdir(parents=True, exist_ok=True)
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

    def clear_abandoned(self, kind: str, spared: Collection[str] = ()) -> None:
        """Remove what writers that were killed left behind. A living one holds a lock, which ends with its process.

        `spared` are digests that others may be writing on machines whose locks cannot be seen from here.
        """
        prefixes = {digest[:PREFIX] for digest in spared}
        for folder in self._scratch(kind).glob(".*-*"):
            if folder.name[1:].partition("-")[0] in prefixes:
                continue
            with contextlib.suppress(OSError):
                held = os.open(folder, os.O_RDONLY)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
                finally:
                    os.close(held)

    def _scratch(self, kind: str) -> Path:
        return self._cache / "writing" if self.remote else Path(self._base) / kind

    def _seal(self, folder: Path, kind: str, digest: str, spec: dict[str, Any], run: dict[str, Any] | None) -> None:
        folder.chmod(0o755)
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        for path in paths:
            path.chmod(0o644)  # safetensors writes for the owner alone, but a store is shared
        files = {str(path.relative_to(folder)): sha256_of(path) for path in paths}
        if run is not None:
            _write_json(folder / RUN_FILE, run)
        sizes = {str(path.relative_to(folder)): path.stat().st_size for path in paths}
        step = {"kind": kind, "digest": digest, "spec": spec, "files": files, "sizes": sizes}
        _write_json(folder / STEP_FILE, step)

    def _move_into_place(self, folder: Path, kind: str, digest: str) -> None:
        place = self._place(kind, digest)
        wrong = self._damage(kind, digest, self._entries(kind, digest))
        if wrong == "":
            return
        if wrong:
            self.discard(kind, digest)
        if self.remote:
            self._upload(folder, place)
            self._listing.forget()
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
        step = self.read_step(kind, digest)
        if not self.remote:
            return self._checked(Path(self._place(kind, digest)), step)
        try:
            return self._checked(self._download(kind, digest), step)
        except CorruptOutputError:  # the copy may be old, or damaged
            shutil.rmtree(self._cache / kind / digest, ignore_errors=True)
            return self._checked(self._download(kind, digest), step)

    def _checked(self, folder: Path, step: dict[str, Any]) -> Path:
        for name, expected in step["files"].items():
            path = folder / name
            if not path.is_file() or sha256_of(path) != expected:
                raise self._corrupt(f"{path}: its bytes are not the ones published", step["kind"], step["digest"])
        return folder

    def _corrupt(self, what: str, kind: str, digest: str) -> CorruptOutputError:
        return CorruptOutputError(f"{what}; it counts as not finished: run the sweep again", kind, digest)

    def _download(self, kind: str, digest: str) -> Path:
        folder = self._cache / kind / digest
        if not (folder / STEP_FILE).is_file():
            folder.parent.mkdir(parents=True, exist_ok=True)
            writing = Path(tempfile.mkdtemp(prefix=f".{digest[:PREFIX]}-", dir=folder.parent))
            for name in self._listing.below(f"{kind}/{digest}"):
                target = writing / name
                target.parent.mkdir(parents=True, exist_ok=True)
                self._fs.get_file(f"{self._place(kind, digest)}/{name}", str(target))
            with contextlib.suppress(OSError):  # another process was faster: its copy serves
                writing.rename(folder)
            shutil.rmtree(writing, ignore_errors=True)
        return folder

    def read_step(self, kind: str, digest: str) -> dict[str, Any]:
        """The step's spec and its files' sha256.

        Raises:
            FileNotFoundError: the step is not finished.
            CorruptOutputError: what is there is not what was published.
        """
        place = f"{self._place(kind, digest)}/{STEP_FILE}"
        try:
            content: bytes = self._fs.cat_file(place)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise FileNotFoundError(f"store {self.root}: {kind} {digest} is not finished") from error
        try:
            return parsed(content, kind, digest)
        except ValueError as error:
            raise self._corrupt(f"{place}: its bytes are not the ones published", kind, digest) from error

    def read_file(self, kind: str, digest: str, name: str) -> bytes:
        """One file of a finished step, checked against its sha256, without fetching its neighbours.

        Raises:
            FileNotFoundError: the step is not finished, or never had such a file.
            CorruptOutputError: the file is gone, or its bytes changed.
        """
        place, files = f"{self._place(kind, digest)}/{name}", self.read_step(kind, digest)["files"]
        if name not in files:
            raise FileNotFoundError(f"store {self.root}: {kind} {digest} has no {name}")
        try:
            content: bytes = self._fs.cat_file(place)
        except FileNotFoundError as error:
            raise self._corrupt(f"{place}: is gone", kind, digest) from error
        if hashlib.sha256(content).hexdigest() != files[name]:
            raise self._corrupt(f"{place}: its bytes are not the ones published", kind, digest)
        return content

    def read_run(self, kind: str, digest: str) -> dict[str, Any]:
        """The circumstances under which the step ran; empty where none can be read."""
        try:
            loaded = json.loads(self._fs.cat_file(f"{self._place(kind, digest)}/{RUN_FILE}"))
        except (FileNotFoundError, ValueError):
            return {}
        return loaded if isinstance(loaded, dict) else {}

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
        found = self._fs.cat(paths, on_error="omit") if paths else {}
        return {path.rsplit("/", 1)[1]: content.decode(errors="replace") for path, content in found.items()}

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
        self._listing.forget()


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


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
