"""Continuous batching: texts join and leave a running batch between its steps, and each has its own mixture of models.

A step moves every running text on (`rounds`), reads some of the prompts that are unread, and lets waiting texts in.
What a text gets does not depend on its company. Where it sits belongs to `seats`, who is next to `fair_queue`.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch

from earnest.decoding.account import TokenAccount, accounts
from earnest.decoding.fair_queue import FairQueue, overfull
from earnest.decoding.generation import Reader
from earnest.decoding.grammar import Grammars
from earnest.decoding.members import Member, MemberLostError
from earnest.decoding.mixing import Mixer
from earnest.decoding.pace import Acceptance
from earnest.decoding.prefill import Prefill
from earnest.decoding.requests import Chunk, QueueFullError, Request
from earnest.decoding.rounds import Rounds, Thoughts, Verdict, grouped
from earnest.decoding.sampling import NO_TOKEN
from earnest.decoding.seats import Seats
from earnest.decoding.texts import Text, text_of

MOST_TO_WAIT_S = 60.0


@dataclass(frozen=True)
class Limits:
    """What bounds a batch: texts waiting at most, and tokens of prompts read between two steps.

    Texts for which a seat is free do not count as waiting, and of a full queue each owner may have an equal share.
    `proposals` fixes how many tokens are proposed at once; None follows the clock and what is accepted.
    """

    waiting: int = 256
    prefill: int = 512
    proposals: int | None = None


@dataclass(frozen=True)
class Gauges:
    """How a batch stands: what it holds now, and what it did since it began."""

    running: int
    waiting: int
    rows: int
    kv_bytes_used: int
    kv_bytes: int
    rounds: int
    tokens: int
    drafted: int
    accepted: int
    drafting_steps: int
    prompt_tokens: int
    cached_tokens: int


class Batcher:
    """A running batch over some members. `submit` and `cancel` may be called from any thread, `step` from one.

    Args:
        members: the models, all of one vocabulary.
        tokenizer: theirs.
        ends: the tokens that end a text.
        limits: how much may wait, and how much is read at once.
    """

    def __init__(
        self, members: Sequence[Member], tokenizer: Any, *, ends: frozenset[int], limits: Limits | None = None
    ) -> None:
        self._members: Mapping[str, Member] = {member.name: member for member in members}
        self._tokenizer, self._grammars = tokenizer, Grammars(tokenizer, ends)
        self._limits = limits or Limits()
        self._seats = Seats(self._members)
        mixer = Mixer(tokenizer, [member.vocabulary for member in members])
        self._reader = Reader(tokenizer, ends)
        self._rounds = Rounds(
            self._members, self._seats, mixer,
            ends=ends, closing=self._reader.closing, proposals=self._limits.proposals,
        )  # fmt: skip
        self._prefill = Prefill(
            self._members, self._seats, self._rounds, budget=self._limits.prefill, width=mixer.width
        )
        self._usual: dict[str, Acceptance] = defaultdict(Acceptance)
        self._lock = threading.Lock()
        self._tickets = count(1)
        self._queue: FairQueue[Text] = FairQueue()
        self._texts: dict[int, Text] = {}
        self._cancelled: set[int] = set()
        self._writing: list[Text] = []
        self._lost: MemberLostError | None = None
        self._done: dict[str, int] = dict.fromkeys(("rounds", "tokens", "drafted", "accepted"), 0)

    def submit(self, request: Request) -> int:
        """Take a request; its ticket.

        Raises:
            QueueFullError: too many wait.
            MemberLostError: a member is gone, and this batch with it.
            ValueError: the request cannot be served: unknown member, prompt longer than the rows, bad settings.
        """
        text = text_of(next(self._tickets), request, self._members, self._tokenizer, self._grammars)
        with self._lock:
            if self._lost is not None:
                raise MemberLostError(str(self._lost))
            # Nobody is shut out by what others have in the queue.
            if self._queue.full(request.owner, self._limits.waiting + self._seats.free):
                raise QueueFullError(len(self._queue), self._seconds_to_wait())
            self._queue.put(request.owner, text)
            self._texts[text.ticket] = text
        return text.ticket

    def cancel(self, ticket: int) -> None:
        """Forget a request; its rows are free before the next step. A ticket that has ended is ignored."""
        with self._lock:
            text = self._texts.get(ticket)
            if text is None:
                return
            if text.admitted:
                self._cancelled.add(ticket)
            else:
                self._queue.drop(text.request.owner, text)
                del self._texts[ticket]

    @property
    def idle(self) -> bool:
        """Whether nothing runs, nothing waits, and no member is still at work."""
        with self._lock:
            return not self._texts and (self._rounds.resting or self._lost is not None)

    def gauges(self) -> Gauges:
        """How the batch stands."""
        with self._lock:
            waiting, running = len(self._queue), len(self._texts) - len(self._queue)
        rows, row_bytes = self._seats.count, self._seats.row_bytes
        return Gauges(
            running, waiting, rows, running * row_bytes, rows * row_bytes,
            drafting_steps=self._rounds.drafting_steps, prompt_tokens=self._prefill.prompt_tokens,
            cached_tokens=self._prefill.cached_tokens, **self._done,
        )  # fmt: skip

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Chunk]]:
        """One round: admit, move every text on, read prompts. The chunks that came of it, by ticket; [] when idle.

        A member that is lost ends every text with an error; the batch takes none after that.
        """
        self._admit()
        chunks: list[tuple[int, Chunk]] = []
        try:
            if not self._writing:
                self._rounds.rest()
            chunks += self._write()
            if self._prefill.texts and (ready := self._prefill.read()):
                chunks += self._begin_to_write(ready)
        except MemberLostError as lost:
            chunks += self._abandon(lost)
        return chunks

    # --- who is in ---------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Drop who was cancelled, and give free seats to those that waited."""
        with self._lock:
            for ticket in self._cancelled & self._texts.keys():
                self._leave(self._texts[ticket])
            self._cancelled.clear()
            if not len(self._queue):
                return
            held = Counter(text.request.owner for text in (*self._prefill.texts, *self._writing))
            while len(self._queue) and (self._seats.free or self._make_room(held)):
                text = self._queue.get(held)
                held[text.request.owner] += 1
                text.take_seat(self._seats.take(text.lead, text.past(text.lead)))
                if not text.resumed:
                    text.acceptance = self._usual[text.drafter or ""].heir()
                self._prefill.texts.append(text)

    def _make_room(self, held: Counter[str]) -> bool:
        """Pause the last text of whoever holds most, if who waits holds less by more than one; the lock is held."""
        owner = overfull(held, self._queue.next(held))
        if owner is None:
            return False
        running = [text for text in (*self._prefill.texts, *self._writing) if text.request.owner == owner]
        text = max(running, key=lambda text: text.ticket)
        self._stand_up(text)
        text.pause()
        self._queue.put_back(owner, text)
        held[owner] -= 1
        return True

    def _leave(self, text: Text) -> None:
        """Take a text out; the lock is held."""
        del self._texts[text.ticket]
        self._stand_up(text)

    def _stand_up(self, text: Text) -> None:
        self._seats.leave(text.seat)
        for place in (self._prefill.texts, self._writing):
            if text in place:
                place.remove(text)

    def _abandon(self, lost: MemberLostError) -> list[tuple[int, Chunk]]:
        with self._lock:
            self._lost = lost
            texts = list(self._texts.values())
            self._texts.clear()
            self._queue = FairQueue()
            self._prefill.texts, self._writing = [], []
        return [(text.ticket, Chunk(error=str(lost), usage=text.usage())) for text in texts]

    def _seconds_to_wait(self) -> float:
        """A guess at when a place in the queue falls free, from how long the running texts have taken so far."""
        now = time.perf_counter()
        running = [now - text.seated for text in (*self._prefill.texts, *self._writing)]
        mean = sum(running) / max(1, len(running))
        return max(1.0, min(MOST_TO_WAIT_S, mean * len(self._queue) / self._seats.count))

    # --- prompts -----------------------------------------------------------------------------------------------------

    def _begin_to_write(self, ready: list[Text]) -> list[tuple[int, Chunk]]:
        self._writing = sorted([*self._writing, *ready], key=lambda text: text.seat)  # neighbours are read in place
        over = [text for text in ready if (text.row.ids and not text.sound) or not text.request.max_tokens]
        chunks = [self._ended(text) for text in over]
        ready = [text for text in ready if not text.row.ids and text not in over]  # a past alone was read again
        answers = {
            name: Thoughts.of(torch.stack([text.answers[name] for text in of]), dict.fromkeys(of, 1))
            for name, of in grouped((name, text) for text in ready for name in text.reads).items()
        }
        chunks += self._settle(self._rounds.judge(answers, dict.fromkeys(ready, ())))
        for text in self._writing:
            text.answers.clear()
        return chunks

    def _ended(self, text: Text) -> tuple[int, Chunk]:
        """End a text without another token: none is asked for, or its past could not be read again."""
        if text.sound:
            text.row.finish = "length"
        else:
            self._reader.append(text.row, NO_TOKEN)
        with self._lock:
            self._leave(text)
        piece, scores = text.wrote(()), text.take_scores()
        return text.ticket, Chunk(text=piece, finish=text.row.finish, usage=text.usage(), prompt_logprobs=scores)

    # --- continuations -----------------------------------------------------------------------------------------------

    def _write(self) -> list[tuple[int, Chunk]]:
        if not self._writing:
            return []
        self._done["rounds"] += 1
        return self._settle(self._rounds.advance(self._writing))

    def _settle(self, verdicts: Mapping[Text, Verdict]) -> list[tuple[int, Chunk]]:
        """Give each text what is right of its verdict; who has ended leaves."""
        chunks = [(text.ticket, self._append(text, verdict)) for text, verdict in verdicts.items()]
        with self._lock:
            for text in verdicts:
                if text.row.finish is not None:
                    self._leave(text)
        return chunks

    def _append(self, text: Text, verdict: Verdict) -> Chunk:
        """The proposals up to the first wrong one, and one token more; what all members have read of it stays known."""
        row, before, unread = text.row, len(text.row.ids), text.row.ids[-1:]
        tokens, taken = verdict.right, 0
        while taken < len(tokens) and row.finish is None:
            self._reader.append(row, tokens[taken], verdict.logprobs[taken])
            taken += 1
        read = [*unread, *verdict.proposed[: taken - 1]]
        for name in text.reads:  # behind the last token, some member's logits were not finite: it is wiped there
            self._seats.known(name, text.seat).extend(read[:-1] if row.finish == "not_finite" else read)
        self._learn(text, len(verdict.proposed), min(taken, len(tokens) - 1), taken)
        fresh = tuple(row.ids[before:])
        piece = text.wrote(fresh)
        return Chunk(
            ids=fresh,
            text=piece,
            logprobs=tuple(row.logprobs[before:]),
            accounts=self._accounts(text, verdict, fresh),
            finish=row.finish,
            usage=None if row.finish is None else text.usage(),
            prompt_logprobs=text.take_scores(),
            end=row.end,
        )

    def _learn(self, text: Text, proposed: int, right: int, taken: int) -> None:
        text.saw(proposed, right)
        self._rounds.took(text, taken)
        if proposed:
            self._usual[text.drafter or ""].saw(proposed, right)
        self._done["tokens"] += taken
        self._done["drafted"] += proposed
        self._done["accepted"] += right

    def _accounts(self, text: Text, verdict: Verdict, fresh: Sequence[int]) -> tuple[TokenAccount, ...]:
        """Each token's account, where they are asked for; an end token has none."""
        if text.request.account is None or verdict.alphas is None:
            return ()
        kept = [logits[: len(fresh)] for logits in verdict.apart]
        voices = dict(zip(text.voices, kept, strict=False))
        return tuple(
            accounts(self._tokenizer, voices, kept[-1], verdict.alphas[: len(fresh)], fresh, text.request.account)
        )
