"""One round of a running batch: propose, verify in one pass, mix, and see how far the proposals are right.

Exact for greedy and for sampled texts, because the noise of a sampled token belongs to its place (`noise`): a proposal
is right just where the mixture itself would write it. Speculative decoding after Leviathan et al. 2023, arXiv
2211.17192, with the first pair's expert as the drafter: what it thought while it proposed is what the mixture needs of
it, so drafting costs no reading twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor

from earnest.decoding.foresight import Foresight
from earnest.decoding.fused_verdict import FusedVerdict
from earnest.decoding.generation import Prompt
from earnest.decoding.logprobs import TokenLogprobs
from earnest.decoding.members import Drafted, Member, Pending, Wanted, picked, stretches
from earnest.decoding.mixing import Mixer
from earnest.decoding.pace import Pace
from earnest.decoding.sampling import Draw, choose, likeliest
from earnest.decoding.seats import Seats, shared
from earnest.decoding.texts import Text
from earnest.specs import Alpha


@dataclass(frozen=True)
class Thoughts:
    """One member's logits [positions, head], text after text, and which of them are whose."""

    logits: Tensor
    place: Mapping[Text, slice]

    @classmethod
    def of(cls, logits: Tensor, counts: Mapping[Text, int]) -> Thoughts:
        """Of so many positions for each text, in this order."""
        if len(counts) == 1:
            return cls(logits, {text: slice(0, count) for text, count in counts.items()})
        return cls(logits, dict(zip(counts, stretches(counts.values()), strict=True)))

    def about(self, texts: Sequence[Text]) -> Tensor:
        """The logits of some texts [their positions, head]."""
        if len(texts) == len(self.place) and [*self.place] == [*texts]:
            return self.logits
        parts = (self.place[text] for text in texts)
        return picked(self.logits, [*chain.from_iterable(range(part.start, part.stop) for part in parts)])

    def beside(self, other: Thoughts) -> Thoughts:
        """These and others of the same member."""
        begin = len(self.logits)
        moved = {text: slice(begin + part.start, begin + part.stop) for text, part in other.place.items()}
        return Thoughts(torch.cat([self.logits, other.logits]), {**self.place, **moved})


Key = TypeVar("Key", bound=Hashable)
Answers = dict[str, Thoughts]
UnderWay = list[tuple[str, list[Text], Pending[Tensor]]]
"""Who reads for which texts."""


@dataclass(frozen=True)
class Verdict:
    """What the mixture writes in one text behind each proposal; from the first that differs on it means nothing.

    `apart` are the logits [proposals + 1, head] of lead, first expert, first antiexpert, ... and of the mixture, and
    `alphas` [proposals + 1, pairs], where the text asks for an account.
    """

    proposed: tuple[int, ...]
    tokens: Sequence[int]
    logprobs: Sequence[TokenLogprobs | None]
    apart: tuple[Tensor, ...] = ()
    alphas: Tensor | None = None

    @property
    def right(self) -> tuple[int, ...]:
        """The proposals up to the first wrong one, and one token more."""
        return tuple(self.tokens[: 1 + shared(self.proposed, self.tokens)])


class Rounds:
    """Moves texts on, all of them together; with `proposals` a fixed number of tokens is proposed at once.

    `ends` are the tokens that end a text, and `closing` tells those that end this one: nothing is drafted from there.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        seats: Seats,
        mixer: Mixer,
        *,
        ends: frozenset[int],
        closing: Callable[[Prompt], frozenset[int]] | None = None,
        proposals: int | None = None,
    ) -> None:
        self._members, self._seats, self._mixer = members, seats, mixer
        self._fused = FusedVerdict(mixer)
        self._proposals = proposals
        self._pace = Pace()
        self._closing = closing or (lambda prompt: ends if prompt.ends is None else prompt.ends)
        self._foresight = Foresight(members, seats, ends)
        self._drafted: frozenset[Text] = frozenset()
        self.drafting_steps = 0

    def advance(self, texts: Sequence[Text]) -> dict[Text, Verdict]:
        """A round for texts whose members have read all but the last token.

        Raises:
            MemberLostError: a member is gone.
        """
        self._foresight.forget(but=texts)
        proposals: dict[Text, tuple[int, ...]] = dict.fromkeys(texts, ())
        drafts: dict[str, tuple[list[Text], Drafted]] = {}
        for drafter, group in grouped([(text.drafter, text) for text in texts]).items():
            if drafter is None:
                wanted = self._looked_up(group)
                proposals |= {text: text.lookup.propose(n) for text, n in wanted.items() if text.lookup is not None}
            elif any((wanted := self._wanted(group)).values()):
                drafts[drafter] = group, self._draft(drafter, wanted)
                proposals |= zip(group, drafts[drafter][1].tokens, strict=True)
        began = time.perf_counter()
        drafted = {name: _thought(*of) for name, of in drafts.items()}
        under_way = self._verify(texts, proposals, drafted)
        # Of many texts, some nearly always go on otherwise.
        ahead = [name for name in drafts if len(texts) == 1 and self._members[name].elsewhere]
        for name in ahead:
            self._foresight.hope(name, texts[0], drafts[name][1], self._most, self._least_chance(1))
        verdicts = self.judge(_answered(under_way, proposals, drafted), proposals)
        for name in ahead:
            self._foresight.know(name, texts[0], verdicts[texts[0]].right, self._most, self._least_chance(1))
        self._pace.verify.saw(sum([len(mine) + 1 for mine in proposals.values()]), time.perf_counter() - began)
        self._drafted = frozenset(text for group, _ in drafts.values() for text in group)
        return verdicts

    @property
    def resting(self) -> bool:
        """Whether nothing is under way between rounds."""
        return not self._foresight.open

    def rest(self) -> None:
        """Leave nothing under way. Raises MemberLostError."""
        self._foresight.forget()

    def took(self, text: Text, tokens: int) -> None:
        """Learn how many tokens a text took of its verdict; where it has ended, those behind its end were in vain."""
        if text in self._drafted:
            self._pace.wrote(tokens)

    def _looked_up(self, texts: Sequence[Text]) -> dict[Text, int]:
        """How many tokens to look up for each text that wants any."""
        able = [text for text in texts if text.lookup is not None]
        if not able:
            return dict.fromkeys(texts, 0)
        most = self._proposals
        if most is None:
            most = self._pace.looked_up([text.acceptance.rate for text in able])
        return {text: min(most, text.left - 1) if text in able else 0 for text in texts}

    @property
    def _most(self) -> int:
        """How many tokens a member may propose for a text."""
        return self._pace.most if self._proposals is None else self._proposals

    def _least_chance(self, rows: int) -> float:
        return self._pace.least_chance(rows) if self._proposals is None else 0.0

    def _wanted(self, texts: Sequence[Text]) -> dict[Text, int]:
        """How many tokens a member may propose for each text; none where proposals are not worth it."""
        most = self._most if self._proposals is not None or self._pace.pays(len(texts)) else 0
        return {text: min(most, text.left - 1) for text in texts}

    def _draft(self, name: str, wanted: Mapping[Text, int]) -> Drafted:
        """Let a member propose, or take what it has proposed already; it reads that, so its logits there are known."""
        began = time.perf_counter()
        foreseen = self._foresight.take(name, wanted)
        if foreseen is not None:
            self._learn(foreseen.drafted, foreseen.seconds)
            return foreseen.drafted
        rows, starts = self._seats.places(name, [text.seat for text in wanted])
        least = self._least_chance(len(wanted))
        asked = [
            Wanted(
                n, text.request.sampling, text.row.start, tuple(text.row.ids), least,
                ends=self._closing(text.row.prompt),
            )
            for text, n in wanted.items()
        ]  # fmt: skip
        drafted = self._members[name].draft(rows, starts, asked).result()
        self._learn(drafted, time.perf_counter() - began)
        return drafted

    def _learn(self, drafted: Drafted, seconds: float | None) -> None:
        """Learn what a draft took; no seconds where nobody waited for it."""
        self.drafting_steps += drafted.steps
        read = sum(len(tokens) + 1 for tokens in drafted.tokens)
        self._pace.drafted(len(drafted.tokens), drafted.steps, read, seconds)

    def _verify(self, texts: Sequence[Text], proposals: Mapping[Text, tuple[int, ...]], drafted: Answers) -> UnderWay:
        """Let all other members read each text's last token and its proposals, side by side where they can."""
        under_way: UnderWay = []
        for name, every in grouped([(name, text) for text in texts for name in text.reads]).items():
            done = drafted[name].place if name in drafted else {}
            of = [text for text in every if text not in done]
            if of:
                rows, starts = self._seats.places(name, [text.seat for text in of])
                tokens = [(text.row.ids[-1], *proposals[text]) for text in of]
                under_way.append((name, of, self._members[name].read(rows, starts, tokens)))
        return under_way

    def judge(self, answers: Answers, proposals: Mapping[Text, tuple[int, ...]]) -> dict[Text, Verdict]:
        """Mix what the members think of each text's proposals, and choose.

        Args:
            answers: of every member that a text has, the logits after its last token and after each proposal.
            proposals: of every text.
        """
        verdicts: dict[Text, Verdict] = {}
        for group in grouped([(text.parts, text) for text in proposals]).values():
            if fused := self._judged_at_once(group, answers, proposals):
                verdicts |= fused
                continue
            lead, pairs = self._apart(group, answers)
            counts = [1 + len(proposals[text]) for text in group]
            mixed, alphas = self._mixer.mix(lead, pairs, _alphas(group, counts))  # [positions, vocabulary]
            tokens, logprobs = _chosen(mixed, group, proposals)
            for text, part in zip(group, stretches(counts), strict=True):
                chosen = proposals[text], tokens[part], logprobs[part]
                if text.request.account is None:
                    verdicts[text] = Verdict(*chosen)
                    continue
                apart = (lead, *(logits for pair in pairs for logits in pair), mixed)
                verdicts[text] = Verdict(*chosen, tuple(logits[part] for logits in apart), alphas[part])
        return verdicts

    def _judged_at_once(
        self, group: Sequence[Text], answers: Answers, proposals: Mapping[Text, tuple[int, ...]]
    ) -> dict[Text, Verdict]:
        """The verdicts on texts that a kernel can judge; nothing where it cannot."""
        lead, pairs = group[0].parts
        if len(pairs) != 1:
            return {}
        parts = [(answers[name].logits, answers[name].place) for name in (lead, *pairs[0][:2])]
        found = self._fused.tokens(group, parts, proposals)
        if found is None:
            return {}
        return {
            text: Verdict(proposals[text], tokens, [None] * len(tokens))
            for text, tokens in zip(group, found, strict=True)
        }

    def mixed(self, text: Text, answers: Answers) -> Tensor:
        """The mixture's logits [positions, vocabulary] for one text, from those of its members."""
        lead, pairs = self._apart([text], answers)
        return self._mixer.mix(lead, pairs, _alphas([text], [len(lead)]))[0]

    def _apart(self, group: Sequence[Text], answers: Answers) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """The lead's logits [positions, head], and those of each pair beside them."""
        first, named = group[0].parts
        lead = answers[first].about(group)

        def beside(name: str) -> Tensor:
            return answers[name].about(group).to(lead.device)

        return lead, [(beside(expert), beside(antiexpert)) for expert, antiexpert, _ in named]


def _thought(texts: Sequence[Text], drafted: Drafted) -> Thoughts:
    """What a member thought while it drafted."""
    return Thoughts.of(drafted.logits, {text: 1 + len(mine) for text, mine in zip(texts, drafted.tokens, strict=True)})


def _answered(under_way: UnderWay, proposals: Mapping[Text, tuple[int, ...]], drafted: Answers) -> Answers:
    """What all members think, once they have read."""
    answers = dict(drafted)
    for name, of, pending in under_way:
        read = Thoughts.of(pending.result(), {text: 1 + len(proposals[text]) for text in of})
        answers[name] = answers[name].beside(read) if name in answers else read
    return answers


def grouped(pairs: Iterable[tuple[Key, Text]]) -> dict[Key, list[Text]]:
    """Texts by a key, both in order."""
    found: dict[Key, list[Text]] = {}
    for key, text in pairs:
        if key in found:
            found[key].append(text)
        else:
            found[key] = [text]
    return found


def _alphas(group: Sequence[Text], counts: Sequence[int]) -> list[list[Alpha]]:
    """How strongly each pair steers at every position of some texts, or one alpha where it is everywhere the same."""
    asked = zip(*([steering.alpha for steering in text.mixture.steering] for text in group), strict=True)
    return [
        [of[0]] if len(set(of)) == 1 else [a for a, n in zip(of, counts, strict=True) for _ in range(n)] for of in asked
    ]


def _chosen(
    mixed: Tensor, group: Sequence[Text], proposals: Mapping[Text, tuple[int, ...]]
) -> tuple[list[int], list[TokenLogprobs | None]]:
    """What the mixture writes behind each proposal of each text, from its logits [positions, vocabulary]."""
    if all(text.request.sampling.plain and text.guide is None for text in group):
        return likeliest(mixed).tolist(), [None] * len(mixed)
    draws = [
        Draw(text.request.sampling, text.row.start, [*text.row.ids, *proposals[text][:i]], text.guide)
        for text in group
        for i in range(len(proposals[text]) + 1)
    ]
    return choose(mixed, draws)
