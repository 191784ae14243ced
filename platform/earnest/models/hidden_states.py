"""The hidden states that calibration carries from block to block: in memory as far as a budget goes, on disk beyond it.

What lies on disk is read and written a batch at a time, with every bit as it was; a mapped file's pages would count as
the process's memory.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import IO

import torch
from torch import Tensor, nn

from earnest.specs import UserError

LEAST_BYTES = 2**24
SHARE = 1 / 16  # of the model's own bytes


def memory_for(model: nn.Module) -> int:
    """How many bytes of hidden states stay in memory beside a model."""
    return max(LEAST_BYTES, int(SHARE * sum(one.numel() * one.element_size() for one in model.parameters())))


class HiddenStates:
    """Batches of hidden states in order, each [sequences, length, width]; a list that keeps `memory` bytes at most.

    Batches keep their shape when they are replaced. What lies on an accelerator stays there.
    """

    def __init__(self, memory: int) -> None:
        self._room, self._end = memory, 0
        self._batches: list[Tensor | tuple[int, Tensor]] = []  # a batch, or where it lies and its shape without memory
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Tensor:
        batch = self._batches[index]
        if isinstance(batch, Tensor):
            return batch
        place, shape = batch
        tensor = torch.empty_like(shape, device="cpu")
        self._move(os.preadv, place, tensor)
        return tensor

    def __setitem__(self, index: int, tensor: Tensor) -> None:
        batch = self._batches[index]
        if isinstance(batch, Tensor):
            self._batches[index] = tensor
        else:
            self._move(os.pwritev, batch[0], tensor.contiguous())

    def append(self, tensor: Tensor) -> None:
        """Add a batch."""
        size = tensor.numel() * tensor.element_size()
        if tensor.device.type != "cpu" or size <= self._room:
            self._room -= size
            self._batches.append(tensor)
            return
        self._batches.append((self._end, torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")))
        self._end += size
        self[-1] = tensor

    def _move(self, how: Callable[[int, list[memoryview], int], int], place: int, tensor: Tensor) -> None:
        """Read a contiguous tensor from its place on disk, or write it there. Raises UserError where that fails."""
        content = tensor.detach().view(-1).view(torch.uint8).numpy().data
        try:
            self._file = self._file or tempfile.TemporaryFile(prefix="earnest-")  # noqa: SIM115 -- as long as this
            while content:
                moved = how(self._file.fileno(), [content], place)
                content, place = content[moved:], place + moved
        except OSError as error:
            raise UserError(
                f"calibration: hidden states of {self._end / 2**20:.0f} MiB cannot be kept in {tempfile.gettempdir()} "
                f"({error.strerror or error}); set TMPDIR to a folder with more room, or use fewer samples"
            ) from error
