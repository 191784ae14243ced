"""A pair steers, a token is chosen, a proposal is judged: in one pass over logits, compiled for the CPU.

The mixture is never written out, and nothing is done behind a text's first wrong proposal. Choices are those that
`mixing` and `sampling` make of the same logits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earnest.decoding.choice_kernels import adaptive, likeliest, tempered
from earnest.decoding.kernels import Floats, Ids, compiled

_INFINITY = np.float32(np.inf)


@compiled
def steer(
    lead: Floats, expert: Floats, antiexpert: Floats, alpha: np.float32, none: NDArray[np.bool_], mixed: Floats
) -> None:
    """Put lead + alpha * (expert - antiexpert) [vocabulary] into mixed, -inf where there is no token."""
    for j in range(len(mixed)):
        value = lead[j] + alpha * (expert[j] - antiexpert[j])
        mixed[j] = -_INFINITY if none[j] else value


@compiled
def judge(
    lead: Floats, expert: Floats, antiexpert: Floats, begins: Ids, counts: Ids, proposed: Ids,
    alphas: Floats, adapts: NDArray[np.bool_], steps: int, step: float, none: NDArray[np.bool_],
    temperatures: NDArray[np.float64], keys: NDArray[np.uint64], tokens: Ids,
) -> None:  # fmt: skip
    """Put what the mixture writes behind each proposal of some texts into tokens, up to each text's first wrong one.

    Args:
        lead, expert, antiexpert: logits [positions, vocabulary].
        begins: where each text's lie in these [3, texts].
        counts: how many each text has, one more than proposals [texts].
        proposed: text after text, and -1 behind each text's proposals [positions].
        alphas: of each text [texts].
        adapts: whether these are found anew at each position [texts].
        steps, step: as `adaptive`.
        none: what is no token [vocabulary].
        temperatures: 0 takes the likeliest token [texts].
        keys: of the noise of each place [positions].
        tokens: [positions], which hold -1; that also stands where logits are not finite.
    """
    width, at = lead.shape[1], 0
    mixed, pair, found = np.empty(width, np.float32), np.empty((1, 2, width), np.float32), np.zeros(1, np.float32)
    u, bound, order = np.empty(width), np.empty(width), np.empty(width, np.int32)
    for t in range(len(counts)):
        for i in range(counts[t]):
            base, tuned, untuned = lead[begins[0, t] + i], expert[begins[1, t] + i], antiexpert[begins[2, t] + i]
            alpha = alphas[t]
            if adapts[t]:
                for j in range(width):
                    mixed[j] = -_INFINITY if none[j] else base[j]
                pair[0, 0], pair[0, 1], found[0] = tuned, untuned, 0.0
                adaptive(mixed, pair, steps, step, found)
                alpha = found[0]
            steer(base, tuned, untuned, alpha, none, mixed)
            if temperatures[t] > 0.0:
                token = tempered(mixed, temperatures[t], keys[at + i], u, bound, order)
            else:
                token = likeliest(mixed, order)
            tokens[at + i] = token
            if token != proposed[at + i]:
                break
        at += counts[t]
