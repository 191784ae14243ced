"""What is decided over a whole vocabulary, compiled for the CPU: draws with the noise of a place, adaptive alphas.

Each is one loop over tokens, made into machine code by numba when it is first used; a CPU without numba takes the same
steps in torch (`noise`, `fusion`). Sums are in float64 and in any order; what is not finite keeps its meaning.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from earnest.decoding.kernels import Bits, Floats, Ids, compiled

Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

_GOLDEN, _FIRST, _SECOND = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_11, _27, _30, _31 = (np.uint64(bits) for bits in (11, 27, 30, 31))
_LOG2E, _LN2_HIGH = np.log2(np.e), 0.693147180369123816490
_LN2_LOW = 1.90821492927058770002e-10  # fdlibm's halves of ln(2)
_NO_TOKEN = -1
_MARGIN = 1 + 1e-9  # above what float64 rounds in a few operations
_SIGN, _SIGN_PLACE, _REST = np.int32(-(2**31)), np.int32(31), np.int32(2**31 - 1)
_INFINITY, _LEAST = np.int32(0x7F800000), np.int32(-0x7F800001)  # places of the infinities


@compiled
def uniforms(key: np.uint64, u: Doubles) -> None:
    """Put the numbers in (0, 1) that `noise.uniform` gives this key into u [vocabulary]."""
    for j in range(len(u)):
        x = key + np.uint64(j + 1) * _GOLDEN
        x = (x ^ (x >> _30)) * _FIRST
        x = (x ^ (x >> _27)) * _SECOND
        x = x ^ (x >> _31)
        u[j] = (np.float64(np.int64(x >> _11)) + 0.5) * 2.0**-53


@compiled
def likeliest(logits: Floats, order: Bits) -> int:
    """The first token with the largest of logits [vocabulary], -1 where they are not finite; `order` is scratch.

    Floats are compared as integers of the same order, -0 with 0, which the compiler makes vectors of.
    """
    bits = logits.view(np.int32)
    most, least = _SIGN, _REST
    for j in range(len(bits)):
        b = np.int32(0) if bits[j] == _SIGN else bits[j]
        place = b ^ ((b >> _SIGN_PLACE) & _REST)
        order[j] = place
        most, least = max(most, place), min(least, place)
    if most >= _INFINITY or most == _LEAST or least < _LEAST:  # NaN stands beyond the infinities
        return _NO_TOKEN
    for j in range(len(bits)):
        if order[j] == most:
            return j
    return _NO_TOKEN


@compiled
def draw(probabilities: Doubles, keys: NDArray[np.uint64], tokens: Ids) -> None:
    """Put the token with the largest p / -log(u) of each row of probabilities [rows, vocabulary] into tokens [rows].

    A logarithm is taken only where 1 - u, which is less than -log(u), does not tell that the token loses.
    """
    u = np.empty(probabilities.shape[1])
    for t in range(len(tokens)):
        uniforms(keys[t], u)
        best, token = -1.0, 0
        for j in range(len(u)):
            p = probabilities[t, j]
            if p > best * (1.0 - u[j]):
                value = -p / np.log(u[j])
                if value > best:
                    best, token = value, j
        tokens[t] = token


@compiled
def tempered(logits: Floats, temperature: float, key: np.uint64, u: Doubles, bound: Doubles, order: Bits) -> int:
    """The token drawn from the softmax of logits [vocabulary] / temperature; -1 where logits are not finite.

    The weight of a token x below the likeliest is exp(-x) <= 1 / (1 + x + x^2 / 2 + x^3 / 6): most lose by that alone.
    `u`, `bound` and `order` are scratch [vocabulary].
    """
    token = likeliest(logits, order)
    if token < 0:
        return _NO_TOKEN
    uniforms(key, u)
    top = np.float64(logits[token])
    for j in range(len(logits)):
        x = (top - np.float64(logits[j])) / temperature
        bound[j] = (1.0 - u[j]) * (1.0 + x * (1.0 + x * (0.5 + x / 6.0)))
    best = -1.0 / np.log(u[token])
    for j in range(len(logits)):
        if best * bound[j] < _MARGIN:
            value = -np.exp((np.float64(logits[j]) - top) / temperature) / np.log(u[j])
            if value > best or (value == best and j < token):
                best, token = value, j
    return token


@compiled
def draw_tempered(logits: Floats, temperatures: Doubles, keys: NDArray[np.uint64], tokens: Ids) -> None:
    """Put what is drawn from each row of logits [rows, vocabulary] / temperatures [rows] into tokens [rows]."""
    width = logits.shape[1]
    u, bound, order = np.empty(width), np.empty(width), np.empty(width, np.int32)
    for t in range(len(tokens)):
        tokens[t] = tempered(logits[t], temperatures[t], keys[t], u, bound, order)


@compiled
def _exponentials(x: Doubles, bits: Integers) -> None:
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
def leave_out(logits: Floats, left_out: Flags) -> None:
    """Set left_out [vocabulary] where logits are not finite."""
    bits = logits.view(np.int32)
    for j in range(len(bits)):
        left_out[j] |= (bits[j] & _INFINITY) == _INFINITY


@compiled
def _weights(logits: Floats, left_out: Flags, p: Doubles, order: Bits, bits: Integers) -> tuple[float, float]:
    """Put exp(logits - the largest) [vocabulary] into p, 0 where left out; their sum, and the log of the softmax's."""
    places, most = logits.view(np.int32), _SIGN  # as in `likeliest`
    for j in range(len(p)):
        place = _SIGN if left_out[j] else places[j] ^ ((places[j] >> _SIGN_PLACE) & _REST)
        most = max(most, place)
    order[0] = most ^ ((most >> _SIGN_PLACE) & _REST)
    top = np.float64(order.view(np.float32)[0]) if most > _SIGN else 0.0
    for j in range(len(p)):
        p[j] = -np.inf if left_out[j] else np.float64(logits[j]) - top
    _exponentials(p, bits)
    total = 0.0
    for j in range(len(p)):
        total += p[j]
    return total, top + np.log(total)


@compiled
def _pair(
    expert: Floats, antiexpert: Floats, left_out: Flags, shifts: Doubles, p: Doubles, q: Doubles, order: Bits,
    bits: Integers,
) -> tuple[float, float]:  # fmt: skip
    """Put log Q_t - log Q into shifts [vocabulary], 0 where left out; KL(Q_t | Q) and KL(Q | Q_t)."""
    tuned, untuned = _weights(expert, left_out, p, order, bits), _weights(antiexpert, left_out, q, order, bits)
    apart = tuned[1] - untuned[1]
    there, back = 0.0, 0.0
    for j in range(len(p)):
        shifts[j] = 0.0 if left_out[j] else np.float64(expert[j]) - np.float64(antiexpert[j]) - apart
        there += p[j] * shifts[j]
        back -= q[j] * shifts[j]
    return there / tuned[0], back / untuned[0]


@compiled
def _least_loss(
    p: Doubles, total: float, shifts: Doubles, there: float, back: float, step: float, ratio: Doubles, bits: Integers,
    losses: Doubles,
) -> tuple[float, float]:  # fmt: skip
    """Where the loss is least, as alpha between steps by a parabola, and the least of the steps' losses.

    Both divergences grow with alpha: where they are past their goals, no later step has a smaller loss.

    Args:
        p: P [vocabulary] times its sum `total`; overwritten.
        shifts: d of the pair [vocabulary].
        there, back: what KL(P' | P) and KL(P | P') should be.
        step: of alpha; exp(step d) times what stood there makes the next one.
        ratio, bits: scratch [vocabulary].
        losses: scratch [steps + 1].
    """
    most = -np.inf  # taken off, so that nothing overflows
    for j in range(len(p)):
        most = max(most, shifts[j] if p[j] > 0.0 else -np.inf)
    for j in range(len(p)):
        ratio[j] = step * (shifts[j] - most) if p[j] > 0.0 else 0.0
    _exponentials(ratio, bits)
    first, place, past, known = 0.0, 0, False, len(losses)
    for k in range(len(losses)):
        mass, moment = 0.0, 0.0
        for j in range(len(p)):
            mass += p[j]
            moment += p[j] * shifts[j]
            p[j] *= ratio[j]
        mean, alpha = moment / mass, k * step
        first = mean if k == 0 else first
        whole = np.log(mass / total) + alpha * most
        forth, far = alpha * mean - whole - there, whole - alpha * first - back
        losses[k] = forth * forth + far * far
        place = k if losses[k] < losses[place] else place
        if past:
            known = k + 1
            break
        past = forth >= 0.0 and far >= 0.0
    aside = 0.0
    if 0 < place < known - 1:
        left, right = losses[place - 1], losses[place + 1]
        bend = left - 2.0 * losses[place] + right
        aside = 0.5 * (left - right) / bend if bend > 0.0 else 0.0
    return (place + aside) * step, losses[place]


@compiled
def adaptive(base: Floats, pairs: NDArray[np.float32], steps: int, step: float, alphas: Floats) -> None:
    """Put `fusion.adaptive_alphas` of one place into alphas [pairs], which holds zeros.

    Args:
        base: logits [vocabulary].
        pairs: experts' and antiexperts' logits [pairs, 2, vocabulary].
        steps: how many alphas beside 0 are looked at.
        step: from one to the next.
        alphas: written.
    """
    width, count = len(base), len(pairs)
    p, q, shifts, losses = np.empty(width), np.empty(width), np.empty((count, width)), np.empty(steps + 1)
    order, bits, left_out = np.empty(width, np.int32), np.empty(width, np.int64), np.zeros(width, np.bool_)
    leave_out(base, left_out)
    for n in range(count):
        leave_out(pairs[n, 0], left_out)
        leave_out(pairs[n, 1], left_out)
    there, back = 0.0, 0.0
    for n in range(count):
        goals = _pair(pairs[n, 0], pairs[n, 1], left_out, shifts[n], p, q, order, bits)
        there += goals[0] / count
        back += goals[1] / count
    best, least = 0, np.inf
    for n in range(count):
        total = _weights(base, left_out, p, order, bits)[0]
        alpha, loss = _least_loss(p, total, shifts[n], there, back, step, q, bits, losses)
        if loss < least:
            alphas[best] = 0.0
            best, least = n, loss
            alphas[n] = alpha


@compiled
def adaptive_rows(base: Floats, pairs: NDArray[np.float32], steps: int, step: float, alphas: Floats) -> None:
    """The same of each row of logits [rows, vocabulary] and [rows, pairs, 2, vocabulary] into alphas [rows, pairs]."""
    for t in range(len(base)):
        adaptive(base[t], pairs[t], steps, step, alphas[t])
