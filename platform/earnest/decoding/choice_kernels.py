"""What is decided over a whole vocabulary, compiled for the CPU: draws with the noise of a place, adaptive alphas.

Each is one loop over tokens, made into machine code by numba when it is first used; a CPU without numba takes the same
steps in torch (`noise`, `fusion`). Sums are in float64 and in any order; what is not finite keeps its meaning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earnest.decoding.kernels import Floats, Ids, compiled

Doubles = NDArray[np.float64]

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_11, _27, _30, _31 = (np.uint64(bits) for bits in (11, 27, 30, 31))
_LOG2E, _LN2_HIGH = np.log2(np.e), 0.693147180369123816490
_LN2_LOW = 1.90821492927058770002e-10  # fdlibm's halves of ln(2)
_NO_TOKEN = -1
_MARGIN = 1 + 1e-9  # above what float64 rounds in a few operations


@compiled
def _uniform(key: np.uint64, column: int) -> float:
    """The number in (0, 1) that `noise.uniform` gives this key and column."""
    x = key + np.uint64(column + 1) * _GOLDEN
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    x = x ^ (x >> _31)
    return (np.float64(x >> _11) + 0.5) * 2.0**-53


@compiled
def draw(probabilities: Doubles, keys: NDArray[np.uint64], tokens: Ids) -> None:
    """Put the token with the largest p / -log(u) of each row of probabilities [rows, vocabulary] into tokens [rows].

    A logarithm is taken only where 1 - u, which is less than -log(u), does not tell that the token loses.
    """
    for t in range(len(tokens)):
        best, token = -1.0, 0
        for j in range(probabilities.shape[1]):
            p, u = probabilities[t, j], _uniform(keys[t], j)
            if p > best * (1.0 - u):
                value = -p / np.log(u)
                if value > best:
                    best, token = value, j
        tokens[t] = token


@compiled
def draw_tempered(logits: Floats, temperatures: Doubles, keys: NDArray[np.uint64], tokens: Ids) -> None:
    """The same of the softmax of logits [rows, vocabulary] / temperatures [rows]; -1 where logits are not finite.

    The weight of a token x below the likeliest is exp(-x) <= 1 / (1 + x + x^2 / 2 + x^3 / 6): most lose by that alone.
    """
    for t in range(len(tokens)):
        row, key = logits[t], keys[t]
        token, finite = 0, True
        for j in range(len(row)):
            finite &= row[j] < np.inf  # NaN is not, either
            if row[j] > row[token]:
                token = j
        top = np.float64(row[token])
        if not finite or top == -np.inf:
            tokens[t] = _NO_TOKEN
            continue
        best = -1.0 / np.log(_uniform(key, token))
        for j in range(len(row)):
            x, u = (top - row[j]) / temperatures[t], _uniform(key, j)
            if best * (1.0 - u) * (1.0 + x * (1.0 + x * (0.5 + x / 6.0))) < _MARGIN:
                value = -np.exp(-x) / np.log(u)
                if value > best or (value == best and j < token):
                    best, token = value, j
        tokens[t] = token


@compiled
def _exponentials(x: Doubles, bits: NDArray[np.int64]) -> None:
    """Replace x [numbers] by exp(x), to 4e-16 of it, and by 0 below -708; `bits` is scratch of that length.

    As `kernels.exponentials`, by Taylor's polynomial up to r^12. What is above 709 counts as that.
    """
    for i in range(len(x)):
        v = x[i]
        v = max(v, -708.0)  # NaN is neither, and goes through
        v = min(v, 709.0)
        n = np.floor(v * _LOG2E + 0.5)
        r = v - n * _LN2_HIGH - n * _LN2_LOW
        p = (((1 / 479001600 * r + 1 / 39916800) * r + 1 / 3628800) * r + 1 / 362880) * r + 1 / 40320
        p = ((((p * r + 1 / 5040) * r + 1 / 720) * r + 1 / 120) * r + 1 / 24) * r + 1 / 6
        p = (p * r + 0.5) * r * r + r + 1.0
        x[i] = 0.0 if x[i] < -708.0 else p
        bits[i] = (np.int64(n) + 1023) << 52
    powers = bits.view(np.float64)
    for i in range(len(x)):
        x[i] *= powers[i]


@compiled
def _log_softmax(logits: Floats, left_out: NDArray[np.bool_], y: Doubles, p: Doubles, bits: NDArray[np.int64]) -> None:
    """Put the log-probabilities of logits [vocabulary] into y and the probabilities into p; 0 where left out."""
    top = -np.inf
    for j in range(len(y)):
        if not left_out[j] and logits[j] > top:
            top = np.float64(logits[j])
    for j in range(len(y)):
        y[j] = np.float64(logits[j]) - top
        p[j] = -np.inf if left_out[j] else y[j]
    _exponentials(p, bits)
    total = 0.0
    for j in range(len(y)):
        total += p[j]
    for j in range(len(y)):
        p[j] /= total
        y[j] = 0.0 if left_out[j] else y[j] - np.log(total)


@compiled
def _moved(p: Doubles, shifts: Doubles, ratio: Doubles, step: float, bits: NDArray[np.int64], losses: Doubles) -> None:
    """Put KL(P' | P) and KL(P | P') after so many steps of alpha into losses [2, steps + 1].

    Args:
        p: P [vocabulary]; overwritten.
        shifts: d [vocabulary].
        ratio: scratch [vocabulary].
        step: of alpha; exp(step d) times what stood there makes the next one.
        bits: scratch [vocabulary].
        losses: written.
    """
    most = -np.inf  # taken off, so that nothing overflows
    for j in range(len(p)):
        if p[j] > 0.0 and shifts[j] > most:
            most = shifts[j]
    for j in range(len(p)):
        ratio[j] = step * (shifts[j] - most) if p[j] > 0.0 else 0.0
    _exponentials(ratio, bits)
    first = 0.0
    for k in range(losses.shape[1]):
        mass, moment = 0.0, 0.0
        for j in range(len(p)):
            mass += p[j]
            moment += p[j] * shifts[j]
            p[j] *= ratio[j]
        mean, alpha = moment / mass, k * step
        first = mean if k == 0 else first
        whole = np.log(mass) + alpha * most
        losses[0, k], losses[1, k] = alpha * mean - whole, whole - alpha * first


@compiled
def _lowest(losses: Doubles, step: float) -> tuple[float, float]:
    """Where losses [steps + 1] are least, as alpha between steps by a parabola, and the least of them."""
    place = 0
    for k in range(len(losses)):
        place = k if losses[k] < losses[place] else place
    aside = 0.0
    if 0 < place < len(losses) - 1:
        left, right = losses[place - 1], losses[place + 1]
        bend = left - 2.0 * losses[place] + right
        aside = 0.5 * (left - right) / bend if bend > 0.0 else 0.0
    return (place + aside) * step, losses[place]


@compiled
def adaptive(base: Floats, pairs: NDArray[np.float32], steps: int, step: float, alphas: Floats) -> None:
    """Put `fusion.adaptive_alphas` into alphas [rows, pairs], which holds zeros.

    Args:
        base: logits [rows, vocabulary].
        pairs: experts' and antiexperts' logits [pairs, 2, rows, vocabulary].
        steps: how many alphas beside 0 are looked at.
        step: from one to the next.
        alphas: written.
    """
    width = base.shape[1]
    p, lead, other, shifts = np.empty(width), np.empty(width), np.empty(width), np.empty((len(pairs), width))
    bits, left_out, moved = np.empty(width, np.int64), np.empty(width, np.bool_), np.empty((2, steps + 1))
    for t in range(len(base)):
        for j in range(width):
            left_out[j] = not np.isfinite(base[t, j])
            for n in range(len(pairs)):
                left_out[j] |= not (np.isfinite(pairs[n, 0, t, j]) and np.isfinite(pairs[n, 1, t, j]))
        there, back = 0.0, 0.0
        for n in range(len(pairs)):
            _log_softmax(pairs[n, 0, t], left_out, shifts[n], lead, bits)
            _log_softmax(pairs[n, 1, t], left_out, other, p, bits)
            for j in range(width):
                shifts[n, j] -= other[j]
                there += lead[j] * shifts[n, j]
                back -= p[j] * shifts[n, j]
        there, back = there / len(pairs), back / len(pairs)
        _log_softmax(base[t], left_out, other, lead, bits)
        best, least = 0, np.inf
        for n in range(len(pairs)):
            p[:] = lead
            _moved(p, shifts[n], other, step, bits, moved)
            for k in range(steps + 1):
                moved[0, k] = (moved[0, k] - there) ** 2 + (moved[1, k] - back) ** 2
            alpha, loss = _lowest(moved[0], step)
            if loss < least:
                alphas[t, best] = 0.0
                best, least = n, loss
                alphas[t, n] = alpha
