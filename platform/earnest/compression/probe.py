"""The logits by which a compressed model and its saved form are compared, bit for bit."""

from __future__ import annotations

import hashlib

import torch

from earnest.models.loading import LoadedModel

SEQUENCES, LENGTH = 2, 64


class UnfaithfulCheckpointError(RuntimeError):
    """What was saved is not what was compressed: nothing measured on it could be trusted."""


@torch.no_grad()
def logits_digest(loaded: LoadedModel) -> str:
    """The sha256 of a model's logits on fixed token ids, in its own dtype and on its own device."""
    length = min(LENGTH, loaded.max_length)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(loaded.vocabulary, (SEQUENCES, length), generator=generator)
    logits = loaded.model(input_ids=ids.to(loaded.device), use_cache=False).logits  # [sequences, length, vocabulary]
    return hashlib.sha256(logits.cpu().contiguous().view(torch.uint8).numpy().data).hexdigest()


def attention_of(loaded: LoadedModel) -> str:
    """Which of transformers' ways to attend a model uses: bits depend on it."""
    return str(loaded.model.config._attn_implementation)


def check_logits(saved: LoadedModel, expected: str, attention: str, what: str) -> None:
    """Compare a model that was read back with the logits of the one that was saved, by their digest.

    Args:
        saved: what was read back.
        expected: the `logits_digest` of what was saved, with that `attention`.
        attention: the `attention_of` what was saved.
        what: names it in the error.

    Raises:
        UnfaithfulCheckpointError: the logits differ in any bit.
    """
    if attention != attention_of(saved):
        saved.model.set_attn_implementation(attention)
    found = logits_digest(saved)
    if expected != found:
        raise UnfaithfulCheckpointError(
            f"{what}: read back, its logits differ from the compressed model's ({found[:12]}, not {expected[:12]})"
        )
