"""Put decoder blocks of a compressed model back to dense, and take them out again: that tells where a loss lies.

Only the blocks' own tensors are read from the dense model's files, and they are written into the memory that the
model has: whatever shares that memory, such as a faster pass over joined weights, sees them too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from earnest.models.blocks import decoder_blocks
from earnest.models.inspection import open_tensors
from earnest.models.source import Source
from earnest.specs import UserError


@contextmanager
def restored(model: Any, dense: Source, blocks: Sequence[int]) -> Iterator[None]:
    """Within the `with` block, the named decoder blocks hold the dense model's weights; after it, their own again.

    Args:
        model: a compressed model in memory, of the same shape as `dense`.
        dense: where the model that was compressed lies.
        blocks: their places, from 0 on; with all of them the model is the dense one, but for what lies outside.

    Raises:
        UserError: there is no such block, or the dense files do not hold its tensors as the model does.
    """
    wanted = _parameters(model, dense, blocks)
    before = {name: parameter.clone() for name, parameter in wanted.items()}
    _write(wanted, _read(dense, wanted))
    try:
        yield
    finally:
        # Looked up again: a pass that was made meanwhile may have moved the weights.
        _write(_parameters(model, dense, blocks), before)


def _parameters(model: Any, dense: Source, blocks: Sequence[int]) -> dict[str, Tensor]:
    """The blocks' parameters by their full names, as views of the model's own memory."""
    every = decoder_blocks(model)
    for place in blocks:
        if not 0 <= place < len(every):
            raise UserError(f"restore block {place}: {dense.name} has blocks 0 to {len(every) - 1}")
    return {
        f"{every[place].name}.{name}": parameter.detach()
        for place in blocks
        for name, parameter in every[place].module.named_parameters()
    }


def check_restorable(model: Any, dense: Source) -> None:
    """See that the dense files hold every tensor of every block under the model's names, reading headers alone.

    Args:
        model: the model's modules; they need no memory.
        dense: where its weights lie.

    Raises:
        UserError: one is not there, or has another shape.
    """
    with open_tensors(dense.path) as holds:
        _check(dense, holds, _parameters(model, dense, range(len(decoder_blocks(model)))))


def _read(dense: Source, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same parameters from the dense model's files."""
    with open_tensors(dense.path) as holds:
        _check(dense, holds, wanted)
        return {name: holds[name].get_tensor(name) for name in wanted}


def _check(dense: Source, holds: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    for name, parameter in wanted.items():
        shape = tuple(holds[name].get_slice(name).get_shape()) if name in holds else "nothing"
        if shape != tuple(parameter.shape):
            raise UserError(
                f"restore {name}: {dense.path} holds {shape}, not {tuple(parameter.shape)}; "
                "save the dense model again with save_pretrained"
            )


@torch.no_grad()
def _write(wanted: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, parameter in wanted.items():
        parameter.copy_(values[name])
