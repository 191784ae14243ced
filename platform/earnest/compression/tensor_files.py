"""Safetensors files tensor by tensor: of what is read or written, no more than one tensor is in memory.

`save_file` wants all tensors at once, and the pages of a mapped file count as the process's memory until the mapping
ends. Files written here have the very bytes that `save_file` would give them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from earnest.specs import UserError

# In the order of their places in a file: wide before narrow, so that all lie aligned.
DTYPES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
AT_ONCE = 2**20  # elements that are turned into another dtype at once
ORDER = {dtype: place for place, dtype in enumerate(DTYPES)}


@dataclass(frozen=True)
class Entry:
    """A tensor to write: what it is in the file, and how to get its values, in whatever dtype they are in memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    get: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor, dtype: torch.dtype | None = None) -> Entry:
        """A tensor that is in memory anyway, on any device, to be written in `dtype`, by default its own."""
        return cls(dtype or tensor.dtype, tuple(tensor.shape), lambda: tensor)

    @property
    def size(self) -> int:
        """Bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


def write_tensors(path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, getting each tensor when its turn comes."""
    order = sorted(entries, key=lambda name: (ORDER[entries[name].dtype], name))
    with path.open("wb") as file:
        file.write(_header(entries, order, metadata))
        for name in order:
            for part in torch.split(entries[name].get().reshape(-1), AT_ONCE):
                file.write(part.to("cpu", entries[name].dtype).contiguous().view(torch.uint8).numpy().data)


def _header(entries: Mapping[str, Entry], order: Sequence[str], metadata: Mapping[str, str]) -> bytes:
    fields: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in order:
        entry, begin = entries[name], end
        end += entry.size
        fields[name] = {"dtype": DTYPES[entry.dtype], "shape": entry.shape, "data_offsets": (begin, end)}
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def open_tensors(folder: Path, files: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The open safetensors file of each key, so that tensors are read one at a time, into memory of their own.

    Raises:
        UserError: a file is corrupted.
    """
    with ExitStack() as stack:
        stored: dict[str, Any] = {}
        for name in files:
            try:
                file = stack.enter_context(safe_open(folder / name, framework="pt", backend="pread"))
            except (SafetensorError, OSError) as error:
                raise UserError(f"{folder / name}: is corrupted ({error}); compress the model again") from error
            stored |= dict.fromkeys(file.keys(), file)
        yield stored


class Spool:
    """Tensors that wait on disk until all are known: a safetensors file begins with the place of each."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.entries: dict[str, Entry] = {}

    def put(self, tensors: Mapping[str, Tensor]) -> None:
        """Write some tensors to disk; `entries` reads them again."""
        path = self._folder / f"{len(self.entries)}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        for name, tensor in tensors.items():
            self.entries[name] = Entry(tensor.dtype, tuple(tensor.shape), lambda name=name: _read(path, name))  # type: ignore[misc]


def _read(path: Path, name: str) -> Tensor:
    with safe_open(path, framework="pt", backend="pread") as file:
        tensor: Tensor = file.get_tensor(name)
        return tensor
