"""The ensemble of proxy-tuning as a plain loop: logits = base + alpha * (expert - antiexpert).

Liu et al. 2024, arXiv 2401.08565, equation 1. Each model keeps its own past; logits meet in float32. Log-softmaxed
logits would give the same distribution, because what they take off is one constant per row.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from earnest.decoding.distribution import ModelDistribution, Session
from earnest.models.loading import LoadedModel
from earnest.specs import UserError


class Ensemble:
    """The next-token distribution of a base model steered by the difference of two small ones.

    `alpha` 0 is the base itself, 1 the paper's choice. Without an antiexpert the base is its own, and the ensemble
    goes from base (0) to expert (1). All models must share one vocabulary, token by token.

    Raises:
        UserError: a token's id differs between two of the models.
    """

    def __init__(
        self, base: LoadedModel, expert: LoadedModel, antiexpert: LoadedModel | None = None, alpha: float = 1.0
    ) -> None:
        models = [base, expert] if antiexpert is None else [base, expert, antiexpert]
        for model in models[1:]:
            check_vocabularies(base, model)
        self.alpha = alpha
        self.members = tuple(ModelDistribution(model) for model in models)
        self.tokenizer = base.tokenizer
        self.ends = self.members[0].ends
        self.max_length = min(member.max_length for member in self.members)
        self.budget = min(member.budget for member in self.members)
        # Output heads may be padded to different widths; the rows behind the vocabulary mean nothing.
        self.width = min(model.vocabulary for model in models)

    @property
    def tokens_forwarded(self) -> int:
        """How many tokens the models have read so far, together."""
        return sum(member.tokens_forwarded for member in self.members)

    def open(self, prompts: Sequence[Sequence[int]]) -> Session:
        """Read prompts in all models."""
        return EnsembleSession([member.open(prompts) for member in self.members], self.alpha, self.width)


class EnsembleSession:
    """Rows that the models continue together; the last one is the antiexpert, the first if there are only two."""

    logits: Tensor

    def __init__(self, sessions: Sequence[Session], alpha: float, width: int) -> None:
        self._sessions = sessions
        self._alpha = alpha
        self._width = width
        self._combine()

    def _combine(self) -> None:
        found = [session.logits[:, : self._width] for session in self._sessions]
        base, expert, antiexpert = found[0], found[1], found[2] if len(found) > 2 else found[0]
        self.logits = base + self._alpha * (expert.to(base.device) - antiexpert.to(base.device))

    def advance(self, tokens: Tensor) -> None:
        """Every model reads the same token per row."""
        for session in self._sessions:
            session.advance(tokens)
        self._combine()

    def keep(self, rows: Tensor) -> None:
        """Every model drops the other rows."""
        for session in self._sessions:
            session.keep(rows.to(session.logits.device))
        self.logits = self.logits[rows]


def check_vocabularies(one: LoadedModel, other: LoadedModel) -> None:
    """Raise UserError unless every token has the same id in both models' tokenizers."""
    mine, theirs = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if mine == theirs:
        return
    every = mine.keys() | theirs.keys()
    differing = sorted(token for token in every if mine.get(token) != theirs.get(token))
    token = differing[0]
    raise UserError(
        f"ensemble: {one.name} and {other.name} have different vocabularies: token {token!r} is {mine.get(token)} "
        f"and {theirs.get(token)} ({len(differing)} tokens differ); use models that share one tokenizer"
    )
