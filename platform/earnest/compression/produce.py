"""Compress a model into a folder and prove it: save, count what was saved, read it back, compare logits bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from earnest.compression.checkpoint import MANIFEST_FILE, copy_beside, load, write_manifest
from earnest.compression.counting import count_tensors, size_of
from earnest.compression.encoding import encode, form_of
from earnest.compression.probe import UnfaithfulCheckpointError, check_same_logits, logits_digest
from earnest.compression.walk import CompressedWeights, Progress, compress, silent
from earnest.models.loading import LoadedModel, name_of_dtype
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

    The same model, method and calibration write the same bytes.

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
    weights = compress(loaded, method, ids, progress)
    folder.mkdir(parents=True, exist_ok=True)
    manifest = save(loaded, weights, folder, calibration=calibration, ids=ids)
    try:
        again = load(folder, device=str(loaded.device), dtype=name_of_dtype(loaded.dtype))
        check_same_logits(loaded, again, str(folder))
    except UnfaithfulCheckpointError:
        (folder / MANIFEST_FILE).unlink()  # what is left is no checkpoint to any reader
        raise
    return manifest


def save(
    loaded: LoadedModel,
    weights: CompressedWeights,
    folder: Path,
    *,
    calibration: Mapping[str, Any] | None = None,
    ids: Tensor | None = None,
) -> Manifest:
    """Write a compressed model's weights, config, tokenizer and manifest into an empty folder.

    Weights are written in the dtype that the dense model is stored in, whatever was computed in.

    Raises:
        UnfaithfulCheckpointError: the file holds another number of zeros than was pruned.
    """
    stored = loaded.stored_dtype
    state = {name: _narrowed(tensor, stored) for name, tensor in _untied(loaded.model.state_dict()).items()}
    files = _write_shards(folder, dict(_parts(state, weights)))
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
        size=size_of(records, state, sum((folder / name).stat().st_size for name in files)),
        files={path.name: sha256_of(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_FILE},
        logits_digest=logits_digest(loaded),
        versions={
            "safetensors": safetensors.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    )
    write_manifest(folder, manifest)
    return manifest


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


def _narrowed(tensor: Tensor, stored: torch.dtype) -> Tensor:
    """The tensor on the CPU in the stored dtype; as it is where that would lose a bit, as of norms kept in float32."""
    narrow = tensor.cpu().to(stored)
    return narrow if torch.equal(narrow.to(tensor.dtype), tensor.cpu()) else tensor.cpu()


def _parts(state: Mapping[str, Tensor], weights: CompressedWeights) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in state.items():
        if name not in weights.tensors:
            yield name, tensor.contiguous()
            continue
        outcome = weights.tensors[name]
        parts = encode(form_of(outcome.pruned, outcome.quantised), tensor, outcome.quantised)
        yield from ((f"{name}.{part}", value.contiguous()) for part, value in parts.items())


def _write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> list[str]:
    """Write safetensors files of at most `SHARD_BYTES` (or one tensor); gives their names."""
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in sorted(tensors.items()):
        size = tensor.numel() * tensor.element_size()
        if size > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= size
    names = [_shard_name(index, len(shards)) for index in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        save_file(shard, folder / name, metadata={"format": "earnest"})
        (folder / name).chmod(0o644)  # safetensors writes for the owner alone, but a store is read by many
    return names


def _shard_name(index: int, shards: int) -> str:
    return "compressed.safetensors" if shards == 1 else f"compressed-{index + 1:05d}-of-{shards:05d}.safetensors"


def _digest_of(ids: Tensor) -> str:
    content = f"{tuple(ids.shape)} ".encode() + ids.to(torch.int64).cpu().contiguous().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()[:32]
