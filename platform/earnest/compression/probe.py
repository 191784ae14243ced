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
    return hashlib.sha256(logits.cpu().contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()


def check_same_logits(compressed: LoadedModel, saved: LoadedModel, what: str) -> str:
    """Compare a model in memory with one that was read back; gives the digest of their logits.

    Raises:
        UnfaithfulCheckpointError: the logits differ in any bit.
    """
    attention = compressed.model.config._attn_implementation
    if attention != saved.model.config._attn_implementation:
        saved.model.set_attn_implementation(attention)
    expected, found = logits_digest(compressed), logits_digest(saved)
    if expected != found:
        raise UnfaithfulCheckpointError(
            f"{what}: read back, its logits differ from the compressed model's ({found[:12]}, not {expected[:12]})"
        )
    return expected
