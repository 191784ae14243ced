"""How far to propose: as far as it makes most tokens per second, by what is measured as decoding goes on.

Looking up costs nothing but the width of the verification. If each proposal is accepted with probability a, g of them
yield (1 - a^(g+1)) / (1 - a) tokens in expectation (Leviathan et al. 2023, arXiv 2211.17192, equation 1), and the best
g is found by trying them all. A member that drafts goes on as long as what a further step may bring is worth more than
its time would bring otherwise. What things cost is not taken from a table but from the clock: the seconds of a drafting
step, and of a verification as a line over the tokens that it reads. How far is proposed changes nothing but the speed,
so it may depend on the clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MOST_PROPOSED = 15
MEMORY = 0.95
PRIOR_ACCEPTED, PRIOR_TRIED = 1.5, 2.0
SURPRISE = 1.5
"""A measurement above so many times the expected one is a stall of the machine, and is taken for that much only."""
REST = 16
"""Where drafts do not pay, one in so many rounds has one."""
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
        """Learn from one verification."""
        self.counted(min(proposed, accepted + 1), accepted)

    def counted(self, tried: int, accepted: int) -> None:
        """Learn from so many tries at once; where there is none, what was learnt fades, so that it is tried again."""
        if not tried:
            self.accepted = MEMORY * self.accepted + (1 - MEMORY) * PRIOR_ACCEPTED
            self.tried = MEMORY * self.tried + (1 - MEMORY) * PRIOR_TRIED
            return
        self.accepted = MEMORY * self.accepted + accepted
        self.tried = MEMORY * self.tried + tried


@dataclass
class Line:
    """Seconds as a line over an amount of work: fixed + each * amount, by least squares with fading memory."""

    sums: list[float] = field(default_factory=lambda: [0.0] * 5)  # weight, x, y, x^2, x*y

    def saw(self, amount: float, seconds: float) -> None:
        """Learn from one measurement."""
        if self.sums[0] > KNOWN:
            fixed, each = self.fit
            seconds = min(seconds, SURPRISE * (fixed + each * amount))
        weight, x, y, xx, xy = self.sums
        self.sums = [
            MEMORY * weight + 1.0, MEMORY * x + amount, MEMORY * y + seconds,
            MEMORY * xx + amount * amount, MEMORY * xy + amount * seconds,
        ]  # fmt: skip

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


class Usual:
    """Means of what was seen, by name; older ones fade."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = {}

    def saw(self, **values: float) -> None:
        """Learn."""
        for name, value in values.items():
            total, count = self._sums.get(name, (0.0, 0.0))
            self._sums[name] = MEMORY * total + value, MEMORY * count + 1

    def of(self, name: str) -> float:
        """The mean, 0 before anything was seen."""
        total, count = self._sums.get(name, (0.0, 1.0))
        return total / count


class Pace:
    """The clock of a running batch."""

    def __init__(self, most: int = MOST_PROPOSED) -> None:
        self.most = most
        self.draft = Line()
        self.verify = Line()
        self._rounds = Usual()
        self._rested = 0

    def drafted(self, rows: int, steps: int, read: int, seconds: float | None) -> None:
        """Learn from a draft: its steps, and how many tokens of all rows were read and are left to be verified.

        `seconds` are None where it took place while something else did, and nobody waited for its steps.
        """
        if seconds is not None:
            self.draft.saw(rows, seconds / steps)
        self._rounds.saw(steps=steps if seconds is not None else 0, read=read / rows)

    def wrote(self, tokens: int) -> None:
        """Learn how many tokens a drafted text was given in a round."""
        self._rounds.saw(wrote=tokens)

    def least_chance(self, rows: int) -> float:
        """How likely a row's next token must be to be worth its drafting and its verification, with what follows it.

        It is worth them where it brings more tokens a second than rounds do as a whole.
        """
        usual = self._rounds
        if not usual.of("wrote"):
            return 0.0
        a_step, a_token, a_round = self._seconds(rows)
        further = a_step * usual.of("steps") / usual.of("read") + a_token  # a step reads guesses, too
        return further / a_round * usual.of("wrote")

    def pays(self, rows: int) -> bool:
        """Whether rounds with drafts bring more than one token for each text at a time; now and then to find it out."""
        if not self._rounds.of("wrote"):
            return True
        a_step, a_token, a_round = self._seconds(rows)
        if self._rounds.of("wrote") / a_round >= 1 / (self.verify.fit[0] + a_token + a_step):
            return True
        self._rested = (self._rested + 1) % REST
        return self._rested == 0

    def _seconds(self, rows: int) -> tuple[float, float, float]:
        """What a drafting step, a token verified in each row, and a whole round with a draft take."""
        (step, row), (fixed, each) = self.draft.fit, self.verify.fit
        a_step, a_token = step + row * rows, each * rows
        return a_step, a_token, self._rounds.of("steps") * a_step + fixed + self._rounds.of("read") * a_token

    def looked_up(self, rates: Sequence[float]) -> int:
        """How many tokens to look up for each of some texts, by their acceptances; 0 where it does not pay."""
        fixed, each = self.verify.fit
        if not rates or not fixed + each:
            return min(4, self.most) if rates else 0  # nothing measured yet
        best, fastest, tokens, chances = 0, 0.0, 0.0, [1.0] * len(rates)
        for count in range(self.most + 1):
            tokens += sum(chances)
            speed = tokens / (fixed + each * len(rates) * (count + 1))
            if speed <= fastest:
                break  # tokens grow ever slower and seconds do not: it gets no faster
            best, fastest = count, speed
            chances = [chance * min(rate, 0.999) for chance, rate in zip(chances, rates, strict=True)]
        return best
