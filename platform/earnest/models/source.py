"""From what a user names to a folder on disk and the digest of the weights in it.

A name is a local folder, a hub id with an optional `@revision`, or `nano:large` and its kin.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from earnest.models.inspection import check_folder, weight_files
from earnest.specs import UserError

NANO = Path(__file__).parent / "nano"
NANO_NAMES = ("large", "large-tuned", "medium", "small", "small-tuned")
BESIDE_WEIGHTS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "tiktoken.model", "tekken.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
FETCHED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
NOT_FETCHED = ["consolidated*", "*/*"]  # the same weights in another format, and what lies in folders
TEMPLATES = "additional_chat_templates/*.jinja"  # the only folder that tokenizers read


@dataclass(frozen=True)
class Source:
    """A model folder: the name the user gave, where it lies, and the digest of all that decides its outputs."""

    name: str
    path: Path
    digest: str


def resolve(name: str) -> Source:
    """Find a model.

    Raises:
        UserError: there is no such model, or its folder lacks a config or safetensors.
    """
    path = folder_of(name)
    return Source(name, path, digest_of_model(path))


def folder_of(name: str) -> Path:
    """Where a model lies, its weights not looked at: enough for its tokenizer.

    Raises:
        UserError: there is no such model, or its folder lacks a config or safetensors.
    """
    if not name.strip():
        raise UserError("model '': name a model folder, a hub id, or nano:large")
    path = _nano(name) if name.startswith("nano:") else _folder_or_hub(name)
    check_folder(name, path)
    return path


def _nano(name: str) -> Path:
    member = name.removeprefix("nano:")
    if member not in NANO_NAMES:
        known = ", ".join(f"nano:{one}" for one in NANO_NAMES)
        raise UserError(f"model {name!r}: the nano family is {known}")
    return NANO / member


def _folder_or_hub(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path.resolve()
    if path.exists():
        raise UserError(f"model {name}: is a file; name the folder that holds config.json and *.safetensors")
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise UserError(f"model {name}: no such folder; name a model folder, a hub id, or nano:large")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=FETCHED,
            ignore_patterns=NOT_FETCHED,
        )
        snapshot_download(repository, revision=Path(folder).name, allow_patterns=[TEMPLATES])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"model {name}: neither a folder here nor to be had from the hub ({reason}); name a local folder"
        ) from error
    return Path(folder)


def digest_of_model(path: Path) -> str:
    """The digest of a model's weights, config and tokenizer: of the bytes, not of the path.

    Hashes of large files are remembered by size and modification time in the user's cache.
    """
    weights = [file for file in weight_files(path) if file.is_file()]
    files = sorted([*weights, *(path / name for name in BESIDE_WEIGHTS if (path / name).is_file())])
    remembered = _Remembered()
    named = [(file.name, file) for file in files]
    named += [(file.relative_to(path).as_posix(), file) for file in sorted(path.glob(TEMPLATES))]
    pairs = [(name, remembered.sha256(file)) for name, file in named]
    remembered.save()
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()[:32]


class _Remembered:
    """File hashes by path, size and modification time, so that 100 GB are not hashed twice."""

    def __init__(self) -> None:
        home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        self._file = home / "earnest" / "hashes.json"
        try:
            self._known: dict[str, str] = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            self._known = {}
        self._changed = False

    def sha256(self, path: Path) -> str:
        stat = path.stat()
        key = f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}"
        if key not in self._known:
            with path.open("rb") as file:
                self._known[key] = hashlib.file_digest(file, "sha256").hexdigest()
            self._changed = True
        return self._known[key]

    def save(self) -> None:
        if not self._changed:
            return
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            writing = self._file.with_suffix(f".{os.getpid()}")
            writing.write_text(json.dumps(self._known), encoding="utf-8")
            writing.replace(self._file)
        except OSError:
            return  # a cache that cannot be written costs time, not truth
