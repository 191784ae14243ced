"""A cost model of decoding: bytes moved, operations done, and a machine that is limited by either.

A step reads all weights once and the keys and values of its context once, however many tokens it verifies; its
operations grow with them. It takes the longer of the two times (the roofline of Williams et al. 2009), so verifying
some more tokens is nearly free up to the ridge, hundreds of them. Nothing is counted for launches, for talk between
GPUs, or for bandwidth that is not reached: these are bounds, and `proxy_decode --gpu` measures what they leave out.
"""

from __future__ import annotations

from dataclasses import dataclass

MOST_PROPOSED = 16


@dataclass(frozen=True)
class Shape:
    """A Llama-shaped decoder."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    vocabulary: int = 32_000

    @property
    def read(self) -> int:
        """Weights that a step reads: all but the embedding, of which it needs one row per token."""
        keys = 2 * self.hidden * self.hidden * self.kv_heads // self.heads
        layer = 2 * self.hidden**2 + keys + 3 * self.hidden * self.inner + 2 * self.hidden
        return self.layers * layer + self.hidden + self.vocabulary * self.hidden

    @property
    def weights(self) -> int:
        """All of them, the embedding too."""
        return self.read + self.vocabulary * self.hidden

    @property
    def kv_per_token(self) -> int:
        """Numbers kept of one token: a key and a value per layer and head."""
        return 2 * self.layers * self.kv_heads * self.hidden // self.heads


LLAMA_2 = {
    "7B": Shape(32, 4096, 11_008, 32, 32),
    "13B": Shape(40, 5120, 13_824, 40, 40),
    "70B": Shape(80, 8192, 28_672, 64, 8),
}


@dataclass(frozen=True)
class Machine:
    """Bytes and operations per second, and how many bytes a number takes. The default is one H200 in bfloat16."""

    bandwidth: float = 4.8e12
    operations: float = 989e12
    width: int = 2

    def step(self, shape: Shape, tokens: int = 1, context: int = 512, rows: int = 1) -> float:
        """Seconds of a step in which each of `rows` texts of `context` tokens reads `tokens` more."""
        moved = self.width * (shape.read + rows * context * shape.kv_per_token)
        return max(moved / self.bandwidth, 2 * shape.read * rows * tokens / self.operations)

    def ridge(self, shape: Shape, context: int = 512) -> int:
        """How many tokens one text's step may verify before it is bound by operations."""
        moved = self.width * (shape.read + context * shape.kv_per_token)
        return int(moved / self.bandwidth * self.operations / (2 * shape.read))


@dataclass(frozen=True)
class Costs:
    """Seconds of cached steps: the base's for 1 to n tokens at once, and both small models' likewise."""

    base: tuple[float, ...]
    small: tuple[float, ...]

    @classmethod
    def of(cls, machine: Machine, base: Shape, small: Shape) -> Costs:
        """What a machine predicts."""
        counts = range(1, MOST_PROPOSED + 2)
        return cls(tuple(machine.step(base, n) for n in counts), tuple(machine.step(small, n) for n in counts))

    @property
    def plain(self) -> float:
        """Seconds per token of base, expert and antiexpert in turn."""
        return self.base[0] + 2 * self.small[0]

    def drafted(self, accepted: float, proposals: int, read: float = 1.0) -> float:
        """Seconds per token when the expert proposes, and the others verify.

        The expert reads one token more than it proposes, in steps of `read` tokens: of one where it guesses nothing.
        """
        steps = (proposals + 1) / read
        seconds = steps * self.small[round(read) - 1] + self.base[proposals] + self.small[proposals]
        return seconds / tokens_per_round(accepted, proposals)

    def best(self, accepted: float) -> tuple[int, float]:
        """The number of proposals that is fastest, and its seconds per token."""
        choices = ((n, self.drafted(accepted, n)) for n in range(len(self.base)))
        return min(choices, key=lambda choice: choice[1])


def tokens_per_round(accepted: float, proposals: float) -> float:
    """Leviathan et al. 2023, arXiv 2211.17192, equation 1, where proposals are right with probability `accepted`."""
    if accepted >= 1:
        return proposals + 1.0
    return (1 - accepted ** (proposals + 1)) / (1 - accepted)


def acceptance(written: float, proposals: float) -> float:
    """The acceptance at which so many tokens are written per round of so many proposals: the same, the other way."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if tokens_per_round(middle, proposals) < written else (low, middle)
    return low
