"""Log-probabilities as they are reported: of chosen tokens, of a prompt's, and of the likeliest ones beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ONCE = 32
"""So many rows of logits are worked on in float64 at a time."""


@dataclass(frozen=True)
class Likeliest:
    """Of one distribution: the log-probability of the chosen token in nats, and the likeliest (token, log-prob)."""

    chosen: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class TokenLogprobs:
    """What was known when a token was chosen.

    `raw` is the distribution as the models give it (softmax of the combined logits), `processed` the one that the
    token was drawn from; where that is greedy, all its mass is on the chosen token.
    """

    token: int
    raw: Likeliest
    processed: Likeliest


def logprobs_of(raw: Tensor, probabilities: Tensor, tokens: Sequence[int], count: int) -> Sequence[TokenLogprobs]:
    """What is reported of chosen `tokens`: of raw logits and of processed probabilities [rows, vocabulary] each."""
    pairs = zip(
        _likeliest(raw.double().log_softmax(-1), tokens, count), _likeliest(probabilities.log(), tokens, count),
        strict=True,
    )  # fmt: skip
    return [TokenLogprobs(token, *pair) for token, pair in zip(tokens, pairs, strict=True)]


def scored(logits: Tensor, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """What the raw `logits` [tokens, vocabulary] tell of `tokens`, which follow them, and of the likeliest `count`."""
    found: list[TokenLogprobs] = []
    for begin in range(0, len(tokens), AT_ONCE):
        part = tokens[begin : begin + AT_ONCE]
        log_probs = logits[begin : begin + len(part)].double().log_softmax(-1)
        known = _likeliest(log_probs, part, count)
        found += [TokenLogprobs(token, one, one) for token, one in zip(part, known, strict=True)]
    return found


def _likeliest(log_probs: Tensor, tokens: Sequence[int], count: int) -> list[Likeliest]:
    """The tokens that the distribution excludes, at -inf, are left out."""
    values, ids = log_probs.topk(min(count, log_probs.shape[-1]), dim=-1)
    chosen = log_probs.gather(-1, torch.tensor(list(tokens), device=log_probs.device)[:, None])[:, 0]
    return [
        Likeliest(own, tuple((token, value) for token, value in zip(*row, strict=True) if value > -torch.inf))
        for own, row in zip(chosen.tolist(), zip(ids.tolist(), values.tolist(), strict=True), strict=True)
    ]
