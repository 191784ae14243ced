"""Prove that a model's blocks can be run one by one: what calibration gives each block is what the model would.

A family may hand a block more than hidden states, such as an embedding of each token for each block. Calibrating on
anything else would go wrong without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from earnest.models.blocks import Block, open_stream
from earnest.models.proofs import CANNOT_RUN
from earnest.specs import UserError, method_names

LENGTH = 64
FARTHEST = 0.01  # of the norm of the last block's output; the same numbers in the same order are next to equal


@torch.no_grad()
def check_walk(model: Any, blocks: Sequence[Block], ids: Tensor) -> None:
    """Compare the last block's output of a walk, by the arguments of another text, with the whole model's.

    Args:
        model: the causal language model, in memory.
        blocks: its decoder blocks.
        ids: calibration token ids [samples, length]; the beginning of the first is read, forwards and backwards.

    Raises:
        UserError: they differ, or the walk fails.
    """
    text = ids[:1, :LENGTH].to(next(model.parameters()).device)
    wanted = _last_output(model, blocks[-1], text.flip(1))
    try:
        found = _walked(model, blocks, text, text.flip(1))
    except CANNOT_RUN as error:
        raise _not_walkable(model, f"{type(error).__name__} on the way") from error
    if found.shape != wanted.shape:
        raise _not_walkable(model, f"shape {tuple(found.shape)}, not {tuple(wanted.shape)}")
    apart = float((found - wanted).float().norm() / wanted.float().norm())
    if apart > FARTHEST:  # not so for NaN, which calibration itself reports
        raise _not_walkable(model, f"{apart:.0%} off")


def _walked(model: Any, blocks: Sequence[Block], text: Tensor, other: Tensor) -> Tensor:
    """The last block's output for `other`, each block called as for `text`."""
    stream = open_stream(model, blocks, text)
    stream.hidden = open_stream(model, blocks, other).hidden
    for block in blocks:
        stream.advance(block)
    return stream.hidden[0]


def _last_output(model: Any, last: Block, text: Tensor) -> Tensor:
    found: list[Any] = []
    handle = last.module.register_forward_hook(lambda _module, _args, output: found.append(output))
    try:
        model(input_ids=text, use_cache=False)
    finally:
        handle.remove()
    output: Tensor = found[0][0] if isinstance(found[0], tuple) else found[0]
    return output


def _not_walkable(model: Any, found: str) -> UserError:
    return UserError(
        f"model type {model.config.model_type}: run one by one, its blocks do not compute what the model does "
        f"({found}), so it cannot be calibrated; use {method_names(calibrated=False)}"
    )
