"""A member proposes what the mixture may write: its own next tokens, several in a step where it can guess them.

What was read before often tells what a member will write next (`lookup`). Such guesses are read behind the last token,
and are proposed as far as the member itself would have written them: its proposals are the same as without, in fewer
steps. It is prompt look-up as the drafter's own drafter, with a memory of other texts as in SuffixDecoding (Oliaro et
al. 2024, arXiv 2411.04975).

How far a row is drafted follows from what came of earlier proposals. One that was guessed, too, is nearly always right;
one that was not is where an expert and its mixture part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from math import log
from typing import Literal, Protocol

import torch
from torch import Tensor

from earnest.decoding.lookup import LENGTH, Phrases, follow
from earnest.decoding.members import Drafted, Wanted, picked, stretches
from earnest.decoding.pace import Acceptance
from earnest.decoding.sampling import NO_TOKEN, Draw, Sampling, choose, likeliest
from earnest.decoding.seats import shared

Kind = Literal["own", "drawn", "guessed"]
"""How a proposal came about: as the member's likeliest token, as a sample, or as its likeliest and a guess, too."""

MOST_GUESSED = 12
MOST_READ = 128
"""So many tokens of all rows together are read in a step that guesses."""
LIKELY = 0.25
"""Guesses are read as long as all of them are right with this chance."""


class Readable(Protocol):
    """What holds the texts: a decoder."""

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """As `members.Member.read`."""

    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""


@dataclass
class Past:
    """What one row holds, how much of it was learnt, and which kinds of proposals went where, from `begin` on."""

    text: list[int] = field(default_factory=list)
    phrases: Phrases = field(default_factory=Phrases)
    learnt: int = 0
    begin: int = 0
    proposed: list[Kind] = field(default_factory=list)


@dataclass
class Draft:
    """One row being drafted.

    `text` is the end of what it has, its last token unread; `guesses` are to be read behind that, `tokens` are proposed
    so far, `kinds` is how they came about, and `chance` that all of them and the unread one are right. `found` tells
    where the logits after each token lie among all that count.
    """

    row: int
    position: int
    wanted: Wanted
    sampling: Sampling
    text: list[int]
    guesses: tuple[int, ...] = ()
    tokens: list[int] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)
    chance: float = 1.0
    found: list[int] = field(default_factory=list)
    guessing: bool = True

    @property
    def unread(self) -> tuple[int, ...]:
        """The token to be read next where it is a proposal; the first one is not."""
        return (self.text[-1],) if self.found else ()

    @property
    def room(self) -> int:
        """How many guesses may be read."""
        return self.wanted.count - len(self.tokens) - len(self.unread) if self.guessing else 0

    @property
    def draws(self) -> list[Draw]:
        """The places behind the unread token and behind each guess."""
        written = (*self.wanted.written, *self.tokens, *self.unread, *self.guesses)
        first = len(written) - len(self.guesses)
        return [Draw(self.sampling, self.wanted.prompt, written[:end]) for end in range(first, len(written) + 1)]

    @property
    def own(self) -> Kind:
        """How a proposal comes about that was not guessed."""
        return "own" if self.sampling.plain else "drawn"

    def take(self, chosen: Sequence[int], right: int, found: int, rates: Mapping[Kind, float]) -> None:
        """Take what was chosen behind the `right` guesses, its logits from `found` on."""
        self.kinds += [self.own] * len(self.unread) + ["guessed"] * right
        self.tokens += [*self.unread, *self.guesses[:right]]
        self.found += range(found, found + 1 + right)
        self.position += 1 + right
        self.text += chosen[: 1 + right]
        self.chance *= rates["guessed"] ** right * rates[self.own]

    @property
    def goes_on(self) -> bool:
        """Whether another token is to be read."""
        wanted = len(self.tokens) < self.wanted.count and self.chance >= self.wanted.least_chance
        return not self.found or (wanted and self.text[-1] != NO_TOKEN and self.text[-1] not in self.wanted.ends)


class Drafter:
    """Proposes for the rows of a decoder, and remembers what was read in them."""

    def __init__(self, decoder: Readable, rows: int) -> None:
        self._decoder = decoder
        self._pasts = [Past() for _ in range(rows)]
        self._phrases = Phrases()
        self._guessed = Acceptance()
        self._right: dict[Kind, Acceptance] = {"own": Acceptance(), "drawn": Acceptance(), "guessed": Acceptance()}

    def saw(self, row: int, start: int, tokens: Sequence[int]) -> None:
        """Remember that a row holds `tokens` from position `start` on, and nothing behind."""
        past = self._pasts[row]
        if start < past.learnt:  # another text
            self._pasts[row] = Past([*past.text[:start], *tokens])
            return
        if past.proposed:
            self._judge([past], [start], [0])
        past.text[start:] = tokens

    def copied(self, source: int, target: int, count: int) -> None:
        """Remember that row `target` begins with the first `count` tokens of row `source`."""
        self._pasts[target] = Past(self._pasts[source].text[:count])

    def draft(self, rows: Sequence[int], starts: Sequence[int], wanted: Sequence[Wanted]) -> Drafted:
        """Read each row's last written token, propose, and read the proposals too; see `members.Member.draft`.

        A row whose logits are not finite gets no further proposals, and is wiped from there on. When most rows are
        done, the others are: a step for one of them takes nearly as long as one for all.
        """
        self._judge([self._pasts[row] for row in rows], starts, [want.unsure for want in wanted])
        drafts = [self._begun(*row) for row in zip(rows, starts, wanted, strict=True)]
        rates = {kind: acceptance.rate for kind, acceptance in self._right.items()}
        kept: list[Tensor] = []
        active, counted, steps = drafts, 0, 0
        while 2 * len(active) >= len(drafts) or not all(draft.found for draft in active):
            self._guess(active)
            places = [draft.row for draft in active], [draft.position for draft in active]
            logits = self._decoder.read(*places, [(draft.text[-1], *draft.guesses) for draft in active])
            chosen = _chosen(active, logits)
            rights, counts = self._rights(active, chosen), list[int]()
            for draft, tokens, right, part in zip(active, chosen, rights, stretches(map(len, chosen)), strict=True):
                if self._is_sound(draft, tokens):
                    draft.take(tokens, right, counted + len(counts), rates)
                    counts += range(part.start, part.start + 1 + right)
            kept.append(picked(logits, counts))
            counted, steps = counted + len(counts), steps + 1
            active = [draft for draft in active if draft.goes_on]
        for draft, start in zip(drafts, starts, strict=True):
            past = self._pasts[draft.row]
            past.text[start + 1 :] = draft.tokens
            past.proposed += [draft.own] * bool(draft.wanted.unsure) + draft.kinds
        every, found = torch.cat(kept) if steps > 1 else kept[0], chain.from_iterable(draft.found for draft in drafts)
        logits = picked(every, [*found])
        following = tuple(draft.text[-1] for draft in drafts)
        return Drafted(tuple(tuple(draft.tokens) for draft in drafts), logits, steps, following)

    def _judge(self, pasts: Sequence[Past], starts: Sequence[int], unsure: Sequence[int]) -> None:
        """Learn which proposals were right, now that texts go on at `starts`; their last `unsure` tokens stay open.

        With nothing open, what was proposed for the position where a text goes on, if anything, was refused.
        """
        sure = [start + 1 - of for start, of in zip(starts, unsure, strict=True)]
        decided = [past.proposed[: max(0, until - past.begin)] for past, until in zip(pasts, sure, strict=True)]
        rights = [
            kinds[: until - past.begin - (not of)]
            for past, until, of, kinds in zip(pasts, sure, unsure, decided, strict=True)
        ]
        if any(decided) or not all(unsure):  # where all is still open, there is nothing to learn and nothing to fade
            for kind, acceptance in self._right.items():
                acceptance.counted(*(sum(kinds.count(kind) for kinds in each) for each in (decided, rights)))
        for past, until, of, kinds in zip(pasts, sure, unsure, decided, strict=True):
            past.begin, past.proposed = until, past.proposed[len(kinds) :] if of else []

    def _begun(self, row: int, start: int, wanted: Wanted) -> Draft:
        """A row's draft; how its text went on is learnt, as far as that is sure and was read."""
        past = self._pasts[row]
        del past.text[start:]
        known = start - wanted.unsure
        for phrases in (past.phrases, self._phrases):
            phrases.learn(past.text, past.learnt, known)
        past.learnt = known
        past.text += wanted.written[-1:]
        sampling = wanted.sampling if wanted.sampling.plain else _silent(wanted.sampling)
        return Draft(row, start, wanted, sampling, past.text[-LENGTH:])

    def _guess(self, drafts: Sequence[Draft]) -> None:
        """Guess what each row says next, as far as that is likely to be right, and a step stays small."""
        reach = min(MOST_GUESSED, MOST_READ // len(drafts) - 1, int(log(LIKELY) / log(min(self._guessed.rate, 0.999))))
        others = self._phrases.tables
        for draft in drafts:
            tables = self._pasts[draft.row].phrases.tables + others
            guesses = follow(draft.text, tables, min(reach, draft.room))
            ending = (number for number, token in enumerate(guesses) if token in draft.wanted.ends)
            draft.guesses = guesses[: next(ending, None)]

    def _rights(self, drafts: Sequence[Draft], chosen: Sequence[Sequence[int]]) -> list[int]:
        """How many guesses of each draft were right, which is learnt."""
        rights = [shared(draft.guesses, tokens) for draft, tokens in zip(drafts, chosen, strict=True)]
        tried = sum(min(len(draft.guesses), right + 1) for draft, right in zip(drafts, rights, strict=True))
        self._guessed.counted(tried, sum(rights))
        return rights

    def _is_sound(self, draft: Draft, chosen: Sequence[int]) -> bool:
        """Whether what was read counts. A guess that breaks the model breaks what is read before it, too.

        Then the row is wiped and read again without. Where no guess is to blame it stays wiped, and is at its end.
        """
        if NO_TOKEN not in chosen:
            return True
        self._decoder.clear(draft.row, draft.position)
        draft.guessing = False
        return not draft.guesses


@lru_cache(maxsize=256)
def _silent(sampling: Sampling) -> Sampling:
    """The same choices, with nothing to report of them."""
    return Sampling.model_validate(sampling.model_dump(exclude={"logprobs"}))


def _chosen(drafts: Sequence[Draft], logits: Tensor) -> list[list[int]]:
    """What each row's settings choose after the tokens that were read, from logits [tokens, vocabulary]."""
    plain, parts = likeliest(logits).tolist(), [*stretches(1 + len(draft.guesses) for draft in drafts)]
    chosen: list[list[int]] = [plain[part] for part in parts]
    drawn = [number for number, draft in enumerate(drafts) if not draft.sampling.plain]
    if drawn:
        own = picked(logits, [*chain.from_iterable(range(parts[n].start, parts[n].stop) for n in drawn)])
        tokens, _ = choose(own, [draw for number in drawn for draw in drafts[number].draws])
        for number, part in zip(drawn, stretches(len(chosen[number]) for number in drawn), strict=True):
            chosen[number] = tokens[part]
    return chosen
