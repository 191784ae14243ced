"""What a step does between its matrix products, compiled for the CPU: norms, rotary attention, the gate.

Each is one loop over tokens, made into machine code by numba when it is first used. All arrays are float32 and
contiguous; the arithmetic is that of `lean_pass`, sums in any order. What is not finite stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Ids = NDArray[np.int64]
Bits = NDArray[np.int32]
Number = np.float32

_MATH = {"reassoc", "contract", "arcp", "nsz"}  # as BLAS sums, but NaN and infinity keep their meaning
_ZERO, _HALF, _ONE, _INFINITY = Number(0.0), Number(0.5), Number(1.0), Number(np.inf)
# Beyond these an exponential leaves what float32 holds in full.
_LEAST, _MOST = Number(-87.0), Number(88.0)
_LOG2E, _LN2_HIGH, _LN2_LOW = Number(np.log2(np.e)), Number(0.693359375), Number(np.log(2) - 0.693359375)
# Taylor's coefficients of exp from r^2 on; where |r| <= ln(2) / 2, what they leave out is 1.2e-7 at most.
_C2, _C3, _C4, _C5, _C6 = (Number(1 / n) for n in (2, 6, 24, 120, 720))


def compiled(function: Kernel) -> Kernel:
    """The function as machine code, kept on disk for later processes where there is a folder to write to."""
    try:
        made: Kernel = numba.njit(function, cache=True, nogil=True, fastmath=_MATH, error_model="numpy")
    except RuntimeError:  # numba found no such folder
        made = numba.njit(function, nogil=True, fastmath=_MATH, error_model="numpy")
    return made


@compiled
def exponentials(x: Floats, bits: Bits) -> None:
    """Replace x [numbers] by exp(x), to 5e-7 of it; `bits` is scratch of at least that length.

    exp(x) = 2^n * exp(r) with |r| <= ln(2) / 2, which the compiler makes vectors of, as it cannot of libm's. What is
    below -87 or above 88 counts as that.
    """
    for i in range(len(x)):
        v = x[i]
        v = _LEAST if v < _LEAST else v  # NaN is neither, and goes through
        v = _MOST if v > _MOST else v
        n = np.floor(v * _LOG2E + _HALF)
        r = v - n * _LN2_HIGH - n * _LN2_LOW
        p = (((_C6 * r + _C5) * r + _C4) * r + _C3) * r + _C2
        x[i] = p * r * r + r + _ONE
        bits[i] = (np.int32(n) + np.int32(127)) << np.int32(23)
    powers = bits.view(np.float32)
    for i in range(len(x)):
        x[i] *= powers[i]


@compiled
def _norm(x: Floats, weight: Floats, eps: Number, y: Floats) -> None:
    """RMSNorm of x [width] into y, which may be x."""
    total = _ZERO
    for i in range(len(x)):
        total += x[i] * x[i]
    scale = _ONE / np.sqrt(total / Number(len(x)) + eps)
    for i in range(len(x)):
        y[i] = x[i] * scale * weight[i]


@compiled
def embed(table: Floats, ids: Ids, weight: Floats, eps: Number, x: Floats, y: Floats) -> None:
    """Put the embeddings [vocabulary, hidden] of ids [tokens] into x [tokens, hidden], and their norms into y.

    Raises:
        IndexError: an id is not in the vocabulary.
    """
    for t in range(len(ids)):
        if ids[t] < 0 or ids[t] >= len(table):
            raise IndexError("a token is not in the vocabulary")
        x[t] = table[ids[t]]
        _norm(x[t], weight, eps, y[t])


@compiled
def add(x: Floats, more: Floats, weight: Floats, eps: Number, y: Floats) -> None:
    """Add `more` to x [tokens, hidden], and put the norm of that into y."""
    for t in range(len(x)):
        for i in range(x.shape[1]):
            x[t, i] += more[t, i]
        _norm(x[t], weight, eps, y[t])


@compiled
def gate(gate_up: Floats, bits: Bits, y: Floats) -> None:
    """Put silu(gate) * up of gate_up [tokens, 2 * width] into y [tokens, width]; `bits` [width] is scratch."""
    width = y.shape[1]
    for t in range(len(y)):
        for i in range(width):
            y[t, i] = -gate_up[t, i]
        exponentials(y[t], bits)
        for i in range(width):
            y[t, i] = gate_up[t, i] / (_ONE + y[t, i]) * gate_up[t, width + i]


@compiled
def _turn(x: Floats, cos: Floats, sin: Floats) -> None:
    """Rotate x [width] by halves; the sines carry the sign."""
    half = len(x) // 2
    for i in range(half):
        a, b = x[i], x[half + i]
        x[i] = a * cos[i] + b * sin[i]
        x[half + i] = b * cos[half + i] + a * sin[half + i]


@compiled
def _shares(query: Floats, keys: Floats, begin: int, scale: Number, scores: Floats, bits: Bits) -> None:
    """Put exp(score - highest score) of a query [width] with each of keys [begin:, width] into scores [seen]."""
    most = -_INFINITY
    for j in range(len(scores)):
        s = _ZERO
        for i in range(len(query)):
            s += query[i] * keys[begin + j, i]
        scores[j] = s * scale
    for j in range(len(scores)):
        most = scores[j] if scores[j] > most else most
    for j in range(len(scores)):
        scores[j] -= most
    exponentials(scores, bits)


@compiled
def _mean(values: Floats, begin: int, shares: Floats, y: Floats) -> None:
    """Put the mean of values [begin:, width], weighed by shares [seen], into y [width]."""
    seen, width = len(shares), len(y)
    total = _ZERO
    for j in range(seen):
        total += shares[j]
    for i in range(width):
        y[i] = _ZERO
    fours = seen // 4 * 4  # four values for each time that y is read and written
    for j in range(0, fours, 4):
        k = begin + j
        a, b, c, d = shares[j], shares[j + 1], shares[j + 2], shares[j + 3]
        for i in range(width):
            y[i] += a * values[k, i] + b * values[k + 1, i] + c * values[k + 2, i] + d * values[k + 3, i]
    for j in range(fours, seen):
        for i in range(width):
            y[i] += shares[j] * values[begin + j, i]
    for i in range(width):
        y[i] /= total


@compiled
def attend(
    qkv: Floats, owners: Ids, slots: Ids, cos: Floats, sin: Floats, query: Floats, key: Floats, eps: Number,
    scale: Number, window: int, store: Floats, scores: Floats, bits: Bits, y: Floats,
) -> None:  # fmt: skip
    """Keep each token's key and value in its row's slot, and put what it sees of its row up to there into y.

    Args:
        qkv: [tokens, (heads + 2 * kv_heads) * width]; what is rotated is so in place.
        owners: [tokens], rows of the store; the tokens of a row come in order.
        slots: [tokens].
        cos, sin: [positions, width].
        query, key: [width], weights of the queries' and keys' norms, or [0] where there are none.
        eps: of these norms.
        scale: of scores.
        window: how many slots a token sees at most, its own included.
        store: [rows, 2 * kv_heads, slots, width], written.
        scores, bits: scratch [at least the slots seen].
        y: [tokens, heads * width], written.
    """
    kv_heads, width = store.shape[1] // 2, store.shape[3]
    heads = qkv.shape[1] // width - 2 * kv_heads
    groups = heads // kv_heads
    for t in range(len(qkv)):
        row, slot = store[owners[t]], slots[t]
        parts, out = qkv[t].reshape(heads + 2 * kv_heads, width), y[t].reshape(heads, width)
        for h in range(heads + kv_heads):
            if len(query):
                _norm(parts[h], query if h < heads else key, eps, parts[h])
            _turn(parts[h], cos[slot], sin[slot])
        row[:, slot] = parts[heads:]
        begin = max(0, slot + 1 - window)
        seen = scores[: slot + 1 - begin]
        for h in range(heads):
            _shares(parts[h], row[h // groups], begin, scale, seen, bits)
            _mean(row[kv_heads + h // groups], begin, seen, out[h])
