"""Random numbers that belong to a place in a text and not to a moment: a hash of seed, position and token.

A token is drawn by Gumbel's trick: the largest log p + G wins, with one Gumbel variable G per token of the vocabulary
(Gumbel 1954; Maddison et al. 2014, arXiv 1411.0030). Because the noise depends on nothing but the row's seed, the
position and the token, whoever draws at a place gets the same token from the same distribution, in whatever batch and
on whatever device, and two distributions that are close draw the same token most of the time. That is what makes
sampled speculation exact and repeatable: a draft is right just if the ensemble draws the same token there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from types import ModuleType

import numpy as np
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
    found = [key_of(*place) for place in places]
    if kernels := choice_kernels(probabilities):
        tokens = np.empty(len(found), np.int64)
        kernels.draw(probabilities.double().contiguous().numpy(), np.array(found).view(np.uint64), tokens)
        return list(tokens.tolist())
    keys = torch.tensor(found, device=probabilities.device)
    waiting = -uniform(keys, probabilities.shape[-1]).log()  # exponential: its quotient with p has Gumbel's order
    return list((probabilities.double() / waiting).argmax(-1).tolist())


def drawn_tempered(logits: Tensor, temperatures: Sequence[float], places: Sequence[tuple[int, int]]) -> list[int]:
    """The same of the softmax of logits [rows, vocabulary] / temperatures [rows]; -1 where logits are not finite."""
    if (kernels := choice_kernels(logits)) and logits.dtype is torch.float32:
        tokens, keys = np.empty(len(places), np.int64), np.array([key_of(*place) for place in places]).view(np.uint64)
        kernels.draw_tempered(logits.contiguous().numpy(), np.array(temperatures, np.float64), keys, tokens)
        return list(tokens.tolist())
    top = logits.amax(-1, keepdim=True)
    finite = top.isfinite()
    scores = (logits.where(finite, 0.0) - top.where(finite, 0.0)).double()
    weights = scores / torch.tensor(temperatures, dtype=torch.float64, device=logits.device)[:, None]
    tokens_ = drawn(weights.softmax(-1), places)
    return [token if fine else -1 for token, fine in zip(tokens_, finite[:, 0].tolist(), strict=True)]


def choice_kernels(numbers: Tensor) -> ModuleType | None:
    """What compiles the work on these numbers, where they are the CPU's and numba is installed."""
    return _loaded() if numbers.is_cpu else None


@cache
def _loaded() -> ModuleType | None:
    if find_spec("numba") is None:
        return None
    from earnest.decoding import choice_kernels  # half a second, which who draws nothing need not pay

    return choice_kernels


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


@lru_cache(maxsize=1 << 12)
def key_of(seed: int, position: int) -> int:
    """The key of a place's noise; a drafter and its mixture ask for the same ones, one after the other."""
    return int.from_bytes(blake2b(f"{seed}/{position}".encode(), digest_size=8).digest(), "big", signed=True)
