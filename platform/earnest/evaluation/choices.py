"""Questions with options: the log-likelihood of each option, and which wins. Multiple choice and MMLU share this."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from earnest.evaluation.engine import Engine, LogLikelihood, Progress
from earnest.evaluation.normal_forms import readable
from earnest.evaluation.samples import Sample
from earnest.evaluation.tokens import requests
from earnest.statistics.reliability import brier


@dataclass(frozen=True)
class ChoiceItem:
    """A question as it is asked: the prompt, what may follow it (with its leading space), and which is right.

    `twins` are the options that say the same as the right one, and are as right; `shown` notes on its demonstrations.
    """

    id: str
    prompt: str
    options: tuple[str, ...]
    answer: int
    domain: str = ""
    stratum: str = ""
    twins: tuple[int, ...] = ()
    shown: tuple[str, ...] = ()
    frequency: float | None = None

    @property
    def gold(self) -> str:
        """The right option."""
        return self.texts[self.answer]

    @property
    def right(self) -> frozenset[int]:
        """The places of the options that are right."""
        return frozenset((self.answer, *self.twins))

    @property
    def notes(self) -> tuple[str, ...]:
        """What is counted of it: of its demonstrations, and that another option says what the right one says."""
        return (*self.shown, *((EQUAL_OPTIONS,) if self.twins else ()))

    @property
    def texts(self) -> tuple[str, ...]:
        """The options without the space that parts them from the prompt."""
        return tuple(option.removeprefix(" ") for option in self.options)


EQUAL_OPTIONS = "equal_options"


def twins(choices: Sequence[str], answer: int) -> tuple[int, ...]:
    """The places of the other choices that say what the right one says, to a reader's eye (`readable`)."""
    said = [readable(choice) for choice in choices]
    return tuple(place for place, text in enumerate(said) if text == said[answer] and place != answer)


Lengths = Callable[[str], int]


def score_options(engine: Engine, items: Sequence[ChoiceItem], progress: Progress | None) -> list[list[LogLikelihood]]:
    """The log-likelihood of every option of every item."""
    asked = requests(engine.tokenizer, [(item.prompt, option) for item in items for option in item.options])
    found = iter(engine.log_likelihoods(asked, progress))
    return [[next(found) for _ in item.options] for item in items]


def best(log_likelihoods: Sequence[float], texts: Sequence[str], length: Lengths | None = None) -> int:
    """The option with the highest log-likelihood, per unit of `length` where one is given; the first of equals."""
    values = np.asarray(log_likelihoods)
    if length is not None:
        values = values / np.maximum([length(text) for text in texts], 1)
    return int(values.argmax())


def choice_sample(item: ChoiceItem, found: Sequence[LogLikelihood], **more: bool | int | float | str | None) -> Sample:
    """What became of an item; it has no score where an option has no log-likelihood.

    The options' probabilities are the softmax of their log-likelihoods, as the answer is chosen. `confidence` is that
    of the chosen one, `brier` the sum over options of (probability − truth)², 0..2, which lm-eval calls brier_score.
    Options that say the same as the right one count as one with it.
    """
    values = tuple(likelihood.value for likelihood in found)
    known = [value for value in values if value is not None]
    whole = len(known) == len(values)
    chosen = best(known, item.texts) if whole else None
    right = None if chosen is None else chosen in item.right
    sure, score = stated(known, item.right) if whole else (None, None)
    return Sample(
        item.id, item.prompt, "" if chosen is None else item.texts[chosen], item.texts[item.answer],
        right, None if right is None else float(right), values,
        any(likelihood.cut for likelihood in found), item.domain, item.stratum,
        {**more, "confidence": sure, "brier": score},
        all(likelihood.finite for likelihood in found),
    )  # fmt: skip


def stated(log_likelihoods: Sequence[float], right: Collection[int]) -> tuple[float, float]:
    """The probability of the likeliest option, and the Brier score of all of them; the `right` ones are one option."""
    values = np.asarray(log_likelihoods)
    weights = np.exp(values - values.max())
    probabilities = weights / weights.sum()
    first = min(right)
    merged = [float(p) for place, p in enumerate(probabilities) if place == first or place not in right]
    merged[first] = float(sum(probabilities[place] for place in right))
    chosen = int(values.argmax())
    sure = merged[first] if chosen in right else float(probabilities[chosen])
    return sure, brier([merged], [first])
