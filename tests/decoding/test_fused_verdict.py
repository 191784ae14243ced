"""A kernel that mixes, chooses and judges at once writes what mixing and choosing one after the other do."""

from typing import Any

import pytest
import torch

from earnest.decoding import fused_verdict
from earnest.decoding.batcher import Batcher
from earnest.decoding.fused_verdict import FusedVerdict
from earnest.decoding.grammar import Grammars
from earnest.decoding.local import LocalMember
from earnest.decoding.members import Member
from earnest.decoding.mixing import Mixer
from earnest.decoding.requests import Mixture, Request, Steering
from earnest.decoding.sampling import Draw, Sampling, choose
from earnest.decoding.texts import Text, text_of
from earnest.specs import Alpha

pytest.importorskip("numba")

COUNTS = (4, 1, 6)
BEGINS = ((0, 4, 5), (9, 8, 2), (1, 0, 5))
SETTINGS = [Sampling(), Sampling(temperature=0.7, seed=3), Sampling(temperature=1.3, seed=4)]


@pytest.fixture
def members(nano: Any) -> dict[str, Member]:
    return {name: LocalMember(name, nano(name), rows=3, slots=64) for name in ("small", "small-tuned", "medium")}


def texts_of(members: dict[str, Member], tokenizer: Any, alphas: list[Alpha], **asked: Any) -> list[Text]:
    mixtures = [Mixture("medium", (Steering("small-tuned", "small", alpha),)) for alpha in alphas]
    return [
        text_of(
            n, Request((5, 6), mixture, 20, sampling=SETTINGS[n], **asked), members, tokenizer, Grammars(tokenizer, ())
        )
        for n, mixture in enumerate(mixtures)
    ]


def logits(width: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 * torch.randn(15, width, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("alphas", [[1.0, 0.3, -0.7], ["adaptive"] * 3])
def test_texts_get_what_mixing_and_choosing_write_up_to_the_first_wrong_proposal(
    members: dict[str, Member], tokenizer: Any, alphas: list[Alpha]
) -> None:
    mixer = Mixer(tokenizer, [member.vocabulary for member in members.values()])
    mixer.meaningless[::7] = True
    mixer._all_mean_something = False
    texts, given = texts_of(members, tokenizer, alphas), logits(mixer.width)
    given[0][2, 40] = -torch.inf
    wrong_at, expected, proposals = (3, 9, 2), [], {}
    for number, (text, count, wrong) in enumerate(zip(texts, COUNTS, wrong_at, strict=True)):
        lead, expert, anti = (of[at[number] : at[number] + count] for of, at in zip(given, BEGINS, strict=True))
        mixed, _ = mixer.mix(lead, [(expert, anti)], [[alphas[number]]])
        written, _ = choose(mixed, [Draw(text.request.sampling, (), [0] * place) for place in range(count)])
        proposed = [token if place != wrong else token - 1 for place, token in enumerate(written[:-1])]
        proposals[text] = tuple(proposed)
        expected.append([token if place <= wrong else -1 for place, token in enumerate(written)])
    parts = [
        (of, {text: slice(begin, begin + count) for text, begin, count in zip(texts, at, COUNTS, strict=True)})
        for of, at in zip(given, BEGINS, strict=True)
    ]
    assert FusedVerdict(mixer).tokens(texts, parts, proposals) == expected
    alone = FusedVerdict(mixer)
    assert [alone.tokens([text], parts, proposals) for text in texts] == [[tokens] for tokens in expected]


def test_logits_that_are_not_finite_have_no_token(members: dict[str, Member], tokenizer: Any) -> None:
    mixer = Mixer(tokenizer, [member.vocabulary for member in members.values()])
    text = texts_of(members, tokenizer, [1.0, 1.0, 1.0])[0]
    for value, who in ((torch.nan, 0), (-torch.nan, 1), (torch.inf, 1), (torch.inf, 0)):
        given = logits(mixer.width)
        given[who][0, 33] = value
        assert FusedVerdict(mixer).tokens([text], [(of, {text: slice(0, 1)}) for of in given], {text: ()}) == [[-1]]


def test_what_else_a_text_asks_for_is_left_to_others(members: dict[str, Member], tokenizer: Any) -> None:
    mixer = Mixer(tokenizer, [member.vocabulary for member in members.values()])
    text = texts_of(members, tokenizer, [1.0, 1.0, 1.0], account=2)[0]
    parts = [(of, {text: slice(0, 1)}) for of in logits(mixer.width)]
    assert FusedVerdict(mixer).tokens([text], parts, {text: ()}) is None
    plain = texts_of(members, tokenizer, [1.0, 1.0, 1.0])[0]
    narrow = [(of[:, :-1], {plain: slice(0, 1)}) for of, _ in parts]
    assert FusedVerdict(mixer).tokens([plain], narrow, {plain: ()}) is None


@pytest.mark.parametrize("draft", [True, False])
@pytest.mark.parametrize("alpha", [0.6, "adaptive"])
def test_a_batch_writes_the_same_with_and_without(
    nano: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, alpha: Alpha, draft: bool
) -> None:
    mixture = Mixture("medium", (Steering("small-tuned", "small", alpha),))

    def written() -> list[str]:
        members = [LocalMember(name, nano(name), rows=3, slots=64) for name in ("small", "small-tuned", "medium")]
        batch = Batcher(members, tokenizer, ends=frozenset({tokenizer.eos_token_id}))
        prompts = tokenizer(["Question: Where was", "Ada", "The capital of"])["input_ids"]
        found: dict[int, str] = {
            batch.submit(Request(tuple(ids), mixture, 30, sampling=sampling, draft=draft)): ""
            for ids, sampling in zip(prompts, SETTINGS, strict=True)
        }
        while not batch.idle:
            for ticket, chunk in batch.step():
                found[ticket] += chunk.text
        return list(found.values())

    fused = written()
    monkeypatch.setattr(fused_verdict, "_kernels", lambda _: None)
    assert fused == written()
    assert all(fused)
