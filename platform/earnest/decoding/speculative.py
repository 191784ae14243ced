"""Speculative decoding that changes nothing but the time: a drafter proposes tokens, one pass verifies them all.

Leviathan et al. 2023, arXiv 2211.17192. It is exact for whatever distribution verifies, so for an ensemble too: base,
experts and antiexperts read the proposed tokens once, their logits meet as ever, and a proposed token is taken or
refused on the processed distributions. A sampled text is another one than plain decoding gives for the same seed, but
of exactly the same distribution; a greedy text is that of plain decoding, except where rounding decides: a pass over
many tokens rounds otherwise than one over a single token. In float32 that is nothing to notice; bfloat16 moves logits
by tenths, so near-ties may fall the other way. One prompt runs at a time: this buys latency, batches buy throughput.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from earnest.decoding.distribution import NextTokens
from earnest.decoding.drafting import Drafter, Proposal
from earnest.decoding.generation import Generation, Prompt, Reader, Row, row_of
from earnest.decoding.sampling import Draw, choose, drawn, logprobs_of, processed

MOST_PROPOSED = 16
MEMORY = 0.9
PRIOR_ACCEPTED, PRIOR_TRIED = 3.0, 4.0


@dataclass(frozen=True)
class Speculation:
    """How it went: verifications, tokens proposed and accepted, and tokens that came out."""

    rounds: int = 0
    proposed: int = 0
    accepted: int = 0
    tokens: int = 0

    @property
    def acceptance(self) -> float:
        """The share of proposed tokens that were accepted; 0 where none was proposed."""
        return self.accepted / self.proposed if self.proposed else 0.0

    @property
    def tokens_per_round(self) -> float:
        """Tokens for one pass of the big model; plain decoding gives 1."""
        return self.tokens / self.rounds if self.rounds else 0.0

    def __add__(self, other: Speculation) -> Speculation:
        return Speculation(
            self.rounds + other.rounds,
            self.proposed + other.proposed,
            self.accepted + other.accepted,
            self.tokens + other.tokens,
        )


class Pace:
    """How many tokens to propose next, by how many were accepted lately.

    The number that makes most tokens per cost, if each is accepted with the same probability: arXiv 2211.17192,
    theorem 3.8. A refused token hides those behind it, so only tokens up to it count as tried.
    """

    def __init__(self, cost: float, most: int = MOST_PROPOSED) -> None:
        self._cost = cost
        self._most = most
        self._accepted, self._tried = PRIOR_ACCEPTED, PRIOR_TRIED

    @property
    def count(self) -> int:
        """How many tokens to propose, 1 at least."""
        rate = self._accepted / self._tried

        def speed(count: int) -> float:
            return float(sum(rate**i for i in range(count + 1)) / (1 + count * self._cost))

        return max(range(1, self._most + 1), key=speed)

    def saw(self, proposed: int, accepted: int) -> None:
        """Learn from one verification; older ones fade."""
        self._accepted = MEMORY * self._accepted + accepted
        self._tried = MEMORY * self._tried + min(proposed, accepted + 1)


def continue_speculatively(
    distribution: NextTokens,
    prompts: Sequence[Prompt],
    drafter: Drafter,
    gamma: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[Generation], Speculation]:
    """Continue each prompt as `continue_prompts` does, with fewer passes of the big model.

    Args:
        distribution: decides; a model or an ensemble.
        prompts: what to continue, one after the other.
        drafter: proposes; with the distribution's tokenizer.
        gamma: tokens proposed at once; None adapts the number to what is accepted, row by row.
        progress: told how many prompts are finished, and of how many.

    Raises:
        ValueError: `gamma` is less than 1, or a prompt is empty or asks for more tokens than the model can hold.
    """
    if gamma is not None and gamma < 1:
        raise ValueError(f"gamma {gamma}: propose at least one token, or use continue_prompts")
    rows = [row_of(number, prompt, distribution.max_length) for number, prompt in enumerate(prompts)]
    reader, total = Reader(distribution), Speculation()
    for done, row in enumerate(rows, start=1):
        total += _continue(distribution, row, drafter, gamma, reader)
        if progress is not None:
            progress(done, len(rows))
    return [row.generation() for row in rows], total


@torch.inference_mode()
def _continue(distribution: NextTokens, row: Row, drafter: Drafter, gamma: int | None, reader: Reader) -> Speculation:
    """Generate one row to its end. The last token written is always still unread."""
    session = distribution.open([row.start], [row.forms])
    drafting, pace = drafter.open(row.start, row.forms, session.logits.shape[-1]), Pace(drafter.cost)
    (token,), (known,) = choose(session.logits, [row.draw])
    reader.append(row, token, known)
    rounds = proposed = accepted = 0
    while row.finish is None:
        left = row.prompt.max_tokens - len(row.ids)
        proposal = drafting.propose(row.draw, min(gamma or pace.count, left - 1))
        raw = session.read([[row.ids[-1], *proposal.tokens]])[0]  # [proposed + 1, vocabulary]
        tokens, probabilities = verified(raw, proposal, row.draw)
        kept, offered = len(tokens) - 1, len(proposal.tokens)
        _append(reader, row, tokens, raw, probabilities)
        if kept < offered and row.finish is None:
            session.rewind([offered - kept])
        pace.saw(offered, kept)
        rounds, proposed, accepted = rounds + 1, proposed + offered, accepted + kept
    return Speculation(rounds, proposed, accepted, len(row.ids))


def verified(raw: Tensor, proposal: Proposal, draw: Draw) -> tuple[list[int], Tensor | None]:
    """The tokens that follow: those of the proposal up to the first refused one, and one more.

    Each proposed token x is taken with probability min(1, p(x) / q(x)); in place of the first refused one comes a draw
    from max(0, p - q), and behind the last taken one a draw from p. So every token is distributed as p says.

    Args:
        raw: logits [proposed + 1, vocabulary] of the verifier, before each proposed token and behind the last.
        proposal: the tokens, and the distributions q that they were drawn from.
        draw: the row, before these tokens.

    Returns:
        The tokens, and p [proposed + 1, vocabulary], processed; None where plain greedy needs none.
    """
    if draw.plain:
        best = raw.argmax(-1).tolist()
        same = (i for i, token in enumerate(proposal.tokens) if token != best[i])
        kept = next(same, len(proposal.tokens))
        return [*proposal.tokens[:kept], best[kept]], None
    every = range(len(proposal.tokens) + 1)
    histories = [(draw.prompt, [*draw.written, *proposal.tokens[:i]]) for i in every]
    target = processed(raw, draw.sampling, histories)
    for i, token in enumerate(proposal.tokens):
        offered = _offered(proposal, i, target)
        if draw.numbers.random() * float(offered[token]) >= float(target[i, token]):
            rest = (target[i] - offered).clamp(min=0)
            source = rest if bool(rest.any()) else target[i]  # all of p in q: only rounding leads here
            return [*proposal.tokens[:i], *drawn(source[None], [draw.numbers.random()])], target
    return [*proposal.tokens, *drawn(target[-1:], [draw.numbers.random()])], target


def _offered(proposal: Proposal, place: int, target: Tensor) -> Tensor:
    """The distribution [vocabulary] that a proposed token was drawn from."""
    if proposal.probabilities is not None:
        return proposal.probabilities[place].to(target.device)
    certain = torch.zeros_like(target[place])
    certain[proposal.tokens[place]] = 1
    return certain


def _append(reader: Reader, row: Row, tokens: Sequence[int], raw: Tensor, probabilities: Tensor | None) -> None:
    """Give a row its tokens, as far as it goes."""
    wanted = row.prompt.sampling.logprobs
    for i, token in enumerate(tokens):
        known = None
        if wanted is not None and probabilities is not None:
            (known,) = logprobs_of(raw[i : i + 1], probabilities[i : i + 1], [token], wanted)
        reader.append(row, token, known)
        if row.finish is not None:
            return
