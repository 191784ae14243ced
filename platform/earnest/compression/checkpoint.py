"""A compressed checkpoint on disk: read, verified, exported. Writing it is `produce.py`'s work.

A folder holds the weights (`compressed.safetensors`, or several numbered files), config and tokenizer, and
`manifest.json`, which names every file's sha256 and how each weight is stored. The weights' file is not called
model.safetensors: a program that does not know this form would fill the missing weights with random numbers; so it
finds no weights and says so.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from earnest.compression.encoding import PARTS, Layout, decode
from earnest.compression.probe import attention_of, check_logits, logits_digest
from earnest.compression.tensor_files import open_tensors
from earnest.models.loading import DTYPES, LoadedModel, build, dtype_on
from earnest.models.loading import load as load_model
from earnest.models.source import BESIDE_WEIGHTS, resolve
from earnest.records import Manifest, TensorRecord
from earnest.specs import UserError
from earnest.store import sha256_of

MANIFEST_FILE = "manifest.json"


def read_manifest(folder: Path) -> Manifest:
    """The checkpoint's manifest. Raises UserError where there is none or it is damaged."""
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise UserError(f"{folder}: holds no {MANIFEST_FILE}; name a folder that earnest compress wrote")
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is damaged or of another version; compress the model again") from error


def verify(folder: Path) -> Manifest:
    """Check every byte of a checkpoint against its manifest, and that nothing is missing or has been added.

    Raises:
        UserError: names the first file that is not as it was written.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise UserError(f"{path}: is missing; compress the model again")
        if sha256_of(path) != expected:
            raise UserError(f"{path}: its bytes are not those of the manifest; compress the model again")
    added = sorted({path.name for path in folder.glob("*.safetensors")} - set(manifest.files))
    if added:
        raise UserError(f"{folder / added[0]}: is not in the manifest; remove it")
    return manifest


def load(folder: Path, *, device: str = "cpu", dtype: str = "auto") -> LoadedModel:
    """Load a compressed checkpoint as a model with dense weights.

    Args:
        folder: what `compress_to_folder` wrote; every byte is verified first.
        device: a torch device.
        dtype: what to compute in, as `models.loading.load` takes it; cast from the dtype that it is stored in.

    Raises:
        UserError: a file is missing, damaged, or does not hold what the manifest says.
    """
    manifest = verify(folder)
    method, kept = manifest.method.get("method", ""), DTYPES[manifest.dtype]
    with open_tensors(folder, weight_files(manifest)) as stored:
        return build(
            folder,
            StoredState(folder, manifest.tensors, stored, kept),
            name=f"{manifest.base} {method}",
            digest=sha256_of(folder / MANIFEST_FILE)[:32],
            device=device,
            dtype=DTYPES[dtype_on(device, dtype, manifest.dtype)],
            stored=kept,
        )


def weight_files(manifest: Manifest) -> list[str]:
    """The files that hold tensors."""
    return sorted(name for name in manifest.files if name.endswith(".safetensors"))


class StoredState(Mapping[str, Tensor]):
    """All weights of open files by name, each read, and decoded where it was compressed, when it is asked for.

    Asking raises UserError where a part is missing or does not fit the others.
    """

    def __init__(
        self, folder: Path, tensors: Sequence[TensorRecord], stored: Mapping[str, Any], dtype: torch.dtype
    ) -> None:
        self._folder, self._stored, self._dtype = folder, stored, dtype
        self._records = {record.name: record for record in tensors}
        parts = {f"{name}.{part}" for name in self._records for part in PARTS}
        self._names = [*(key for key in stored if key not in parts), *self._records]

    def __getitem__(self, name: str) -> Tensor:
        if name in self._records:
            return decode_one(self._folder, self._records[name], self._stored, self._dtype)
        tensor: Tensor = self._stored[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def decode_one(folder: Path, record: TensorRecord, stored: Mapping[str, Any], dtype: torch.dtype) -> Tensor:
    """One compressed weight from its parts in the files."""
    layout = Layout(record.form, record.shape, dtype, record.bits, record.group_size)
    parts = parts_of(record.name, stored)
    try:
        return decode(layout, parts)
    except (KeyError, ValueError) as error:
        raise UserError(
            f"{folder}: {record.name} is not stored as the manifest says ({error}); compress the model again"
        ) from error


def parts_of(name: str, stored: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parts of one weight that the files hold."""
    keys = {part: f"{name}.{part}" for part in PARTS}
    return {part: stored[key].get_tensor(key) for part, key in keys.items() if key in stored}


def export_dense(folder: Path, out: Path) -> None:
    """Write a checkpoint as a plain transformers folder; it appears whole, or not at all.

    Raises:
        UserError: `out` exists, or the checkpoint is damaged.
        UnfaithfulCheckpointError: transformers would not load the very same logits.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; name a new folder, nothing is overwritten")
    loaded = load(folder, dtype="stored")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        writing = Path(scratch) / "dense"
        writing.mkdir()
        copy_beside(folder, writing)
        loaded.model.save_pretrained(writing)
        for file in writing.glob("*.safetensors"):
            file.chmod(0o644)  # safetensors writes for the owner alone
        expected, attention = logits_digest(loaded), attention_of(loaded)
        del loaded  # two whole models are never held
        check_logits(load_model(resolve(str(writing)), dtype="stored"), expected, attention, str(out))
        writing.rename(out)


def copy_beside(source: Path, target: Path) -> None:
    """Copy a model folder's config, generation config and tokenizer."""
    for name in BESIDE_WEIGHTS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes a checkpoint of a folder."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST_FILE).write_text(text + "\n", encoding="utf-8")
