"""What is proved of a model that was loaded: it runs, it reads from left to right, its numbers are numbers."""

from __future__ import annotations

from collections.abc import Collection
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earnest.models.inspection import open_tensors, tensor_headers
from earnest.specs import UserError

LENGTH = 8
AT_ONCE = 2**20
CANNOT_RUN = (
    RuntimeError,
    TypeError,
    ValueError,
    IndexError,
    KeyError,
    AttributeError,
    NotImplementedError,
    ImportError,
)
"""What model code raises where it was not made for a dtype, a device, or to be given text alone."""
FARTHEST = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the logits' root mean square
FARTHEST_IN_HALVES = 0.05
HEADS, EMBEDDINGS = ("lm_head.weight", "embed_out.weight"), (
    "embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight",
)  # fmt: skip


@torch.inference_mode()
def check_reads(name: str, model: Any, length: int) -> None:
    """See that a model can be run, and that what it says of a token does not depend on later ones.

    Args:
        name: what the user calls it.
        model: in memory, on its device.
        length: the longest text that it reads.

    Raises:
        UserError: it fails in its dtype on its device, or it is no causal model.
    """
    device, dtype = next(model.parameters()).device, str(model.dtype).removeprefix("torch.")
    ids = _two_texts(model, min(LENGTH, length)).to(device)
    try:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits.float()  # [2, length, vocabulary]
    except CANNOT_RUN as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
        raise UserError(
            f"model {name}: {type(model).__name__} cannot be run in {dtype} on {device.type} ({reason})\n"
            + _remedy(model, dtype)
        ) from error
    before = logits[:, :-1]
    known = before.isfinite().all(0)
    apart = (before[0] - before[1]).where(known, 0.0).square().mean().sqrt()
    scale = before[0].where(known, 0.0).square().mean().sqrt()
    if apart > FARTHEST.get(model.dtype, FARTHEST_IN_HALVES) * scale:
        raise UserError(
            f"model {name}: {type(model).__name__} reads in both directions: what it says of a token depends on later "
            "ones; use a causal language model"
        )


def _remedy(model: Any, dtype: str) -> str:
    """What can be done where a model does not run on text in a dtype."""
    found = signature(model.forward).parameters.values()
    wanted = [one.name for one in found if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD]
    more = [name for name in wanted if name != "input_ids"]
    if more:
        also = " and ".join(more)
        return f"it reads no text without {also}; name the language model inside it, saved as a model of its own"
    return "use a model of another family" if dtype == "float32" else "use dtype float32, or a model of another family"


def _two_texts(model: Any, length: int) -> Tensor:
    """Two texts that differ in their last token [2, length]."""
    rows = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(rows, (1, length), generator=torch.Generator().manual_seed(0)).repeat(2, 1)
    ids[1, -1] = (ids[1, -1] + 1) % rows
    return ids


@torch.inference_mode()
def check_finite(name: str, model: Any, but: Collection[str] = ()) -> None:
    """See that every weight is a number, but for those that are looked at elsewhere.

    Raises:
        UserError: one is infinite or none; the message names the tensor.
    """
    for key, parameter in model.named_parameters():
        if key not in but and parameter.is_floating_point() and not _finite(parameter):
            wrong = int((~parameter.isfinite()).sum())
            raise UserError(
                f"model {name}: {key} holds {wrong} values that are infinite or not a number; fetch or train it again"
            )


def _finite(values: Tensor) -> bool:
    """Whether all are numbers, by sums of some at a time: a sum in another dtype makes a copy."""
    return all(
        bool(some.sum(dtype=torch.float64).isfinite()) for some in torch.split(values.detach().reshape(-1), AT_ONCE)
    )


def check_tied(name: str, path: Path, config: Any) -> None:
    """See that an output head which config.json ties to the embeddings is stored as these, if it is stored.

    Raises:
        UserError: it holds other values, of which the model would make no use.
    """
    if not getattr(config, "tie_word_embeddings", False):
        return
    stored = {key for key, _ in tensor_headers(path)}
    head, embeddings = (next((k for k in sorted(stored) if k.endswith(names)), None) for names in (HEADS, EMBEDDINGS))
    if head and embeddings and not _equal(path, head, embeddings):
        raise UserError(
            f"model {name}: config.json ties {head} to {embeddings}, and {path} stores other values for it\n"
            "set tie_word_embeddings to false in config.json, or save the model without the head"
        )


def _equal(path: Path, one: str, other: str) -> bool:
    with open_tensors(path) as holds:
        parts = [holds[key].get_slice(key) for key in (one, other)]
        if parts[0].get_shape() != parts[1].get_shape():
            return False
        count = int(parts[0].get_shape()[0])
        stretches = [slice(at, min(at + 4096, count)) for at in range(0, count, 4096)]
        return all(torch.equal(parts[0][rows], parts[1][rows]) for rows in stretches)
