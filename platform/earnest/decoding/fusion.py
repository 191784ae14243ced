"""Adaptive alpha: how strongly a pair steers is decided anew at every token, by how far it moved its own small model.

Dynamic Logits Fusion, Fan et al. 2024, arXiv 2406.15480. With base P, fused P', experts Q_t and antiexpert Q, section
3.2 (one pair) and 3.3 (several) ask for

    argmin over alpha of  sum_t (KL(P' | P) - KL(Q_t | Q))^2 + (KL(P | P') - KL(Q | Q_t))^2,

that is, the pairs shall move the base as far as tuning moved the small models, seen from either side. Their pseudo-code
is followed: alpha goes from 0 to 2 in steps of 0.1, one pair at a time, and the least loss of all wins, so a single
pair speaks at each token. One thing is added: alpha is read off the parabola through the best step and its neighbours,
so that it moves with the logits instead of jumping by 0.1 where two steps are equally good.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from earnest.decoding.noise import choice_kernels

MOST = 2.0
STEPS = 20
AT_ONCE = 1 << 20  # logits looked at together: some megabytes, which caches hold


def adaptive_alphas(base: Tensor, experts: Sequence[Tensor], antiexperts: Sequence[Tensor]) -> Tensor:
    """How strongly each pair steers at each position.

    Let d = expert - antiexpert, P' = P exp(alpha d) / Z and A(alpha) = log Z = log E_P exp(alpha d), whose derivatives
    are the mean and the variance of d under P'. Then KL(P' | P) = alpha A'(alpha) - A(alpha) has the derivative
    alpha Var_P'(d), and KL(P | P') = A(alpha) - alpha A'(0) has A'(alpha) - A'(0), the integral of that variance: for
    alpha >= 0 both grow from 0 and meet their goals at most once, and the least loss lies between these two places.
    There it may dip twice, which is why all steps are looked at instead of descending. Only A and A' are needed.

    Several pairs: summed over t, the loss is that of the goals' means and a constant.

    Args:
        base: logits [..., vocabulary]; -inf is a token that cannot come.
        experts: one tensor of that shape per pair.
        antiexperts: likewise; where a pair has none, `base`.

    Returns:
        Alphas [..., pairs] in float32, all but one of each position 0. A token that any model excludes is left out.
    """
    if kernels := choice_kernels(base):
        return _compiled(kernels, base, experts, antiexperts)
    alphas, least = _lowest(_losses(base, experts, antiexperts))
    best = least.argmin(0, keepdim=True)
    return torch.zeros_like(alphas).scatter_(0, best, alphas.gather(0, best)).movedim(0, -1).float()


def _compiled(kernels: Any, base: Tensor, experts: Sequence[Tensor], antiexperts: Sequence[Tensor]) -> Tensor:
    """The same by `choice_kernels.adaptive`."""
    width, count = base.shape[-1], len(experts)
    rows = base.shape[:-1].numel()
    pairs = torch.empty(rows, count, 2, width)
    for number, pair in enumerate(zip(experts, antiexperts, strict=True)):
        for part, logits in enumerate(pair):
            pairs[:, number, part] = logits.reshape(rows, width)
    alphas = torch.zeros(rows, count)
    lead = base.float().reshape(rows, width).contiguous()
    kernels.adaptive_rows(lead.numpy(), pairs.numpy(), STEPS, MOST / STEPS, alphas.numpy())
    return alphas.view(*base.shape[:-1], count)


def _losses(base: Tensor, experts: Sequence[Tensor], antiexperts: Sequence[Tensor]) -> Tensor:
    """The loss of every step of alpha [pairs, ..., steps + 1]."""
    logits = torch.stack([base, *experts, *antiexperts]).double()
    out = ~logits.isfinite().all(0)
    log_probs = logits.masked_fill_(out, -torch.inf).log_softmax(-1)
    before, tuned, untuned = log_probs[:1], log_probs[1 : 1 + len(experts)], log_probs[1 + len(experts) :]
    shifts = (tuned - untuned).masked_fill_(out, 0.0)
    there, back = _moved(before, shifts)
    forwards = (tuned.exp() * shifts).sum(-1).mean(0)
    backwards = -(untuned.exp() * shifts).sum(-1).mean(0)
    return (there - forwards[..., None]) ** 2 + (back - backwards[..., None]) ** 2


def _moved(before: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor]:
    """KL(P' | P) and KL(P | P') at every step of alpha [pairs, ..., steps + 1].

    Args:
        before: log P [1, ..., vocabulary].
        shifts: d of each pair [pairs, ..., vocabulary].
    """
    alphas = torch.linspace(0, MOST, STEPS + 1, dtype=before.dtype, device=before.device)
    weigh = torch.stack([torch.ones_like(shifts), shifts], dim=-2).mT  # [pairs, ..., vocabulary, 2]
    log_z, means = [], []
    for some in torch.split(alphas, max(1, AT_ONCE // max(1, shifts.numel()))):
        tilted = torch.addcmul(before[..., None, :], some[:, None], shifts[..., None, :])
        top = tilted.amax(-1, keepdim=True)  # taken off, so that nothing overflows
        mass, moment = (tilted.sub_(top).exp_() @ weigh).unbind(-1)
        log_z.append(mass.log() + top[..., 0])
        means.append(moment / mass)
    whole, mean = torch.cat(log_z, dim=-1), torch.cat(means, dim=-1)
    return alphas * mean - whole, whole - alphas * mean[..., :1]


def _lowest(losses: Tensor) -> tuple[Tensor, Tensor]:
    """Where `losses` [..., steps + 1] are least, as alpha between steps by a parabola, and the least of them."""
    least, place = losses.min(-1)
    inner = place.clamp(1, STEPS - 1)
    left, middle, right = (losses.gather(-1, (inner + side)[..., None])[..., 0] for side in (-1, 0, 1))
    bend = left - 2 * middle + right
    aside = torch.where((place == inner) & (bend > 0), 0.5 * (left - right) / bend, 0.0)
    return (place + aside) * (MOST / STEPS), least
