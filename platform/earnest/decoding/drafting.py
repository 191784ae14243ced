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
from earnest.decoding.noise import drawn_tempered
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


@dataclass(slots=True)
class Draft:
    """One row being drafted.

    `text` is the end of what it has, its last token unread; `guesses` are to be read behind that, `tokens` are proposed
    so far, `kinds` is how they came about, and `chance` that all of them and the unread one are right. `found` tells
    where the logits after each token lie among all that count. The unread token is a proposal, too, but for the first.
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
    def room(self) -> int:
        """How many guesses may be read."""
        return self.wanted.count - len(self.tokens) - bool(self.found) if self.guessing else 0

    @property
    def draws(self) -> list[Draw]:
        """The places behind the unread token and behind each guess."""
        written = (*self.wanted.written, *self.tokens, *(self.text[-1:] if self.found else ()), *self.guesses)
        first = len(written) - len(self.guesses)
        return [Draw(self.sampling, self.wanted.prompt, written[:end]) for end in range(first, len(written) + 1)]

    @property
    def places(self) -> list[tuple[int, int]]:
        """What decides the noise of these."""
        first = len(self.wanted.written) + len(self.tokens) + bool(self.found)
        return [(self.sampling.seed, at) for at in range(first, first + 1 + len(self.guesses))]

    @property
    def own(self) -> Kind:
        """How a proposal comes about that was not guessed."""
        return "own" if self.sampling.plain else "drawn"

    def take(self, chosen: Sequence[int], right: int, found: int, rates: Mapping[Kind, float]) -> None:
        """Take what was chosen behind the `right` guesses, its logits from `found` on."""
        own = self.own
        if self.found:
            self.tokens.append(self.text[-1])
            self.kinds.append(own)
        if right:
            self.tokens += self.guesses[:right]
            self.kinds += ["guessed"] * right
            self.chance *= rates["guessed"] ** right
        self.chance *= rates[own]
        self.found += range(found, found + 1 + right)
        self.position += 1 + right
        self.text += chosen[: 1 + right]

    @property
    def goes_on(self) -> bool:
        """Whether another token is to be read."""
        wanted, last = self.wanted, self.text[-1]
        if not self.found:
            return True
        likely = len(self.tokens) < wanted.count and self.chance >= wanted.least_chance
        return likely and last != NO_TOKEN and last not in wanted.ends


_SURE = Wanted(0, Sampling(), (), ())


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
            self._judge([row], [start], [_SURE])
        past.text[start:] = tokens

    def copied(self, source: int, target: int, count: int) -> None:
        """Remember that row `target` begins with the first `count` tokens of row `source`."""
        self._pasts[target] = Past(self._pasts[source].text[:count])

    def draft(self, rows: Sequence[int], starts: Sequence[int], wanted: Sequence[Wanted]) -> Drafted:
        """Read each row's last written token, propose, and read the proposals too; see `members.Member.draft`.

        A row whose logits are not finite gets no further proposals, and is wiped from there on. When most rows are
        done, the others are: a step for one of them takes nearly as long as one for all.
        """
        self._judge(rows, starts, wanted)
        drafts = [self._begun(*row) for row in zip(rows, starts, wanted, strict=True)]
        rates = {kind: acceptance.rate for kind, acceptance in self._right.items()}
        kept: list[Tensor] = []
        active, counted, steps = drafts, 0, 0
        while 2 * len(active) >= len(drafts) or not all(draft.found for draft in active):
            self._guess(active)
            places = [draft.row for draft in active], [draft.position for draft in active]
            logits = self._decoder.read(*places, [(draft.text[-1], *draft.guesses) for draft in active])
            counts: list[int] = []
            begin, chosen = 0, _chosen(active, logits)
            for draft, tokens, right in zip(active, chosen, self._rights(active, chosen), strict=True):
                if self._is_sound(draft, tokens):
                    draft.take(tokens, right, counted + len(counts), rates)
                    counts += range(begin, begin + 1 + right)
                begin += len(tokens)
            kept.append(picked(logits, counts))
            counted, steps = counted + len(counts), steps + 1
            active = [draft for draft in active if draft.goes_on]
        for draft, start in zip(drafts, starts, strict=True):
            past = self._pasts[draft.row]
            past.text[start + 1 :] = draft.tokens
            past.proposed += [draft.own, *draft.kinds] if draft.wanted.unsure else draft.kinds
        every = torch.cat(kept) if steps > 1 else kept[0]
        logits = picked(every, drafts[0].found if len(drafts) == 1 else [n for draft in drafts for n in draft.found])
        following = tuple([draft.text[-1] for draft in drafts])
        return Drafted(tuple([tuple(draft.tokens) for draft in drafts]), logits, steps, following)

    def _judge(self, rows: Sequence[int], starts: Sequence[int], wanted: Sequence[Wanted]) -> None:
        """Learn which proposals were right, now that texts go on at `starts`; their last `unsure` tokens stay open.

        With nothing open, what was proposed for the position where a text goes on, if anything, was refused.
        """
        decided: list[Kind] = []
        rights: list[Kind] = []
        settled = False
        for row, start, want in zip(rows, starts, wanted, strict=True):
            past, until = self._pasts[row], start + 1 - want.unsure
            kinds = past.proposed[: max(0, until - past.begin)]
            decided += kinds
            rights += kinds[: until - past.begin - (not want.unsure)]
            settled |= not want.unsure
            past.begin, past.proposed = until, past.proposed[len(kinds) :] if want.unsure else []
        if decided or settled:  # where all is still open, there is nothing to learn and nothing to fade
            for kind, acceptance in self._right.items():
                acceptance.counted(decided.count(kind), rights.count(kind))

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
            guesses, ends = follow(draft.text, tables, min(reach, draft.room)), draft.wanted.ends
            if guesses and not ends.isdisjoint(guesses):
                guesses = guesses[: next(number for number, token in enumerate(guesses) if token in ends)]
            draft.guesses = guesses

    def _rights(self, drafts: Sequence[Draft], chosen: Sequence[Sequence[int]]) -> list[int]:
        """How many guesses of each draft were right, which is learnt."""
        tried, rights = 0, list[int]()
        for draft, tokens in zip(drafts, chosen, strict=True):
            right = shared(draft.guesses, tokens)
            tried += min(len(draft.guesses), right + 1)
            rights.append(right)
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
    parts = [*stretches([1 + len(draft.guesses) for draft in drafts])]
    if all(draft.sampling.tempered for draft in drafts):
        temperatures = [draft.sampling.temperature for draft in drafts for _ in range(1 + len(draft.guesses))]
        tokens = drawn_tempered(logits, temperatures, [place for draft in drafts for place in draft.places])
        return [tokens[part] for part in parts]
    plain = likeliest(logits).tolist()
    chosen: list[list[int]] = [plain[part] for part in parts]
    drawn = [number for number, draft in enumerate(drafts) if not draft.sampling.plain]
    if drawn:
        own = picked(logits, [*chain.from_iterable(range(parts[n].start, parts[n].stop) for n in drawn)])
        tokens, _ = choose(own, [draw for number in drawn for draw in drafts[number].draws])
        for number, part in zip(drawn, stretches(len(chosen[number]) for number in drawn), strict=True):
            chosen[number] = tokens[part]
    return chosen
