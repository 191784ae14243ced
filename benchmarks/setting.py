"""What the parts of `proxy_decode` share: models, prompts, mixtures, and how runs become rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property

from allowed import RecordedEngine
from earnest.almanac import questions
from earnest.almanac.questions import Question
from earnest.almanac.world import World
from earnest.decoding.encoding import encode
from earnest.decoding.requests import Mixture, Steering
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from rows import Row, row
from runs import Engine, Prompts, Run

MOST = 128
"""Tokens of a text at most."""
BASE = Mixture("large")
PROXY = Mixture("large", (Steering("small-tuned", "small"),))
TASKS = {
    "biographies": questions.biographies,
    "summaries": questions.summaries,
    "open book": questions.open_book,
    "closed book": questions.closed_book,
    "zero-shot": questions.zero_shot,
}


class Setting:
    """The nano family in float32; `texts` prompts in each of `repeat` repetitions, by the clock `wall` or `cpu`."""

    def __init__(self, repeat: int, texts: int, clock: str) -> None:
        self.repeat, self.texts, self.clock = repeat, texts, clock
        names = ("large", "large-tuned", "medium", "small", "small-tuned")
        self.models: Mapping[str, LoadedModel] = {
            name: load(resolve(f"nano:{name}"), dtype="float32") for name in names
        }

    @cached_property
    def ensemble(self) -> Mapping[str, LoadedModel]:
        """Base, expert and antiexpert."""
        return {name: self.models[name] for name in ("large", "small-tuned", "small")}

    @cached_property
    def alone(self) -> Engine:
        """A batch of one text, of all models."""
        return Engine.here(self.models, 1)

    @cached_property
    def choices(self) -> Mapping[str, RecordedEngine]:
        """Ways of drafting, a batch of one text each: by the clock, and of so many tokens."""
        return {how: RecordedEngine(self.models, 1, n) for how, n in (("clock", None), ("4", 4), ("8", 8))}

    @cached_property
    def batched(self) -> Engine:
        """A batch that holds all texts of a repetition, of the ensemble."""
        return Engine.here(self.ensemble, self.texts)

    def asked(self, task: str, number: int) -> Prompts:
        """The prompts of one repetition; no two have the same, so that no cache knows them."""
        return self.encoded(self.prompts(task, number, self.texts))

    def prompts(self, task: str, number: int, count: int) -> list[str]:
        """The same as text, and as many as are wanted."""
        found = self._questions(task, count * (self.repeat + 1))
        return [question.prompt for question in found[number * count : (number + 1) * count]]

    @cache  # noqa: B019 - a setting lives as long as the program
    def _questions(self, task: str, count: int) -> Sequence[Question]:
        return TASKS[task](World.shipped(), count, 7)

    def encoded(self, prompts: Sequence[str]) -> Prompts:
        """Texts as token ids."""
        return [tuple(ids) for ids in encode(self.models["large"].tokenizer, prompts)]

    def rates(
        self,
        work: str,
        ours: Sequence[Run],
        peer: Sequence[Run] | None = None,
        allowed: Sequence[float] | None = None,
    ) -> Row:
        """Tokens per second."""
        theirs = peer and [run.rate(self.clock) for run in peer]
        return row(work, [run.rate(self.clock) for run in ours], theirs, "tokens/s", allowed)


def drafting(work: str, runs: Sequence[Run]) -> Iterator[Row]:
    """How proposals fared."""
    yield row(f"{work}: proposals accepted", [run.accepted / max(1, run.drafted) for run in runs], unit="share")
    yield row(f"{work}: proposals per round", [run.drafted / run.rounds for run in runs], unit="tokens")
    yield row(f"{work}: drafting steps per text and round", [run.steps / run.rounds for run in runs], unit="steps")
    yield row(f"{work}: tokens per round", [run.tokens / run.rounds for run in runs], unit="tokens")
