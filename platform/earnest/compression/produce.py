"""Compress a model into a folder and prove it: save, count what was saved, read it back, compare logits bit by bit."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from torch import Tensor

from earnest.compression.checkpoint import MANIFEST_FILE, copy_beside, load, write_manifest
from earnest.compression.checks import name_of
from earnest.compression.counting import ZEROS_BESIDE, count_tensors, size_of
from earnest.compression.encoding import encode, form_of
from earnest.compression.probe import UnfaithfulCheckpointError, attention_of, check_logits, logits_digest
from earnest.compression.quantiser import Quantised
from earnest.compression.tensor_files import AT_ONCE, Entry, Spool, write_tensors
from earnest.compression.walk import CompressedTensor, CompressedWeights, Progress, compress, silent
from earnest.models.loading import LoadedModel, name_of_dtype, return_freed_memory
from earnest.plan import method_fields
from earnest.records import Manifest
from earnest.specs import Method, UserError
from earnest.store import sha256_of

SHARD_BYTES = 4 * 2**30


def compress_to_folder(
    loaded: LoadedModel,
    method: Method,
    ids: Tensor | None,
    folder: Path,
    *,
    calibration: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Manifest:
    """Compress `loaded` in place and save it; only what was read back and found equal gets a manifest.

    The same model, method and calibration write the same bytes. Beside the model there is one block's work in memory;
    `loaded` then holds what was read back.

    Args:
        loaded: the dense model.
        method: what to do.
        ids: calibration token ids [samples, length], for methods that need them.
        folder: where to write; absent or empty.
        calibration: how the ids were made, for the manifest.
        progress: called with (blocks done, blocks).

    Raises:
        UserError: the method does not fit the model or its calibration, or the folder is not empty.
        UnfaithfulCheckpointError: what was saved is not what was compressed.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; name a new folder, nothing is overwritten")
    before = logits_digest(loaded)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".parts-", dir=folder) as scratch:
        spool = Spool(Path(scratch))
        weights = compress(loaded, method, ids, progress, partial(_encode, spool, loaded.stored_dtype))
        files = _write_shards(folder, _entries(loaded, weights, spool))
    manifest = describe(loaded, weights, folder, files, calibration=calibration, ids=ids)
    if manifest.logits_digest == before:
        (folder / MANIFEST_FILE).unlink(missing_ok=True)
        raise UserError(
            f"model {loaded.name}: {name_of(method)} {method.nominal} left its logits as they were, bit for bit; "
            "it is compressed so already, or what was compressed is not what it reads text with; name the dense model"
        )
    try:
        _prove(loaded, folder, manifest.logits_digest)
    except UnfaithfulCheckpointError:
        (folder / MANIFEST_FILE).unlink()  # what is left is no checkpoint to any reader
        raise
    return manifest


def _prove(loaded: LoadedModel, folder: Path, expected: str) -> None:
    """Read the folder back in the place of the compressed model, and compare their logits."""
    attention, device, dtype = attention_of(loaded), str(loaded.device), name_of_dtype(loaded.dtype)
    loaded.model.to("meta")  # two whole models are never held
    return_freed_memory()
    again = load(folder, device=device, dtype=dtype)
    check_logits(again, expected, attention, str(folder))
    loaded.model = again.model


def _encode(
    spool: Spool,
    stored: torch.dtype,
    name: str,
    weight: Tensor,
    tensor: CompressedTensor,
    quantised: Quantised | None,
) -> None:
    codes, narrow = None if quantised is None else quantised.cpu(), weight.cpu().to(_kept_dtype(weight, stored))
    parts = encode(form_of(tensor.pruned, tensor.bits), narrow, codes)
    spool.put({f"{name}.{part}": value for part, value in parts.items()})


def describe(
    loaded: LoadedModel,
    weights: CompressedWeights,
    folder: Path,
    files: Sequence[str],
    *,
    calibration: Mapping[str, Any] | None = None,
    ids: Tensor | None = None,
) -> Manifest:
    """Put config and tokenizer beside the weights' `files`, count what they hold, and write the manifest.

    Weights are written in the dtype that the dense model is stored in, whatever was computed in.

    Raises:
        UnfaithfulCheckpointError: the file holds another number of zeros than was pruned.
    """
    stored = loaded.stored_dtype
    shapes = {
        name: torch.empty_like(one, dtype=_kept_dtype(one, stored), device="meta")
        for name, one in _untied(loaded.model.state_dict()).items()
    }
    copy_beside(loaded.folder, folder)
    records = count_tensors(folder, files, weights, stored)
    fields = method_fields(weights.method)
    manifest = Manifest(
        base=loaded.name,
        base_digest=loaded.digest,
        method=fields,
        calibration=None if calibration is None else dict(calibration),
        calibration_digest=None if ids is None else _digest_of(ids),
        seed=int(fields.get("seed", (calibration or {}).get("seed", 0))),
        dtype=name_of_dtype(stored),
        compute_dtype=name_of_dtype(loaded.dtype),
        tensors=records,
        size=size_of(records, shapes, sum((folder / name).stat().st_size for name in files)),
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_FILE},
        logits_digest=logits_digest(loaded),
        versions={
            "safetensors": safetensors.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
        notes=_notes(weights),
        unseen_inputs={name: one.unseen for name, one in sorted(weights.tensors.items()) if one.unseen},
    )
    write_manifest(folder, manifest)
    return manifest


def _notes(weights: CompressedWeights) -> tuple[str, ...]:
    """What a user should know of a compression that did what was asked."""
    unseen = {name: one.unseen for name, one in weights.tensors.items() if one.unseen}
    empty, lost = (sum(getattr(one, what) for one in weights.tensors.values()) for what in ("empty", "lost"))
    total = sum(rows * cols for rows, cols in (one.shape for one in weights.tensors.values()))
    notes = []
    if unseen:
        notes.append(
            f"calibration never saw {sum(unseen.values())} inputs of {len(unseen)} layers, as of {next(iter(unseen))}: "
            "their weights are only rounded, or go first where weights are pruned; give more or other calibration text"
        )
    if lost and empty > ZEROS_BESIDE * total:
        notes.append(
            f"the dense model was sparse already, and {lost} of its {empty} zeros are zero no more: "
            f"{name_of(weights.method)} keeps none but its own"
        )
    return tuple(notes)


def _untied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once: a tied output head is the embeddings by another name, and is tied again on loading."""
    seen: set[tuple[int, torch.Size]] = set()
    untied = {}
    for name, tensor in state.items():
        place = (tensor.data_ptr(), tensor.shape)
        if place not in seen:
            untied[name] = tensor
        seen.add(place)
    return untied


def _kept_dtype(tensor: Tensor, stored: torch.dtype) -> torch.dtype:
    """The stored dtype; the tensor's own where that would lose a bit, as of norms kept in float32."""
    exact = all(torch.equal(part.to(stored).to(part.dtype), part) for part in torch.split(tensor.reshape(-1), AT_ONCE))
    return stored if exact else tensor.dtype


def _entries(loaded: LoadedModel, weights: CompressedWeights, spool: Spool) -> dict[str, Entry]:
    """All that is saved: the compressed weights' parts, and the model's other tensors."""
    state, stored = _untied(loaded.model.state_dict()), loaded.stored_dtype
    others = {name: one for name, one in state.items() if name not in weights.tensors}
    return {name: Entry.of(one, _kept_dtype(one, stored)) for name, one in others.items()} | spool.entries


def _write_shards(folder: Path, entries: Mapping[str, Entry]) -> list[str]:
    """Write safetensors files of at most `SHARD_BYTES` (or one tensor); gives their names."""
    shards: list[dict[str, Entry]] = [{}]
    room = SHARD_BYTES
    for name, entry in sorted(entries.items()):
        if entry.size > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = entry
        room -= entry.size
    names = [_shard_name(index, len(shards)) for index in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        write_tensors(folder / name, shard, {"format": "earnest"})
        (folder / name).chmod(0o644)  # a store is read by many
    return names


def _shard_name(index: int, shards: int) -> str:
    return "compressed.safetensors" if shards == 1 else f"compressed-{index + 1:05d}-of-{shards:05d}.safetensors"


def _digest_of(ids: Tensor) -> str:
    content = f"{tuple(ids.shape)} ".encode() + ids.to(torch.int64).cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:32]
