"""The ensemble of proxy-tuning as a plain loop: logits = base + sum of alpha * (expert - antiexpert).

Liu et al. 2024, arXiv 2401.08565, equation 1, with any number of pairs. Each model keeps its own past and may read its
own form of the prompt; continuations are shared. Logits meet in float32, before anything else acts on them.
Log-softmaxed logits would give the same distribution, because what they take off is one constant per row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from earnest.decoding.distribution import Forms, ModelDistribution, NextTokens, Remote, Session
from earnest.decoding.mixing import Mixer
from earnest.models.loading import LoadedModel
from earnest.specs import ADAPTIVE, Alpha, UserError


@dataclass(frozen=True)
class Pair:
    """What steers a base: a tuned expert and its untuned twin, and how strongly.

    Without an antiexpert the base itself stands there, and `alpha` leads from the base (0) to the expert (1).
    An `alpha` of "adaptive" is found anew at each token (`fusion`).
    """

    expert: LoadedModel
    antiexpert: LoadedModel | None = None
    alpha: Alpha = 1.0


class Ensemble:
    """The next-token distribution of a base model steered by the difference of two small ones, or of several pairs.

    `alpha` 0 is the base itself, bit for bit, because such a pair is not run at all; 1 is the paper's choice. All
    models must share one vocabulary, token by token. Logits are as wide as the widest head; what is no token of the
    vocabulary, or has no row in some model's head, is -inf and never chosen.

    Raises:
        UserError: a token's id differs between two of the models, or an alpha is neither finite nor "adaptive".
    """

    def __init__(
        self, base: LoadedModel, expert: LoadedModel, antiexpert: LoadedModel | None = None, alpha: Alpha = 1.0
    ) -> None:
        self._settle(base, [Pair(expert, antiexpert, alpha)])

    @classmethod
    def of(cls, base: LoadedModel | Remote, pairs: Sequence[Pair]) -> Ensemble:
        """A base, which may be a black box, and any number of pairs; none leaves the base alone."""
        ensemble = cls.__new__(cls)
        ensemble._settle(base, pairs)
        return ensemble

    def _settle(self, base: LoadedModel | Remote, pairs: Sequence[Pair]) -> None:
        self.lead, self.pairs = base, tuple(pairs)
        for pair in self.pairs:
            _check_alpha(pair)
        for model in self.steering:
            check_vocabularies(base, model)
        distinct = {id(model): model for model in (base, *self.steering)}
        self._member_of = {key: number for number, key in enumerate(distinct)}
        self.members: tuple[NextTokens, ...] = tuple(
            ModelDistribution(model) if isinstance(model, LoadedModel) else model for model in distinct.values()
        )
        self.tokenizer = base.tokenizer
        self.ends = self.members[0].ends
        self.max_length = min(member.max_length for member in self.members)
        self.budget = min(member.budget for member in self.members)
        self._mixer = Mixer(base.tokenizer, [model.vocabulary for model in distinct.values()])

    @property
    def steering(self) -> list[LoadedModel]:
        """The models beside the base in the order of `forms`: each pair's expert, then its antiexpert if it has one."""
        return [model for pair in self.pairs for model in (pair.expert, pair.antiexpert) if model is not None]

    @property
    def base(self) -> LoadedModel:
        """The base, for what needs its weights.

        Raises:
            UserError: it is a black box.
        """
        return _loaded(self.lead)

    @property
    def running(self) -> dict[int, ModelDistribution]:
        """Who plays each role that is run: 0 is the base, then `steering`; pairs with alpha 0 are not run.

        Raises:
            UserError: the base is a black box.
        """
        _loaded(self.lead)
        return {role: member for role, member in self._speaking.items() if isinstance(member, ModelDistribution)}

    @property
    def _speaking(self) -> dict[int, NextTokens]:
        models = [self.lead, *self.steering]
        steering = (role for pair in _roles(self.pairs) if pair.alpha for role in (pair.expert, pair.antiexpert))
        return {role: self.members[self._member_of[id(models[role])]] for role in dict.fromkeys((0, *steering))}

    @property
    def tokens_forwarded(self) -> int:
        """How many tokens the models have read so far, together."""
        return sum(member.tokens_forwarded for member in self.members)

    def open(self, prompts: Sequence[Sequence[int]], forms: Forms = ()) -> EnsembleSession:
        """Read prompts in all models.

        Args:
            prompts: one per row, as the base reads them.
            forms: for each row the prompt as each model of `steering` reads it; empty where all read the same.

        Raises:
            ValueError: a row has another number of forms than there are models in `steering`.
        """
        reads = self._reads(prompts, forms)
        sessions: dict[tuple[int, Texts], Session] = {}
        of_role: dict[int, tuple[int, Texts]] = {}
        for role, member in self._speaking.items():
            key = of_role[role] = (id(member), reads[role])
            if key not in sessions:
                sessions[key] = member.open(reads[role])
        places = {key: place for place, key in enumerate(sessions)}
        return EnsembleSession(self, list(sessions.values()), {role: places[key] for role, key in of_role.items()})

    def _reads(self, prompts: Sequence[Sequence[int]], forms: Forms) -> list[Texts]:
        """For each role, base first, the rows' prompts."""
        plain = tuple(map(tuple, prompts))
        count = len(self.steering)
        for number, form in enumerate(forms):
            if form and len(form) != count:
                raise ValueError(f"prompt {number} has {len(form)} forms; give one for each of {count} steering models")
        own = [form or (prompt,) * count for form, prompt in zip(forms or [()] * len(plain), plain, strict=True)]
        return [plain, *(tuple(tuple(form[k]) for form in own) for k in range(count))]

    def combine(self, logits: dict[int, Tensor]) -> Tensor:
        """The models' logits by role [..., their head] as base + sum of alpha * (expert - antiexpert), in float32."""
        return self.mixed(logits)[0]

    def mixed(self, logits: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
        """The combined logits [..., vocabulary] in float32, and the alphas [..., pairs] in it; see `Mixer.mix`."""
        lead = logits[0]
        # What a black box leaves out stays out: as the antiexpert, its -inf would turn that into NaN.
        told = {0: lead.masked_fill(lead.isneginf(), 0.0)}
        beside = {role: one.to(lead.device) for role, one in logits.items()} | told
        run = {number: pair for number, pair in enumerate(_roles(self.pairs)) if pair.alpha}
        pairs = [(beside[pair.expert], beside[pair.antiexpert]) for pair in run.values()]
        combined, used = self._mixer.mix(lead, pairs, [[pair.alpha] for pair in run.values()])
        alphas = torch.zeros(*lead.shape[:-1], len(self.pairs), device=lead.device)
        alphas[..., list(run)] = used
        return combined, alphas


Texts = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Roles:
    """A pair as places in [base, *steering]; an absent antiexpert is the base, 0."""

    expert: int
    antiexpert: int
    alpha: Alpha


def _roles(pairs: Sequence[Pair]) -> list[_Roles]:
    found, place = [], 1
    for pair in pairs:
        found.append(_Roles(place, 0 if pair.antiexpert is None else place + 1, pair.alpha))
        place += 1 if pair.antiexpert is None else 2
    return found


class EnsembleSession:
    """Rows that the models continue together; a model that plays two parts with the same prompts is run once."""

    logits: Tensor

    def __init__(self, ensemble: Ensemble, sessions: Sequence[Session], place_of: dict[int, int]) -> None:
        self._ensemble = ensemble
        self._sessions = sessions
        self._place_of = place_of
        self._combine()

    def by_role(self, found: Sequence[Tensor]) -> dict[int, Tensor]:
        """One tensor per session as one per role: 0 is the base, then `steering`; pairs with alpha 0 are absent."""
        return {role: found[place] for role, place in self._place_of.items()}

    def apart(self) -> dict[int, Tensor]:
        """Each model's own logits about the next token [rows, its head], by role."""
        return self.by_role([session.logits for session in self._sessions])

    def _combine(self) -> None:
        self.logits = self._ensemble.combine(self.apart())

    def advance(self, tokens: Tensor) -> None:
        """Every model reads the same token per row."""
        for session in self._sessions:
            session.advance(tokens)
        self._combine()

    def read(self, tokens: Sequence[Sequence[int]]) -> Tensor:
        """Every model reads the same tokens; the combined logits after each [rows, longest, vocabulary]."""
        combined = self._ensemble.combine(self.read_apart(tokens))
        self._combine()
        return combined

    def read_apart(self, tokens: Sequence[Sequence[int]]) -> dict[int, Tensor]:
        """Like `read`, but each model's own logits [rows, longest, its head] by role; `logits` are not renewed."""
        return self.by_role([session.read(tokens) for session in self._sessions])

    def keep(self, rows: Tensor) -> None:
        """Every model drops the other rows."""
        for session in self._sessions:
            session.keep(rows.to(session.logits.device))
        self.logits = self.logits[rows]


def _loaded(base: LoadedModel | Remote) -> LoadedModel:
    if isinstance(base, LoadedModel):
        return base
    raise UserError(f"ensemble: {base.name} is a black box, which can write but not be scored; load the model here")


def _check_alpha(pair: Pair) -> None:
    alpha = pair.alpha
    if alpha != ADAPTIVE and not (isinstance(alpha, int | float) and math.isfinite(alpha)):
        raise UserError(f"ensemble: alpha {alpha} of {pair.expert.name} is not finite; 1 is the usual one, or adaptive")


class Speaker(Protocol):
    """What has a name and a tokenizer: a model, or what stands for one where its weights are elsewhere."""

    @property
    def name(self) -> str:
        """How errors call it."""

    @property
    def tokenizer(self) -> Any:
        """Whose tokens are compared."""


def check_vocabularies(one: Speaker, other: Speaker) -> None:
    """Raise UserError unless every token has the same id in both models' tokenizers."""
    mine, theirs = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    if mine == theirs:
        return
    every = mine.keys() | theirs.keys()
    differing = [token for token in every if mine.get(token) != theirs.get(token)]
    first = min(differing, key=lambda token: (min(mine.get(token, math.inf), theirs.get(token, math.inf)), token))
    raise UserError(
        f"ensemble: {one.name} and {other.name} have different vocabularies: token {first!r} is {mine.get(first)} "
        f"and {theirs.get(first)} ({len(differing)} tokens differ); use models that share one tokenizer"
    )
