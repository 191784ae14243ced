"""Decoding measured: what one run wrote and took, our engine as such runs, and runs of several engines in turn.

Seconds are the wall's, or, on a machine that is busy with other work, those of this thread on a processor: what the
wall would say if nobody else were there. Both are kept of every run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from earnest.decoding.batcher import Batcher, Limits
from earnest.decoding.local import LocalMember
from earnest.decoding.members import Member
from earnest.decoding.requests import Chunk, Mixture, Request, Usage
from earnest.decoding.sampling import GREEDY, Sampling
from earnest.models.loading import LoadedModel

SLOTS = 512
Prompts = Sequence[tuple[int, ...]]


@dataclass(frozen=True)
class Seconds:
    """On the wall, and of this thread on a processor."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Seconds:
        """Since some beginning."""
        return cls(time.perf_counter(), time.thread_time())

    @classmethod
    def before(cls) -> Seconds:
        """The same where work begins: asking for a processor's time takes some of the wall's, not the work's."""
        cpu = time.thread_time()
        return cls(time.perf_counter(), cpu)

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall + other.wall, self.cpu + other.cpu)

    def __sub__(self, other: Seconds) -> Seconds:
        return Seconds(self.wall - other.wall, self.cpu - other.cpu)


@dataclass(frozen=True)
class Run:
    """Some texts, and what they took; tokens include the newline that ended a text. `steps` are those of drafters.

    `first` is how many seconds of the wall each text took to its first token.
    """

    texts: tuple[str, ...]
    tokens: int
    seconds: Seconds
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    steps: int = 0
    first: tuple[float, ...] = ()

    def rate(self, clock: str) -> float:
        """Tokens per second of the clock `wall` or `cpu`."""
        return self.tokens / float(getattr(self.seconds, clock))


Work = Callable[[int], Run]
"""A piece of work by its number: each repetition has other prompts, so that no cache knows them."""


def timed(texts: Callable[[], tuple[Sequence[str], int]]) -> Run:
    """A run of something that returns texts and their number of tokens."""
    began = Seconds.before()
    written, tokens = texts()
    return Run(tuple(written), tokens, Seconds.now() - began)


def in_turn(works: Mapping[str, Work], repeat: int) -> dict[str, list[Run]]:
    """`repeat` runs of each, in turn, so that a busy machine is as busy for all; a first one is not counted."""
    runs: dict[str, list[Run]] = {name: [] for name in works}
    for number in range(repeat + 1):
        for name, work in works.items():
            run = work(number)
            if number:
                runs[name].append(run)
    return runs


class Engine:
    """A running batch over some members, which proposes so many tokens at once; None lets it choose."""

    def __init__(self, members: Sequence[Member], tokenizer: Any, proposals: int | None = None) -> None:
        limits = Limits(proposals=proposals)
        self.batch = Batcher(members, tokenizer, ends=frozenset({tokenizer.eos_token_id}), limits=limits)

    @classmethod
    def here(cls, models: Mapping[str, LoadedModel], rows: int, proposals: int | None = None) -> Engine:
        """Of `rows` texts, over models in this process."""
        members = [LocalMember(name, model, rows=rows, slots=SLOTS) for name, model in models.items()]
        return cls(members, next(iter(models.values())).tokenizer, proposals)

    def run(
        self, prompts: Prompts, mixture: Mixture, most: int, *, sampling: Sampling = GREEDY, draft: bool = True
    ) -> Run:
        """All prompts at once, each to its newline."""
        asked = [Request(ids, mixture, most, ("\n",), sampling, draft=draft) for ids in prompts]
        before = self.batch.gauges().drafting_steps
        began = Seconds.before()
        chunks = self._chunks(asked)
        seconds = Seconds.now() - began
        used: list[Usage] = [of[-1].usage for of in chunks if of[-1].usage is not None]
        return Run(
            tuple("".join(chunk.text for chunk in of) for of in chunks),
            sum(usage.completion_tokens for usage in used),
            seconds,
            sum(usage.rounds for usage in used),
            sum(usage.drafted for usage in used),
            sum(usage.accepted for usage in used),
            self.batch.gauges().drafting_steps - before,
            tuple(usage.seconds_to_first for usage in used),
        )

    def one_by_one(
        self, prompts: Prompts, mixture: Mixture, most: int, *, sampling: Sampling = GREEDY, draft: bool = True
    ) -> Run:
        """The prompts one after the other."""
        return together([self.run([ids], mixture, most, sampling=sampling, draft=draft) for ids in prompts])

    def _chunks(self, requests: Sequence[Request]) -> list[list[Chunk]]:
        tickets = [self.batch.submit(request) for request in requests]
        found: dict[int, list[Chunk]] = {ticket: [] for ticket in tickets}
        while not self.batch.idle:
            for ticket, chunk in self.batch.step():
                found[ticket].append(chunk)
        return [found[ticket] for ticket in tickets]


def together(runs: Sequence[Run]) -> Run:
    """Several runs as one."""
    return Run(
        tuple(text for run in runs for text in run.texts),
        sum(run.tokens for run in runs),
        sum((run.seconds for run in runs), Seconds(0.0, 0.0)),
        sum(run.rounds for run in runs),
        sum(run.drafted for run in runs),
        sum(run.accepted for run in runs),
        sum(run.steps for run in runs),
        tuple(first for run in runs for first in run.first),
    )
