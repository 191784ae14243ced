"""Why each token of an ensemble's continuation was chosen: what every model thought, and what the pairs changed.

Made on demand after the fact, by one more pass of each model over the text; generation carries nothing for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from earnest.decoding.ensemble import Ensemble
from earnest.decoding.generation import Prompt, row_of
from earnest.decoding.tokens import token_texts

Part = Literal["base", "expert", "antiexpert", "combined"]


@dataclass(frozen=True)
class Candidate:
    """A token, its text, its raw logit and its log-probability in nats."""

    token: int
    text: str
    logit: float
    log_prob: float


@dataclass(frozen=True)
class View:
    """What one model, or the combination of all, thought of the next token.

    `pair` counts the ensemble's pairs from 0 and is None for base and combination; `top` are its likeliest tokens,
    `chosen` is the token that was written.
    """

    part: Part
    model: str
    pair: int | None
    chosen: Candidate
    top: tuple[Candidate, ...]


@dataclass(frozen=True)
class TokenAccount:
    """One token of a continuation.

    `shift` is what the pairs added to its logit, the sum of alpha * (expert - antiexpert). A constant for all tokens
    changes no distribution but is in that figure; `log_prob_shift`, combined less base in nats, is free of it.
    `changed` says whether the combination's likeliest token is another one than the base's. `alpha` is how strongly
    each pair steered here, in the order of the ensemble's pairs.
    """

    token: int
    text: str
    base: View
    steering: tuple[View, ...]
    combined: View
    shift: float
    log_prob_shift: float
    changed: bool
    alpha: tuple[float, ...]


@torch.inference_mode()
def account(ensemble: Ensemble, prompt: Prompt, ids: Sequence[int], count: int = 5) -> list[TokenAccount]:
    """Account for each token of `ids`, a continuation of `prompt`.

    Args:
        ensemble: what wrote it, or would have.
        prompt: what was continued, with its forms; cut as generation cuts it.
        ids: the continuation, such as `Generation.ids`.
        count: how many of its likeliest tokens each model shows.

    Returns:
        One entry per token. A pair with alpha 0 is not run and does not appear.

    Raises:
        ValueError: `count` is less than 1, or there are more ids than the prompt's `max_tokens`.
    """
    if count < 1:
        raise ValueError(f"count {count}: show at least one candidate of each model")
    if len(ids) > prompt.max_tokens:
        raise ValueError(f"{len(ids)} tokens do not continue a prompt with max_tokens {prompt.max_tokens}; raise it")
    if not ids:
        return []
    logits = _logits_apart(ensemble, prompt, ids)
    combined, alphas = ensemble.mixed(logits)
    voices = {Voice("base", ensemble.lead.name, None): logits[0]}
    voices |= {voice: logits[role] for role, voice in _steering_voices(ensemble) if role in logits}
    return accounts(ensemble.tokenizer, voices, combined, alphas, ids, count)


@dataclass(frozen=True)
class Voice:
    """Who speaks in an ensemble: its part, its model, and the pair that it belongs to, counted from 0."""

    part: Part
    model: str
    pair: int | None


def accounts(
    tokenizer: Any, voices: Mapping[Voice, Tensor], combined: Tensor, alphas: Tensor, ids: Sequence[int], count: int
) -> list[TokenAccount]:
    """The account of each token of `ids`, from logits that are known already.

    Args:
        tokenizer: decodes tokens.
        voices: the logits [tokens, its head] of each model that was run, the base's first.
        combined: their combination [tokens, vocabulary].
        alphas: how strongly each pair steered [tokens, pairs].
        ids: the tokens that were written.
        count: how many of its likeliest tokens each model shows.
    """
    written = torch.tensor(list(ids))
    shown = {voice: _candidates(tokenizer, logits, written, count) for voice, logits in voices.items()}
    whole = _candidates(tokenizer, combined, written, count)
    return [
        _token_account([View(v.part, v.model, v.pair, *of[place]) for v, of in shown.items()], whole[place], alpha)
        for place, alpha in enumerate(map(tuple, alphas.tolist()))
    ]


Shown = tuple[Candidate, tuple[Candidate, ...]]


def _logits_apart(ensemble: Ensemble, prompt: Prompt, ids: Sequence[int]) -> dict[int, Tensor]:
    """Each model's logits [tokens, its head] before each token of `ids`, by role: 0 is the base, then `steering`."""
    row = row_of(0, prompt, ensemble.max_length)
    session = ensemble.open([row.start], [row.forms])
    first = session.apart()
    if len(ids) == 1:
        return first
    others = session.read_apart([ids[:-1]])
    return {role: torch.cat([logits, others[role][0]]) for role, logits in first.items()}


def _candidates(tokenizer: Any, logits: Tensor, written: Tensor, count: int) -> list[Shown]:
    """For each row of `logits` [tokens, head] the written token and the `count` likeliest.

    What has no logit, because the head is too narrow or the token is masked, is not among them.
    """
    scores = logits.float().cpu()
    log_probs = scores.log_softmax(-1)
    best = scores.topk(min(count, scores.shape[-1]), dim=-1).indices

    texts = token_texts(tokenizer)

    def candidate(row: int, token: int) -> Candidate:
        text = texts.text(token)
        if token >= scores.shape[-1]:
            return Candidate(token, text, -torch.inf, -torch.inf)
        return Candidate(token, text, float(scores[row, token]), float(log_probs[row, token]))

    def finite(row: int) -> tuple[Candidate, ...]:
        found = (candidate(row, token) for token in best[row].tolist())
        return tuple(one for one in found if one.logit > -torch.inf)

    return [(candidate(row, token), finite(row)) for row, token in enumerate(written.tolist())]


def _token_account(views: Sequence[View], whole: Shown, alpha: tuple[float, ...]) -> TokenAccount:
    base, combined = views[0], View("combined", "ensemble", None, *whole)
    token = combined.chosen
    return TokenAccount(
        token.token,
        token.text,
        base,
        tuple(views[1:]),
        combined,
        token.logit - base.chosen.logit,
        token.log_prob - base.chosen.log_prob,
        combined.top[0].token != base.top[0].token,
        alpha,
    )


def _steering_voices(ensemble: Ensemble) -> Iterator[tuple[int, Voice]]:
    """The roles of experts and antiexperts in the order of `Ensemble.steering`, but for pairs that are not run."""
    role = 0
    for number, pair in enumerate(ensemble.pairs):
        parts: list[tuple[Part, Any]] = [("expert", pair.expert), ("antiexpert", pair.antiexpert)]
        for part, model in parts:
            if model is not None:
                role += 1
                if pair.alpha:
                    yield role, Voice(part, model.name, number)
