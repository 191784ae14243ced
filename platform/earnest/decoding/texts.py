"""One text in a running batch: what was asked, how far it is, and what it has cost so far."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from earnest.decoding.account import Voice
from earnest.decoding.detokenizing import anchor_of
from earnest.decoding.generation import Prompt, Row, row_of
from earnest.decoding.grammar import Grammars, Guide
from earnest.decoding.logprobs import TokenLogprobs
from earnest.decoding.lookup import Lookup
from earnest.decoding.members import Member
from earnest.decoding.pace import Acceptance
from earnest.decoding.requests import Mixture, Request, Steering, Usage
from earnest.decoding.streaming import TextStream
from earnest.specs import ADAPTIVE


@dataclass(eq=False)
class Text:
    """A request on its way.

    `reads` is what each member reads of the prompt, `answers` its logits [head] about the first token once it has
    read it. While it is written, every member has read all but the last token. `resumed` tells that it was paused
    after it had begun; `turn` is the step in which some of its prompt was read last.
    """

    ticket: int
    request: Request
    mixture: Mixture
    row: Row
    stream: TextStream
    reads: Mapping[str, tuple[int, ...]]
    lookup: Lookup | None
    acceptance: Acceptance = field(default_factory=Acceptance)
    came: float = field(default_factory=time.perf_counter)
    seat: int = -1
    begun: bool = False
    answers: dict[str, Tensor] = field(default_factory=dict)
    cached: int = 0
    drafted: int = 0
    accepted: int = 0
    rounds: int = 0
    seated: float = 0.0
    resumed: bool = False
    turn: int = 0
    scores: list[TokenLogprobs] = field(default_factory=list)
    guide: Guide | None = None
    first: float = 0.0

    @cached_property
    def lead(self) -> str:
        """The member that is steered."""
        return self.mixture.lead

    @cached_property
    def drafter(self) -> str | None:
        """The member that proposes: the first pair's expert."""
        steering = self.mixture.steering
        return steering[0].expert if steering and self.request.draft else None

    @cached_property
    def parts(self) -> tuple[str, tuple[tuple[str, str, bool], ...]]:
        """Lead, and per pair its expert, its antiexpert and if its alpha adapts: what texts mixed at once share."""
        pairs = ((s.expert, s.antiexpert or self.lead, s.alpha == ADAPTIVE) for s in self.mixture.steering)
        return self.lead, tuple(pairs)

    @cached_property
    def fusible(self) -> bool:
        """Whether one pair steers it, and each token is the likeliest or drawn at a temperature, and nothing more."""
        plain = self.request.sampling.plain or self.request.sampling.tempered
        return plain and len(self.mixture.steering) == 1 and self.request.account is None and self.guide is None

    @property
    def voices(self) -> list[Voice]:
        """Who speaks, in the order of a verdict's logits: the lead, then each pair's expert and antiexpert."""
        found = [Voice("base", self.lead, None)]
        for number, (expert, antiexpert, _) in enumerate(self.parts[1]):
            found += [Voice("expert", expert, number), Voice("antiexpert", antiexpert, number)]
        return found

    @property
    def scored(self) -> bool:
        """Whether every token of the prompt is to be scored, so that none of them may be taken as read."""
        return self.request.prompt_logprobs is not None and not self.row.ids

    def take_scores(self) -> tuple[TokenLogprobs, ...]:
        """What is known of the prompt's tokens, once."""
        scores, self.scores = tuple(self.scores), []
        return scores

    @property
    def sound(self) -> bool:
        """Whether all logits that its members gave are finite."""
        return all(bool(logits.amax().isfinite()) for logits in self.answers.values())

    @property
    def admitted(self) -> bool:
        """Whether it has a seat."""
        return self.seat >= 0

    @property
    def left(self) -> int:
        """How many tokens may still be written."""
        return self.request.max_tokens - len(self.row.ids)

    def past(self, name: str) -> tuple[int, ...]:
        """What a member must have read before it goes on: the prompt, and all but the last token written."""
        return (*self.reads[name], *self.row.ids[:-1]) if self.row.ids else self.reads[name]

    def take_seat(self, seat: int) -> None:
        """Come in."""
        self.seat, self.seated = seat, self.seated or time.perf_counter()

    def pause(self) -> None:
        """Make room for another text; what was written stays, and its past is read again later."""
        self.seat, self.resumed = -1, self.begun or self.resumed
        self.begun = False
        self.answers.clear()
        self.scores.clear()

    def begin(self, cached: int) -> None:
        """Begin to be read; `cached` tokens of the lead's prompt were there already."""
        self.begun = True
        if self.resumed:
            return
        self.cached = cached
        if self.lookup is not None:
            self.lookup.grow(self.reads[self.lead])

    def saw(self, proposed: int, right: int) -> None:
        """Count a verification, and learn from it."""
        self.rounds += 1
        self.drafted += proposed
        self.accepted += right
        self.acceptance.saw(proposed, right)

    def wrote(self, fresh: Sequence[int]) -> str:
        """What may be shown now that `fresh` tokens were appended to the row."""
        self.first = self.first or time.perf_counter()
        if self.lookup is not None:
            self.lookup.grow(fresh)
        if self.row.finish is not None:
            return self.stream.finish(self.row.text)
        return self.stream.grow(self.row.ids)

    def usage(self) -> Usage:
        """What it took, now that it has ended."""
        now = time.perf_counter()
        return Usage(
            prompt_tokens=len(self.request.prompt),
            cached_tokens=self.cached,
            completion_tokens=len(self.row.ids),
            drafted=self.drafted,
            accepted=self.accepted,
            rounds=self.rounds,
            seconds_queued=(self.seated or now) - self.came,
            seconds_to_first=(self.first or now) - self.came,
            seconds=now - self.came,
        )


def text_of(ticket: int, request: Request, members: Mapping[str, Member], tokenizer: Any, grammars: Grammars) -> Text:
    """A request before its first token.

    Raises:
        ValueError: a member is unknown, an alpha is not finite, the prompt does not fit, or a setting makes no sense.
    """
    mixture = _checked_mixture(request.mixture, members)
    names = dict.fromkeys(
        [mixture.lead, *(name for s in mixture.steering for name in (s.expert, s.antiexpert) if name)]
    )
    reads = {name: tuple(request.forms.get(name, request.prompt)) for name in names}
    _check_room(request, reads, members)
    if request.account is not None and request.account < 1:
        raise ValueError(f"account {request.account}: show at least one candidate of each model")
    width = max(members[name].vocabulary for name in names)
    beyond = [token for token, _ in request.sampling.logit_bias if token >= width]
    if beyond:
        raise ValueError(f"logit_bias: token {beyond[0]} is not in the vocabulary; ids end at {width - 1}")
    if request.prompt_logprobs is not None and request.forms:
        raise ValueError("prompt_logprobs with forms: members that read different prompts score none together")
    if request.max_tokens < 1 and request.prompt_logprobs is None:
        raise ValueError(
            f"max_tokens {request.max_tokens}: nothing to generate; ask for at least 1, or score the prompt"
        )
    # A text that writes nothing ends before its row would.
    if request.grammar is not None:  # which says itself where the text ends
        request = replace(request, ignore_eos=False, min_tokens=0)
    ends = frozenset(request.stop_token_ids) | (frozenset() if request.ignore_eos else grammars.ends)
    if request.min_tokens:
        late = {"min_tokens": request.min_tokens, "late": tuple(sorted(ends))}
        request = replace(request, sampling=request.sampling.model_copy(update=late))
    prompt = Prompt(
        reads[mixture.lead],
        request.stops,
        max(1, request.max_tokens),
        sampling=request.sampling,
        ends=ends,
        answer=request.answer,
    )
    row = row_of(ticket, prompt, members[mixture.lead].slots + (not request.max_tokens))
    lookup = Lookup() if request.draft and not mixture.steering else None
    guide = None if request.grammar is None else grammars.guide(request.grammar)
    row.anchor = anchor_of(tokenizer, prompt.ids)
    stream = TextStream(tokenizer, request.stops, row.anchor, request.answer)
    return Text(ticket, request, mixture, row, stream, reads, lookup, guide=guide)


def _checked_mixture(mixture: Mixture, members: Mapping[str, Member]) -> Mixture:
    """The mixture without pairs whose alpha is 0: they change nothing and are not run."""
    named = [mixture.lead, *(name for s in mixture.steering for name in (s.expert, s.antiexpert) if name is not None)]
    for name in named:
        if name not in members:
            raise ValueError(f"model {name!r}: is not here; there are {', '.join(members)}")
    for steering in mixture.steering:
        if steering.alpha != ADAPTIVE and not math.isfinite(steering.alpha):
            raise ValueError(f"alpha {steering.alpha} of {steering.expert} is not finite; 1 is the usual one")
    return replace(mixture, steering=tuple(s for s in mixture.steering if _steers(s)))


def _steers(steering: Steering) -> bool:
    return steering.alpha != 0 and steering.expert != steering.antiexpert


def _check_room(request: Request, reads: Mapping[str, Sequence[int]], members: Mapping[str, Member]) -> None:
    for name, tokens in reads.items():
        if not tokens:
            raise ValueError(f"the prompt of {name} is empty; give it at least one token")
        if min(tokens) < 0 or max(tokens) >= members[name].vocabulary:
            wrong = next(token for token in tokens if not 0 <= token < members[name].vocabulary)
            raise ValueError(
                f"token {wrong} is not in the vocabulary of {name}; ids end at {members[name].vocabulary - 1}"
            )
        if len(tokens) + request.max_tokens > members[name].slots:
            raise ValueError(
                f"the prompt's {len(tokens)} tokens and max_tokens {request.max_tokens} are beyond the "
                f"{members[name].slots} tokens that {name} holds; shorten the prompt or ask for fewer"
            )
