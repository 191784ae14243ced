"""What a saved file really holds: zeros, bits and bytes of each weight, counted by reading it again.

A count that is not what the method promises is an error, not a footnote.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earnest.compression.checkpoint import decode_one, parts_of
from earnest.compression.encoding import form_of
from earnest.compression.methods import nominal_zeros
from earnest.compression.probe import UnfaithfulCheckpointError
from earnest.compression.tensor_files import open_tensors
from earnest.compression.walk import CompressedTensor, CompressedWeights
from earnest.records import Size, TensorRecord
from earnest.specs import NM, Pruning, UserError

DENSE_BYTES_PER_WEIGHT = 2  # bf16, whatever the model's dtype, so that all models share one x-axis
LENGTH_FIELD, ALIGNMENT = 8, 8  # of a safetensors file's header, bytes
SAFETENSORS_NAMES = {torch.bfloat16: "BF16", torch.float16: "F16", torch.float64: "F64"}
ZEROS_BESIDE = 0.01  # share of weights that may be zero beside the pruned ones before the nominal ratio misleads


def count_tensors(
    folder: Path, files: Sequence[str], weights: CompressedWeights, dtype: torch.dtype
) -> tuple[TensorRecord, ...]:
    """Count each compressed weight in the files just written.

    Raises:
        UnfaithfulCheckpointError: a weight holds another number of zeros than in memory, or than the pattern asks for.
        UserError: the dense model was sparser than what was asked.
    """
    method = str(weights.method.model_dump()["method"])
    with open_tensors(folder, files) as stored:
        records = tuple(
            _count(folder, name, one, stored, dtype, method) for name, one in sorted(weights.tensors.items())
        )
    for record in records:
        _check(record, weights)
    _check_ratio(records, weights)
    return records


def _count(
    folder: Path, name: str, tensor: CompressedTensor, stored: Mapping[str, Any], dtype: torch.dtype, method: str
) -> TensorRecord:
    parts = parts_of(name, stored)
    numel = tensor.shape[0] * tensor.shape[1]
    record = TensorRecord(
        name=name,
        shape=tensor.shape,
        form=form_of(tensor.pruned, tensor.bits),
        zeros=0,
        sparsity=0.0,
        bits=tensor.bits,
        group_size=tensor.group_size,
        stored_bytes=sum(_bytes(part) for part in parts.values()),
        dense_bytes=numel * DENSE_BYTES_PER_WEIGHT,
        bf16_bytes=sum(map(_bf16_bytes, parts.values())),
        method=method,
    )
    zeros = int((decode_one(folder, record, stored, dtype) == 0).sum())
    return record.model_copy(update={"zeros": zeros, "sparsity": zeros / numel})


def _check(record: TensorRecord, weights: CompressedWeights) -> None:
    tensor = weights.tensors[record.name]
    asked = nominal_zeros(weights.method, *tensor.shape)
    if tensor.pruned not in asked or record.zeros != tensor.zeros or record.zeros < tensor.pruned:
        wanted = " to ".join(dict.fromkeys(map(str, (asked[0], asked[-1]))))
        raise UnfaithfulCheckpointError(
            f"{record.name}: {record.zeros} zeros in the file, {tensor.zeros} in memory, "
            f"{tensor.pruned} pruned where the pattern asks for {wanted}"
        )


def _check_ratio(records: Sequence[TensorRecord], weights: CompressedWeights) -> None:
    """A dense model that is sparse already would make the nominal ratio a lie. Rounding to few bits may add zeros."""
    method = weights.method
    if not isinstance(method, Pruning) or any(record.bits is not None for record in records):
        return
    total = sum(rows * cols for rows, cols in (record.shape for record in records))
    zeros = sum(record.zeros for record in records)
    pruned = sum(tensor.pruned for tensor in weights.tensors.values())
    if zeros - pruned > ZEROS_BESIDE * total:
        raise UserError(
            f"{records[0].method} {method.nominal}: the saved weights are {zeros / total:.1%} zeros, "
            f"because the dense model was sparse already; {_remedy(method, weights)}"
        )


def _remedy(method: Pruning, weights: CompressedWeights) -> str:
    """What can still be asked of a model that is sparse already: more zeros than any of its weights holds, of a method
    that takes what is zero first.
    """
    dense = "begin with the dense model"
    most = max(tensor.empty / (tensor.shape[0] * tensor.shape[1]) for tensor in weights.tensors.values())
    above = math.ceil(100 * most) / 100
    fixed = isinstance(method.pattern, NM)
    first = fixed or all(tensor.zeros <= max(tensor.empty, tensor.pruned) for tensor in weights.tensors.values())
    more = f"ask for sparsity above {above:.2f}" if first and not method.draws() and above < 1 - ZEROS_BESIDE else ""
    said = "N:M fixes how many go; " if fixed else ""
    return said + (f"{dense}, or {more}" if more else dense)


def size_of(records: Sequence[TensorRecord], state: Mapping[str, Tensor], file_bytes: int) -> Size:
    """The size of a checkpoint from its counted weights; `state` holds all of the model's weights, as
    stored, of which shapes and dtypes are looked at.
    """
    weights = sum(rows * cols for rows, cols in (record.shape for record in records))
    stored = sum(record.stored_bytes for record in records)
    return Size(
        dense_bytes=sum(record.dense_bytes for record in records),
        stored_bytes=stored,
        file_bytes=file_bytes,
        bf16_bytes=sum(record.bf16_bytes or 0 for record in records),
        dense_file_bytes=_dense_file_bytes(state),
        sparsity=sum(record.zeros for record in records) / weights,
        bits_per_weight=8 * stored / weights,
    )


def _bf16_bytes(part: Tensor) -> int:
    return part.numel() * DENSE_BYTES_PER_WEIGHT if part.is_floating_point() else _bytes(part)


def _dense_file_bytes(state: Mapping[str, Tensor]) -> int:
    """What one safetensors file of the dense weights takes, its header of names, shapes and places included."""
    at, header = 0, dict[str, Any]({"__metadata__": {"format": "pt"}})
    for name, tensor in sorted(state.items(), key=lambda item: item[0]):
        header[name] = {
            "dtype": SAFETENSORS_NAMES.get(tensor.dtype, "F32"),
            "shape": list(tensor.shape),
            "data_offsets": [at, at + _bytes(tensor)],
        }
        at += _bytes(tensor)
    length = len(json.dumps(header, separators=(",", ":")).encode())
    return LENGTH_FIELD + -(-length // ALIGNMENT) * ALIGNMENT + at


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
