"""Who proposes tokens for speculative decoding: a cheap model, or the text so far. Verifying belongs to `speculative`.

What is proposed never decides what is right, only how soon it is found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from earnest.decoding.distribution import NextTokens, Session
from earnest.decoding.sampling import Draw, drawn, processed

LONGEST_MATCH = 4


@dataclass(frozen=True)
class Proposal:
    """Tokens, and the distributions that they were drawn from [tokens, vocabulary]; None where each was certain."""

    tokens: tuple[int, ...]
    probabilities: Tensor | None = None


class Drafting(Protocol):
    """One row that tokens are proposed for."""

    def propose(self, draw: Draw, count: int) -> Proposal:
        """At most `count` tokens to follow what the row has written, which is at least one token."""


class Drafter(Protocol):
    """Proposes tokens. `cost` is what one proposed token costs, in verifications."""

    @property
    def cost(self) -> float:
        """What one proposed token costs, in verifications."""

    def open(self, start: Sequence[int], forms: Sequence[Sequence[int]], width: int) -> Drafting:
        """Begin a row: its prompt, the forms of it for steering models, and how wide the verifier's logits are."""


class ModelDrafter:
    """A model, or an ensemble of cheap ones, proposes what it would write under the row's own settings.

    Its tokenizer must be the verifier's. `form` says which of a prompt's forms it reads, where a prompt has forms: 0
    for the first expert's. A row that it has no room for gets no proposals.
    """

    def __init__(self, distribution: NextTokens, cost: float = 0.15, form: int | None = None) -> None:
        self.distribution = distribution
        self.cost = cost
        self.form = form

    def open(self, start: Sequence[int], forms: Sequence[Sequence[int]], width: int) -> Drafting:
        """Begin a row; nothing is read before the first proposal."""
        prompt = forms[self.form] if forms and self.form is not None else start
        return _ModelDrafting(self.distribution, prompt, width)


class _ModelDrafting:
    """A row of a drafting model, which has read the prompt and some of the continuation, perhaps a wrong turn too."""

    def __init__(self, distribution: NextTokens, prompt: Sequence[int], width: int) -> None:
        self._distribution = distribution
        self._prompt = prompt
        self._width = width
        self._session: Session | None = None
        self._read: list[int] = []

    def propose(self, draw: Draw, count: int) -> Proposal:
        """Catch up with what was written, then go on alone."""
        room = self._distribution.max_length - len(self._prompt) - len(draw.written) + 1
        count = min(count, room)
        if count < 1:
            return Proposal(())
        session = self._caught_up(draw.written)
        tokens: list[int] = []
        rows: list[Tensor] = []
        while True:
            token, row = self._next(session.logits, draw, tokens)
            tokens.append(token)
            if row is not None:
                rows.append(row)
            if len(tokens) == count or token in self._distribution.ends:
                return Proposal(tuple(tokens), torch.stack(rows) if rows else None)
            session.advance(torch.tensor([token], device=session.logits.device))
            self._read.append(token)

    def _caught_up(self, written: Sequence[int]) -> Session:
        """The session after all of `written`: wrong turns are forgotten, and at least the last token is read anew."""
        if self._session is None:
            self._session = self._distribution.open([self._prompt])
        same = next((i for i, pair in enumerate(zip(self._read, written, strict=False)) if pair[0] != pair[1]), None)
        agreed = min(len(self._read) if same is None else same, len(written) - 1)
        if agreed < len(self._read):
            self._session.rewind([len(self._read) - agreed])
        self._session.read([written[agreed:]])
        self._read = list(written)
        return self._session

    def _next(self, logits: Tensor, draw: Draw, tokens: Sequence[int]) -> tuple[int, Tensor | None]:
        logits = _fitted(logits, self._width)
        if draw.plain:
            return int(logits.argmax()), None
        row = processed(logits, draw.sampling, [(draw.prompt, [*draw.written, *tokens])])
        return drawn(row, [draw.numbers.random()])[0], row[0]


def _fitted(logits: Tensor, width: int) -> Tensor:
    """Logits [rows, width]: a token that the verifier has no column for is never proposed, nor one without logit."""
    return torch.nn.functional.pad(logits[:, :width], (0, max(0, width - logits.shape[-1])), value=-torch.inf)


class LookupDrafter:
    """The text so far proposes: what followed the last earlier occurrence of its last few tokens follows again.

    Prompt look-up; costs nothing but the width of the verification.
    """

    def __init__(self, longest: int = LONGEST_MATCH, cost: float = 0.02) -> None:
        self.longest = longest
        self.cost = cost

    def open(self, start: Sequence[int], forms: Sequence[Sequence[int]], width: int) -> Drafting:  # noqa: ARG002
        """Begin a row; its text is all that is looked at."""
        return _LookupDrafting(self.longest)


class _LookupDrafting:
    def __init__(self, longest: int) -> None:
        self._longest = longest

    def propose(self, draw: Draw, count: int) -> Proposal:
        """What followed the longest match, the last one among equals."""
        text = (*draw.prompt, *draw.written)
        for length in range(min(self._longest, len(text) - 1), 0, -1):
            suffix = text[-length:]
            for begin in range(len(text) - length - 1, -1, -1):
                if text[begin : begin + length] == suffix:
                    return Proposal(text[begin + length : begin + length + count])
        return Proposal(())
