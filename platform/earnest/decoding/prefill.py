"""Reading prompts between the steps of a running batch: some tokens at a time, owners in turn, beginnings once.

Where every token of a prompt is scored, all of them are read, whatever the prefix cache holds.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from earnest.decoding.logprobs import Likeliest, TokenLogprobs, scored
from earnest.decoding.members import Member, stretches
from earnest.decoding.rounds import Answers, Rounds, Thoughts
from earnest.decoding.seats import LEAST_COPIED, Seats, shared
from earnest.decoding.texts import Text

SCORED_BYTES, LEAST_SCORED = 1 << 26, 16
"""Of a member's logits in one step where all tokens of a prompt are scored; and so many tokens at least."""


class Prefill:
    """The texts whose prompts are unread; `prompt_tokens` and `cached_tokens` count what was begun, and found read.

    Args:
        members: who reads.
        seats: where the texts sit.
        rounds: mixes what members say of a prompt.
        budget: tokens that are read between two steps.
        width: of the mixed logits.
    """

    def __init__(self, members: Mapping[str, Member], seats: Seats, rounds: Rounds, *, budget: int, width: int) -> None:
        self._members, self._seats, self._rounds, self._budget = members, seats, rounds, budget
        self._most_scored = max(LEAST_SCORED, SCORED_BYTES // (4 * width))
        self._step = 0
        self.texts: list[Text] = []
        self.prompt_tokens = self.cached_tokens = 0

    def read(self) -> list[Text]:
        """Read some tokens of the prompts whose turn it is; the texts that are read to their end."""
        work = self._due()
        under_way = []
        for name, pieces in work.items():
            for every in (False, True):  # logits of every token where all are scored, of the last one otherwise
                of = {text: piece for text, piece in pieces.items() if text.scored is every}
                if of:
                    rows, starts = self._seats.places(name, [text.seat for text in of])
                    pending = self._members[name].read(rows, starts, list(of.values()), last=not every)
                    under_way.append((name, of, pending))
        whole: dict[Text, Answers] = defaultdict(dict)
        for name, of, pending in under_way:
            logits = pending.result()  # [texts or tokens, head]
            ends = [part.stop - 1 for part in stretches(len(piece) if text.scored else 1 for text, piece in of.items())]
            for end, (text, piece) in zip(ends, of.items(), strict=True):
                if text.scored:
                    whole[text][name] = Thoughts.of(logits[end + 1 - len(piece) : end + 1], {text: len(piece)})
                sound = bool(logits[end].amax().isfinite())  # what is not is wiped, and is an answer at once
                self._seats.known(name, text.seat).extend(piece if sound else ())
                if not sound or not self._unread(text, name):
                    text.answers[name] = logits[end]
        for text, answers in whole.items():
            self._score(text, answers)
        ready = [text for text in self.texts if len(text.answers) == len(text.reads)]
        self.texts = [text for text in self.texts if text not in ready]
        return ready

    def _due(self) -> dict[str, dict[Text, tuple[int, ...]]]:
        """What each member reads next of each prompt: as much as the limit allows, first come, first served."""
        budget = self._budget
        work: dict[str, dict[Text, tuple[int, ...]]] = defaultdict(dict)
        self._step += 1
        for text in _in_turn(self.texts):
            if budget <= 0:
                break
            if not text.begun:
                if self._has_a_twin_ahead(text):
                    continue
                self._begin(text)
            most = min(budget, self._most_scored) if text.scored else budget
            pieces = {name: self._unread(text, name)[:most] for name in text.reads if name not in text.answers}
            budget -= max(map(len, pieces.values()))
            text.turn = self._step
            for name, piece in pieces.items():
                if piece:
                    work[name][text] = piece
        return work

    def _has_a_twin_ahead(self, text: Text) -> bool:
        """Whether another text is about to read much of what this one begins with: then it waits and copies."""
        if text.scored:
            return False
        mine = text.past(text.lead)
        others = (other.past(other.lead) for other in self.texts if other.begun and other.lead == text.lead)
        promised = min(max((shared(theirs, mine) for theirs in others), default=0), len(mine) - 1)
        return promised >= LEAST_COPIED and promised >= self._seats.most_shared(text.lead, mine) + LEAST_COPIED

    def _begin(self, text: Text) -> None:
        end = 1 if text.scored else None
        held = {name: self._seats.begin(name, text.seat, text.past(name)[:end]) for name in text.reads}
        text.begin(held[text.lead])
        if text.resumed:
            return
        self.prompt_tokens += len(text.reads[text.lead])
        self.cached_tokens += text.cached

    def _score(self, text: Text, answers: Answers) -> None:
        """Note what the mixture knows of the tokens behind those that all members have just read."""
        count, prompt = text.request.prompt_logprobs, text.reads[text.lead]
        if count is None or len(answers) < len(text.reads):  # some member's logits were not finite: the text ends
            return
        if not text.scores:
            nothing = Likeliest(math.nan, ())
            text.scores.append(TokenLogprobs(prompt[0], nothing, nothing))
        logits = self._rounds.mixed(text, answers)
        begin = len(text.scores)
        following = prompt[begin : begin + len(logits)]
        text.scores += scored(logits[: len(following)], following, count)

    def _unread(self, text: Text, name: str) -> tuple[int, ...]:
        return text.past(name)[len(self._seats.known(name, text.seat)) :]


def _in_turn(texts: Sequence[Text]) -> list[Text]:
    """Texts so that each owner has one before any has two, and who was served last comes behind who was not."""
    seen: Counter[str] = Counter()
    numbers = []
    for text in sorted(texts, key=lambda text: text.turn):
        numbers.append((seen[text.request.owner], text))
        seen[text.request.owner] += 1
    return [text for _, text in sorted(numbers, key=lambda pair: pair[0])]
