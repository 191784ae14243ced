"""A member elsewhere drafts before it is asked to wait for, and no text is another for it."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from decoding.test_drafting import Circles
from earnest.almanac.questions import biographies
from earnest.almanac.world import World
from earnest.decoding import foresight
from earnest.decoding.batcher import Batcher, Limits
from earnest.decoding.drafting import Drafter
from earnest.decoding.encoding import encode
from earnest.decoding.local import Done, LocalMember
from earnest.decoding.members import Drafted, MemberLostError, Wanted
from earnest.decoding.pace import Acceptance
from earnest.decoding.requests import Mixture, Request, Steering
from earnest.decoding.sampling import GREEDY, Sampling
from earnest.models.loading import LoadedModel

PROXY = Mixture("large", (Steering("small-tuned", "small"),))
SETTINGS = {
    "greedy": GREEDY,
    "sampled": Sampling(temperature=0.8, top_p=0.9, seed=3),
    "penalised": Sampling(temperature=1.0, frequency_penalty=0.5, seed=4),
}


class Elsewhere(LocalMember):
    """A member that says it works beside its caller, and notes every draft and which answers were taken."""

    elsewhere = True

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.asked: list[Wanted] = []
        self.open: list[object] = []
        self.lost = False

    def draft(self, rows: Sequence[int], starts: Sequence[int], wanted: Sequence[Wanted]) -> Any:
        if self.lost:
            raise MemberLostError(self.name)
        self.asked += wanted
        answer = _Noted(self.open, super().draft(rows, starts, wanted).result())
        self.open.append(answer)
        return answer


class _Noted(Done[Drafted]):
    def __init__(self, opened: list[object], value: Drafted) -> None:
        super().__init__(value)
        self.__dict__["opened"] = opened

    def result(self) -> Drafted:
        opened: list[object] = self.__dict__["opened"]
        for number, answer in enumerate(opened):
            if answer is self:
                del opened[: number + 1]  # those before it have come, too
        return self.value


@pytest.fixture
def make(nano: Callable[[str], LoadedModel]) -> Callable[..., tuple[Batcher, dict[str, LocalMember]]]:
    """A batch of the nano family, its members here or elsewhere."""

    def batch(kind: type[LocalMember], proposals: int | None = None) -> tuple[Batcher, dict[str, LocalMember]]:
        names = ("large", "small-tuned", "small")
        members = {name: kind(name, nano(name), rows=2, slots=128) for name in names}
        tokenizer = nano("large").tokenizer
        ends = frozenset({tokenizer.eos_token_id})
        return Batcher(list(members.values()), tokenizer, ends=ends, limits=Limits(proposals=proposals)), members

    return batch


@pytest.fixture(scope="module")
def stories(nano: Callable[[str], LoadedModel]) -> list[tuple[int, ...]]:
    """Prompts that ask for some dozens of tokens."""
    prompts = [question.prompt for question in biographies(World.shipped(), 12, seed=5)]
    return [tuple(ids) for ids in encode(nano("large").tokenizer, prompts)]


def written(batch: Batcher, requests: Sequence[Request]) -> list[tuple[int, ...]]:
    """The tokens of each request, all of them asked at once."""
    tickets = [batch.submit(request) for request in requests]
    found: dict[int, tuple[int, ...]] = dict.fromkeys(tickets, ())
    while not batch.idle:
        for ticket, chunk in batch.step():
            found[ticket] += chunk.ids
    return [found[ticket] for ticket in tickets]


@pytest.mark.parametrize("proposals", [None, 1, 4])
@pytest.mark.parametrize("setting", SETTINGS)
def test_texts_are_the_same_whether_members_draft_ahead_or_not(
    make: Callable[..., Any], stories: list[tuple[int, ...]], setting: str, proposals: int | None
) -> None:
    here, _ = make(LocalMember, proposals)
    far, members = make(Elsewhere, proposals)
    for prompt in stories:
        asked = [Request(prompt, PROXY, 40, ("\n",), sampling=SETTINGS[setting])]
        assert written(far, asked) == written(here, asked)
    assert any(want.unsure for want in members["small-tuned"].asked)


def test_a_draft_that_came_true_is_not_asked_for_again_and_another_goes_on_from_what_is_right(
    make: Callable[..., Any], stories: list[tuple[int, ...]]
) -> None:
    far, members = make(Elsewhere, 4)
    asked = members["small-tuned"].asked
    (ids,) = written(far, [Request(stories[0], PROXY, 60)])
    rounds = [want.written for want in asked if not want.unsure]
    hoped = [want.written for want in asked if want.unsure]
    assert all(ids[: len(begin)] == begin for begin in rounds)  # whatever was sure is what was written
    came_true = [begin for begin in hoped if ids[: len(begin)] == begin]
    assert came_true
    assert not set(came_true) & set(rounds)
    assert len(set(hoped)) == len(hoped)


def test_texts_that_run_together_are_drafted_when_they_are_wanted(
    make: Callable[..., Any], stories: list[tuple[int, ...]]
) -> None:
    far, _ = make(Elsewhere)
    here, _ = make(LocalMember)
    requests = [Request(prompt, PROXY, 24, ("\n",)) for prompt in stories[:6]]
    assert written(far, requests) == written(here, requests)


def test_no_answer_is_left_on_its_way_when_all_texts_have_ended(
    make: Callable[..., Any], stories: list[tuple[int, ...]]
) -> None:
    far, members = make(Elsewhere)
    written(far, [Request(stories[0], PROXY, 40, ("\n",))])
    assert members["small-tuned"].open == []
    ticket = far.submit(Request(stories[1], PROXY, 40))
    for _ in range(3):
        far.step()
    far.cancel(ticket)
    far.step()
    assert far.idle
    assert members["small-tuned"].open == []


def test_what_was_drafted_ahead_of_a_text_that_left_is_heard_though_others_run(
    make: Callable[..., Any], stories: list[tuple[int, ...]]
) -> None:
    far, members = make(Elsewhere)
    expert = members["small-tuned"]
    left = far.submit(Request(stories[0], PROXY, 60))
    while not any(want.unsure for want in expert.asked):
        far.step()
    far.submit(Request(stories[1], Mixture("large"), 60, draft=False))
    assert expert.open
    far.cancel(left)
    for _ in range(3):
        far.step()
    assert far.gauges().running == 1
    assert expert.open == []


def test_a_long_text_is_not_drafted_ahead(
    make: Callable[..., Any], stories: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(foresight, "LONGEST", len(stories[0]) + 20)
    far, members = make(Elsewhere)
    written(far, [Request(stories[0], PROXY, 60)])
    reached = [len(want.written) for want in members["small-tuned"].asked if want.unsure]
    assert 10 < max(reached) <= 20


def test_a_member_that_is_lost_while_it_drafts_ahead_ends_the_text_with_an_error(
    make: Callable[..., Any], stories: list[tuple[int, ...]]
) -> None:
    far, members = make(Elsewhere)
    far.submit(Request(stories[0], PROXY, 60))
    while not members["small-tuned"].asked:
        far.step()
    members["small-tuned"].lost = True
    (chunk,) = (chunk for _, chunk in far.step())
    assert "small-tuned" in str(chunk.error)
    assert far.idle


@pytest.mark.parametrize("right", range(8))
def test_every_proposal_counts_once_and_when_it_is_decided(right: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three proposals, then the token behind them and three more, drafted ahead: `right` of these seven come true."""
    counts: list[tuple[int, int]] = []
    monkeypatch.setattr(Acceptance, "counted", lambda _, tried, accepted: counts.append((tried, accepted)))
    drafter = Drafter(Circles(), 1)
    drafter.saw(0, 0, [0, 1, 2])
    first = drafter.draft([0], [3], [Wanted(3, GREEDY, (), (3,))])
    assert (first.tokens, first.following) == (((4, 5, 6),), (7,))
    ahead = drafter.draft([0], [7], [Wanted(3, GREEDY, (), (3, 4, 5, 6, 7), unsure=4)])
    assert (ahead.tokens, ahead.following) == (((8, 9, 0),), (1,))
    monkeypatch.setattr(drafter, "_guess", lambda _: None)
    counts.clear()
    drafter.draft([0], [4 + right], [Wanted(0, GREEDY, (), (5,))])
    tried, accepted = map(sum, zip(*counts, strict=True))
    assert (tried, accepted) == (min(right + 1, 7), right)


def test_a_chain_of_drafts_ahead_is_counted_as_it_becomes_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    drafter = Drafter(Circles(), 1)
    drafter.saw(0, 0, [0, 1, 2])
    drafter.draft([0], [3], [Wanted(1, GREEDY, (), (3,))])
    counts: list[tuple[int, int]] = []
    monkeypatch.setattr(drafter, "_rights", lambda drafts, chosen: [0] * len(drafts))
    monkeypatch.setattr(drafter, "_guess", lambda _: None)
    monkeypatch.setattr(Acceptance, "counted", lambda _, tried, accepted: counts.append((tried, accepted)))
    for start, unsure, decided in ((5, 2, 0), (7, 2, 2), (9, 2, 2)):  # each proposes one token behind its first
        counts.clear()
        drafter.draft([0], [start], [Wanted(1, GREEDY, (), tuple(range(3, 1 + start)), unsure=unsure)])
        assert (sum(tried for tried, _ in counts), sum(right for _, right in counts)) == (decided, decided)
