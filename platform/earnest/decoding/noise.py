"""Random numbers that belong to a place in a text and not to a moment: a hash of seed, position and token.

A token is drawn by Gumbel's trick: the largest log p + G wins, with one Gumbel variable G per token of the vocabulary
(Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030). Because the noise depends on nothing but the row's seed, the
position and the token, whoever draws at a place gets the same token from the same distribution, in whatever batch and
on whatever device, and two distributions that are close draw the same token most of the time. That is what makes
sampled speculation exact and repeatable: a draft is right just if the ensemble draws the same token there.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import torch
from torch import Tensor

_STEP = 0x9E3779B97F4A7C15 - 2**64  # as signed 64-bit numbers: torch multiplies them modulo 2^64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
_MANTISSA = 53


def drawn(probabilities: Tensor, places: Sequence[tuple[int, int]]) -> list[int]:
    """A token per row of `probabilities` [rows, vocabulary], with the noise of its place (seed, position).

    Rows need not sum to 1. A token without mass is never drawn.
    """
    keys = torch.tensor([_key(*place) for place in places], dtype=torch.int64, device=probabilities.device)
    waiting = -uniform(keys, probabilities.shape[-1]).log()  # exponential: its quotient with p has Gumbel's order
    return list((probabilities.double() / waiting).argmax(-1).tolist())


def uniform(keys: Tensor, width: int) -> Tensor:
    """Numbers in (0, 1) [rows, width] in float64, each a hash of its row's key [rows] and its column.

    The hash is the finaliser of SplitMix64 (Steele, Lea & Flood 2014), whose outputs pass for independent.
    """
    columns = torch.arange(1, width + 1, dtype=torch.int64, device=keys.device)
    x = keys[:, None] + columns * _STEP
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    x = x ^ _shifted(x, 31)
    return (_shifted(x, 64 - _MANTISSA).double() + 0.5) * 2.0**-_MANTISSA


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that brings in zeros, which torch's own does not."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _key(seed: int, position: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{position}".encode(), digest_size=8).digest(), "big", signed=True)
