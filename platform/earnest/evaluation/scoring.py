"""Who reads and predicts: the model of a subject, or all models of an ensemble in lockstep.

Every model of an ensemble reads the same segments and keeps its own past of them; logits are combined where predictions
are needed, in float32. An ensemble whose pairs all have alpha 0 is its base, and nothing else is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from earnest.decoding.distribution import ModelDistribution, NextTokens
from earnest.decoding.ensemble import Ensemble
from earnest.decoding.forward import Forward, Kept
from earnest.decoding.reading import WAYS, Way
from earnest.models.loading import LoadedModel, name_of_dtype

Subject = LoadedModel | Ensemble

NORMALISED = 2**21
"""So many logits are normalised at once."""


@dataclass(frozen=True)
class Pasts:
    """What each reader keeps of the same rows."""

    each: tuple[Kept, ...]

    @property
    def slots(self) -> int:
        """What a row takes in memory, in tokens."""
        return max(past.slots for past in self.each)

    def rows(self, index: Sequence[int]) -> Pasts:
        """A copy with the rows of `index`, in that order; a row may be taken many times."""
        return Pasts(tuple(past.rows(index) for past in self.each))


class Readers:
    """The models of a subject as one: they read the same tokens, and predict together.

    `base` is the subject's base, or the subject itself; `distribution` generates.
    """

    distribution: NextTokens

    def __init__(self, subject: Subject) -> None:
        self._ensemble = subject if isinstance(subject, Ensemble) and len(subject.running) > 1 else None
        if self._ensemble is None:
            self.base = subject.base if isinstance(subject, Ensemble) else subject
            alone = self.distribution = ModelDistribution(self.base)
            members = {0: alone}
        else:
            self.base, self.distribution, members = self._ensemble.base, self._ensemble, self._ensemble.running
        distinct = list(dict.fromkeys(members.values()))
        self.forwards: tuple[Forward, ...] = tuple(member.forward for member in distinct)
        self._place_of = {role: distinct.index(member) for role, member in members.items()}

    @property
    def steered(self) -> bool:
        """Whether other models than the base have a say."""
        return self._ensemble is not None

    @property
    def speakers(self) -> tuple[LoadedModel, ...]:
        """The base, then the models that steer it in the order of `Ensemble.steering`."""
        return (self.base, *(self._ensemble.steering if self._ensemble else ()))

    @property
    def cached(self) -> bool:
        """Whether the past of every model can be kept."""
        return all(forward.cached for forward in self.forwards)

    def side(self, length: int) -> Sequence[tuple[int, int]]:
        """Texts of lengths with equal sides are read alike by every model (`decoding.rope`)."""
        return [forward.switches.side(length) for forward in self.forwards]

    @property
    def way(self) -> Way:
        """The slowest way in which one of the models is read (`decoding.reading`)."""
        return max((forward.way for forward in self.forwards), key=WAYS.index)

    @property
    def shares(self) -> bool:
        """Whether rows of one parent are best read by themselves, because they then share its past."""
        return all(forward.shares for forward in self.forwards)

    @property
    def device(self) -> torch.device:
        """Where predictions are made: where the base lies."""
        return self.forwards[0].device

    @property
    def tokens_forwarded(self) -> int:
        """How many tokens the models have read so far, together, padding not counted."""
        return sum(forward.tokens_forwarded for forward in self.forwards)

    def extend(
        self, tokens: Sequence[Sequence[int]], pasts: Pasts | None, keep: bool
    ) -> tuple[list[Tensor], Pasts | None]:
        """Every model reads `tokens`, one sequence per row, after its past, as `CausalForward.extend` does.

        Returns:
            The hidden states [rows * longest, width] of each model, and the pasts with the new tokens if `keep`.
        """
        befores: Sequence[Kept | None] = [None] * len(self.forwards) if pasts is None else pasts.each
        read = [f.extend(tokens, before, keep) for f, before in zip(self.forwards, befores, strict=True)]
        afters = tuple(past for _, past in read if past is not None)
        return [hidden.flatten(0, 1) for hidden, _ in read], Pasts(afters) if keep else None

    @torch.inference_mode()
    def log_probs(self, hidden: Sequence[Tensor], places: Tensor) -> Tensor:
        """Log-probabilities [places, vocabulary] in float32 of the next token after the `places` of hidden states."""
        logits = [f.logits(h[places.to(h.device)]) for f, h in zip(self.forwards, hidden, strict=True)]
        if self._ensemble is None:
            return normalised(logits[0])
        return normalised(self._ensemble.combine({role: logits[place] for role, place in self._place_of.items()}))


def normalised(logits: Tensor) -> Tensor:
    """Log-probabilities [positions, vocabulary] in the place of logits, some positions at a time: no copy is made."""
    for some in torch.split(logits, max(1, NORMALISED // logits.shape[-1])):
        some.copy_(some.log_softmax(-1))
    return logits


def computed_in(subject: Subject) -> str:
    """The dtypes of a subject's models by name, the base's first: "float32"."""
    models = [subject] if isinstance(subject, LoadedModel) else [subject.lead, *subject.steering]
    loaded = (model for model in models if isinstance(model, LoadedModel))
    return ", ".join(dict.fromkeys(name_of_dtype(model.dtype) for model in loaded))
