"""How many tokens to propose at once: as many as make most tokens per second, by what is measured as decoding goes on.

If each proposal is accepted with probability a, g of them yield (1 - a^(g+1)) / (1 - a) tokens in expectation
(Leviathan et al. 2023, arXiv 2211.17192, equation 1). What they cost is not taken from a table but from the clock: the
seconds of a drafting step, and of a verification as a line over the tokens that it reads. The number changes nothing
but the speed, so it may depend on the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_PROPOSED = 12
MEMORY = 0.95
PRIOR_ACCEPTED, PRIOR_TRIED = 1.5, 2.0
SURPRISE = 1.5
"""A measurement above so many times the expected one is a stall of the machine, and is taken for that much only."""
KNOWN = 4.0
"""So many measurements make an expectation."""


@dataclass
class Acceptance:
    """The probability that a text's next proposal is accepted; older verifications fade.

    A refused token hides those behind it, so only tokens up to it count as tried.
    """

    accepted: float = PRIOR_ACCEPTED
    tried: float = PRIOR_TRIED

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return self.accepted / self.tried

    def heir(self) -> Acceptance:
        """What a new text may expect: half of what others saw, half hope, soon unlearnt."""
        hope = PRIOR_ACCEPTED / PRIOR_TRIED
        return Acceptance(PRIOR_TRIED * (self.rate + hope) / 2, PRIOR_TRIED)

    def saw(self, proposed: int, accepted: int) -> None:
        """Learn from one verification; where nothing is proposed, what was learnt fades, so that it is tried again."""
        if not proposed:
            self.accepted = MEMORY * self.accepted + (1 - MEMORY) * PRIOR_ACCEPTED
            self.tried = MEMORY * self.tried + (1 - MEMORY) * PRIOR_TRIED
            return
        self.accepted = MEMORY * self.accepted + accepted
        self.tried = MEMORY * self.tried + min(proposed, accepted + 1)


@dataclass
class Line:
    """Seconds as a line over an amount of work: fixed + each * amount, by least squares with fading memory."""

    sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # weight, x, y, x^2, x*y

    def saw(self, amount: float, seconds: float) -> None:
        """Learn from one measurement."""
        if self.sums[0] > KNOWN:
            fixed, each = self.fit
            seconds = min(seconds, SURPRISE * (fixed + each * amount))
        terms = (1.0, amount, seconds, amount * amount, amount * seconds)
        self.sums = [MEMORY * old + new for old, new in zip(self.sums, terms, strict=True)]

    @property
    def fit(self) -> tuple[float, float]:
        """(fixed, each), neither below zero; (0, 0) before anything was measured."""
        weight, x, y, xx, xy = self.sums
        if not weight:
            return 0.0, 0.0
        spread = weight * xx - x * x
        each = max(0.0, (weight * xy - x * y) / spread) if spread > 1e-9 * weight * xx else 0.0
        fixed = (y - each * x) / weight
        return (fixed, each) if fixed > 0 else (0.0, y / x)


class Pace:
    """The clock of a running batch."""

    def __init__(self, most: int = MOST_PROPOSED) -> None:
        self._most = most
        self.draft = Line()
        self.verify = Line()

    def proposals(self, rates: Sequence[float], drafted: bool) -> int:
        """How many tokens to propose for each of some texts; 0 where drafting does not pay.

        Args:
            rates: each text's acceptance.
            drafted: whether a member proposes, which takes one step more than there are proposals; looking up is free.
        """
        fixed, each = self.verify.fit
        if not rates or not fixed + each:
            return min(4, self._most) if rates else 0  # nothing measured yet
        step, row = self.draft.fit if drafted else (0.0, 0.0)
        more = step + (each + row) * len(rates)
        best, fastest, tokens, chances = 0, 0.0, 0.0, [1.0] * len(rates)
        for count in range(self._most + 1):
            tokens += sum(chances)
            speed = tokens / (fixed + more * (count + 1))
            if speed <= fastest:
                break  # tokens grow ever slower and seconds do not: it gets no faster
            best, fastest = count, speed
            chances = [chance * min(rate, 0.999) for chance, rate in zip(chances, rates, strict=True)]
        return best
