"""A running batch: the text of a request is its own, whoever is beside it and however it is drafted."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare
from transformers import MistralConfig, MistralForCausalLM

from decoding.test_exactness import naive_loop
from earnest.almanac.questions import biographies, zero_shot
from earnest.almanac.world import World
from earnest.decoding.account import account
from earnest.decoding.batcher import Batcher, Limits
from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.decoding.local import LocalMember
from earnest.decoding.members import MemberLostError
from earnest.decoding.requests import Chunk, Mixture, QueueFullError, Request, Steering
from earnest.decoding.sampling import Sampling, processed
from earnest.models.loading import LoadedModel
from earnest.specs import ADAPTIVE

SLOTS = 256
PAIR = Steering("small-tuned", "small")


def batch_of(models: Mapping[str, LoadedModel], rows: int = 8, slots: int = SLOTS, **limits: int) -> Batcher:
    members = [LocalMember(name, model, rows=rows, slots=slots) for name, model in models.items()]
    tokenizer = next(iter(models.values())).tokenizer
    return Batcher(members, tokenizer, ends=frozenset({tokenizer.eos_token_id}), limits=Limits(**limits))


def served(batch: Batcher, requests: Sequence[Request]) -> list[Chunk]:
    """Every request to its end; its chunks as one, in which the text is what was shown piece by piece."""
    tickets = [batch.submit(request) for request in requests]
    found: dict[int, list[Chunk]] = {ticket: [] for ticket in tickets}
    while not batch.idle:
        for ticket, chunk in batch.step():
            found[ticket].append(chunk)
    return [_one(found[ticket]) for ticket in tickets]


def _one(chunks: Sequence[Chunk]) -> Chunk:
    assert [chunk.last for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    return replace(
        chunks[-1],
        ids=tuple(token for chunk in chunks for token in chunk.ids),
        text="".join(chunk.text for chunk in chunks),
        logprobs=tuple(known for chunk in chunks for known in chunk.logprobs),
        accounts=tuple(one for chunk in chunks for one in chunk.accounts),
    )


@pytest.fixture(scope="module")
def family(nano: Callable[[str], LoadedModel]) -> dict[str, LoadedModel]:
    return {name: nano(name) for name in ("large", "small-tuned", "small")}


@pytest.fixture(scope="module")
def batch(family: dict[str, LoadedModel]) -> Batcher:
    return batch_of(family, rows=16)


@pytest.fixture(scope="module")
def lives(family: dict[str, LoadedModel]) -> list[tuple[int, ...]]:
    texts = [question.prompt for question in biographies(World.shipped(), 12, seed=1)]
    return [tuple(ids) for ids in encode(family["large"].tokenizer, texts)]


def steered(alpha: float | str = 1.0) -> Mixture:
    return Mixture("large", (replace(PAIR, alpha=alpha),))


def within(loaded: LoadedModel, window: int) -> LoadedModel:
    """A Llama-shaped model whose layers see a window."""
    config = MistralConfig(**loaded.model.config.to_dict() | {"sliding_window": window, "model_type": "mistral"})
    model = MistralForCausalLM(config).eval().requires_grad_(False).float()
    model.load_state_dict(loaded.model.state_dict())
    return replace(loaded, model=model)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 1.6, 2.0, ADAPTIVE])
@pytest.mark.parametrize("draft", [True, False])
def test_greedy_texts_are_those_of_the_plain_loop(batch, family, short_prompts, alpha, draft: bool) -> None:
    ensemble = Ensemble.of(family["large"], [Pair(family["small-tuned"], family["small"], alpha)])
    prompts = short_prompts[:200]
    expected = continue_prompts(ensemble, [Prompt(ids, ("\n",), 16) for ids in prompts], 50_000)
    found = served(batch, [Request(ids, steered(alpha), 16, ("\n",), draft=draft) for ids in prompts])
    assert [one.text for one in found] == [one.text for one in expected]
    assert [one.ids for one in found] == [one.ids for one in expected]
    assert [one.finish for one in found] == [one.finish for one in expected]


def test_long_texts_are_those_of_the_plain_loop_in_fewer_rounds(family, lives) -> None:
    batch = batch_of(family, rows=len(lives), proposals=6)
    ensemble = Ensemble(family["large"], family["small-tuned"], family["small"])
    expected = continue_prompts(ensemble, [Prompt(ids, ("\n",), 90) for ids in lives], 50_000)
    found = served(batch, [Request(ids, steered(), 90, ("\n",)) for ids in lives])
    assert [one.text for one in found] == [one.text for one in expected]
    assert batch.gauges().rounds < 0.5 * max(len(one.ids) for one in expected)
    assert 0.4 < batch.gauges().accepted / batch.gauges().drafted < 1


@pytest.mark.parametrize("draft", [True, False])
def test_texts_beyond_the_members_windows_are_those_of_a_naive_loop(family, lives, draft: bool) -> None:
    """Windows differ; prompts are read in pieces, begin like others, and are longer and shorter than windows."""
    windowed = {
        name: within(family[name], window) for name, window in (("large", 20), ("small-tuned", 33), ("small", 7))
    }
    batch = batch_of(windowed, rows=6, prefill=16)
    prompts = [*lives[:4], lives[0][:8], lives[1][:21]]
    pair = Pair(windowed["small-tuned"], windowed["small"], 1.0)
    expected = naive_loop(windowed["large"], [pair], prompts, 24)
    for _ in range(2):  # then behind what the first ones left
        found = served(batch, [Request(ids, steered(), 24, draft=draft) for ids in prompts])
        assert [one.ids for one in found] == expected
    without = Pair(family["small-tuned"], family["small"], 1.0)
    assert expected != naive_loop(family["large"], [without], prompts, 24)


@pytest.mark.slow
def test_texts_with_different_mixtures_and_settings_share_a_batch(batch, lives) -> None:
    """Base alone, expert alone, several alphas, greedy and sampled: each is what it is alone, in a batch of one row."""
    mixtures = [Mixture("large"), Mixture("small-tuned"), steered(), steered(0.3), steered(-0.5), steered(ADAPTIVE)]
    settings = [
        Sampling(),
        Sampling(temperature=1.0, top_p=0.9, seed=3),
        Sampling(temperature=0.7, repetition_penalty=1.2, logit_bias={40: 1.5}, seed=4),
        Sampling(presence_penalty=0.5, logprobs=2),
    ]
    requests = [
        Request(lives[(i + j) % len(lives)], mixture, 24 + i, sampling=sampling)
        for i, mixture in enumerate(mixtures)
        for j, sampling in enumerate(settings)
    ]
    together = served(batch, requests)
    for request, one in zip(requests, together, strict=True):
        for draft in (True, False):
            (alone,) = served(batch, [replace(request, draft=draft)])
            assert (alone.text, alone.ids, alone.finish) == (one.text, one.ids, one.finish)


def test_alpha_zero_is_the_base_alone_bit_for_bit(family, lives) -> None:
    sampling = Sampling(logprobs=5)
    zero, base = (
        served(batch_of(family), [Request(ids, mixture, 20, sampling=sampling, draft=False) for ids in lives[:4]])
        for mixture in (steered(0.0), Mixture("large"))
    )
    assert [(one.ids, one.logprobs) for one in zero] == [(one.ids, one.logprobs) for one in base]


@pytest.mark.slow
def test_samples_are_distributed_as_the_mixture_says_drafted_or_not(make_model) -> None:
    """The second token of a tiny vocabulary over many seeds, with temperature and top-p, against the exact one."""
    base, expert, anti = (make_model(seed=seed) for seed in (0, 1, 2))
    batch = batch_of({"base": base, "expert": expert, "anti": anti}, rows=64, slots=16, waiting=2000)
    mixture = Mixture("base", (Steering("expert", "anti", 0.6),))
    prompt, count = (1, 20, 30), 1500
    settings = [Sampling(temperature=0.3, top_p=0.8, seed=seed) for seed in range(count)]
    ensemble = Ensemble(base, expert, anti, alpha=0.6)
    first = processed(ensemble.open([prompt]).logits, settings[0], [((), ())])[0]
    exact: Counter[int] = Counter()
    for token in first.nonzero()[:, 0].tolist():
        session = ensemble.open([(*prompt, token)])
        after = processed(session.logits, settings[0], [((), ())])[0]
        exact.update({t: float(first[token] * after[t]) for t in after.nonzero()[:, 0].tolist()})
    for draft in (True, False):
        requests = [Request(prompt, mixture, 3, sampling=sampling, draft=draft) for sampling in settings]
        seen = Counter(one.ids[1] for one in served(batch, requests) if len(one.ids) > 1)
        assert seen.keys() <= exact.keys()
        share = seen.total() / exact.total()  # where the first token ends the text there is no second
        assert chisquare([seen[token] for token in exact], [p * share for p in exact.values()]).pvalue > 1e-3


def test_a_prompt_that_begins_like_an_earlier_one_is_read_from_where_they_part(family, lives) -> None:
    batch = batch_of(family, rows=4)
    system = tuple(token for ids in lives[:6] for token in ids)
    requests = [Request((*system, *ids), steered(), 12) for ids in lives[6:10]]
    fresh = [served(batch_of(family, rows=1), [request])[0] for request in requests]
    first = served(batch, requests[:1])
    others = served(batch, requests[1:])
    assert [one.text for one in [*first, *others]] == [one.text for one in fresh]
    assert first[0].usage.cached_tokens == 0
    assert all(one.usage.cached_tokens >= len(system) for one in others)


def test_samples_of_one_prompt_read_it_once(family, lives) -> None:
    batch = batch_of(family, rows=4)
    prompt = tuple(token for ids in lives[:6] for token in ids)
    found = served(batch, [Request(prompt, steered(), 4, sampling=Sampling(temperature=1.0, seed=i)) for i in range(4)])
    assert sorted(one.usage.cached_tokens for one in found) == [0, *[len(prompt) - 1] * 3]


def test_the_prefix_cache_holds_where_models_read_forms_of_their_own(family, lives) -> None:
    batch = batch_of(family, rows=2)
    ensemble = Ensemble(family["large"], family["small-tuned"], family["small"])
    prompts = [Prompt(ids, (), 20, forms=((1, *lives[0][1:], *ids[1:]), ids)) for ids in lives[1:6]]
    expected = continue_prompts(ensemble, prompts, 50_000)
    requests = [Request(p.ids, steered(), 20, forms={"small-tuned": p.forms[0]}) for p in prompts]
    assert [one.text for one in served(batch, requests)] == [one.text for one in expected]


def test_a_long_prompt_is_read_in_pieces_between_the_steps_of_others(family, lives) -> None:
    batch = batch_of(family, rows=2, prefill=16)
    short = batch.submit(Request(lives[0], steered(), 40, draft=False))
    batch.step()
    long = batch.submit(Request(tuple(token for ids in lives * 2 for token in ids)[:150], steered(), 4))
    order = []
    while not batch.idle:
        order += [ticket for ticket, _ in batch.step()]
    assert order.index(long) >= 9
    assert short in order[: order.index(long)]
    assert Counter(order)[short] == 39  # the first came before


def test_no_owner_starves_another(family, lives) -> None:
    batch = batch_of(family, rows=1)
    many = [batch.submit(Request(lives[0], Mixture("small"), 4, owner="many")) for _ in range(20)]
    one = batch.submit(Request(lives[1], Mixture("small"), 4, owner="one"))
    ended = []
    while not batch.idle:
        ended += [ticket for ticket, chunk in batch.step() if chunk.last]
    assert ended.index(one) <= 1
    assert [ticket for ticket in ended if ticket != one] == many


@pytest.mark.slow
def test_a_cancelled_request_leaves_no_trace(family, lives) -> None:
    """1,000 of them, waiting, being read and being written: rows, tickets and queue are as before."""
    batch = batch_of(family, rows=4, waiting=64)
    (expected,) = served(batch, [Request(lives[0], steered(), 12)])
    for number in range(1000):
        ticket = batch.submit(Request(lives[number % len(lives)], steered(), 12))
        for _ in range(number % 3):
            batch.step()
        batch.cancel(ticket)
        batch.cancel(ticket)
    batch.step()
    assert batch.idle
    assert (batch.gauges().running, batch.gauges().waiting, batch.gauges().kv_bytes_used) == (0, 0, 0)
    assert served(batch, [Request(lives[0], steered(), 12)])[0].text == expected.text


def test_a_full_queue_says_when_to_come_back(family, lives) -> None:
    batch = batch_of(family, rows=1, waiting=2)
    for _ in range(3):  # one for the free seat, two that wait
        batch.submit(Request(lives[0], steered(), 4))
    with pytest.raises(QueueFullError) as caught:
        batch.submit(Request(lives[0], steered(), 4))
    assert caught.value.waiting == 3
    assert caught.value.retry_after >= 1


def test_an_owner_who_fills_the_queue_shuts_nobody_else_out(family, lives) -> None:
    batch = batch_of(family, rows=1, waiting=2)
    for _ in range(3):
        batch.submit(Request(lives[0], steered(), 4, owner="greedy"))
    batch.submit(Request(lives[0], steered(), 4, owner="modest"))
    for owner in ("greedy", "modest"):
        with pytest.raises(QueueFullError):
            batch.submit(Request(lives[0], steered(), 4, owner=owner))


def test_nothing_of_a_stop_string_is_shown(batch, lives) -> None:
    (free,) = served(batch, [Request(lives[0], steered(), 60)])
    for stop in (free.text[20:31], free.text[30:32], free.text[-9:]):
        (stopped,) = served(batch, [Request(lives[0], steered(), 60, (stop, "never there"))])
        assert stopped.text == free.text[: free.text.index(stop)]
        assert stopped.finish == "stop"


def test_what_is_not_finite_ends_one_text_and_is_nothing_that_later_ones_build_on(make_model) -> None:
    """A token whose reading breaks the model: at the end of a prompt, within it, or proposed and refused."""
    loaded = make_model(tie_word_embeddings=False)
    head = tuple(range(20, 60))
    (plain,) = continue_prompts(ModelDistribution(loaded), [Prompt(head, (), 12)], 1000)
    poison = next(token for token in range(60, 120) if token not in plain.ids)
    loaded.model.get_input_embeddings().weight[poison] = torch.nan
    batch = batch_of({"m": loaded}, rows=2, slots=120, prefill=16)
    for broken in ((*head, poison), (*head[:30], poison, *head), (poison, *head)):
        assert served(batch, [Request(broken, Mixture("m"), 4)])[0].finish == "not_finite"
        assert served(batch, [Request(head, Mixture("m"), 12)])[0].ids == plain.ids
    member = LocalMember("m", loaded, rows=2, slots=120)
    member.read([0, 1], [0, 0], [head, head])
    member.read([0], [40], [(poison,)])  # proposed, and refused
    assert torch.equal(*(member.read([row], [40], [plain.ids]).result() for row in (0, 1)))


def test_texts_that_end_in_the_round_in_which_a_member_is_lost_keep_their_end(family, lives) -> None:
    class Mortal(LocalMember):
        """A member whose process dies at the second prompt."""

        prompts = 1

        def read(self, rows, starts, tokens, last=False):
            self.prompts -= last
            if self.prompts < 0:
                raise MemberLostError("large is gone")
            return super().read(rows, starts, tokens, last)

    batch = Batcher(
        [Mortal("large", family["large"], rows=2, slots=SLOTS)],
        family["large"].tokenizer,
        ends=frozenset({2}),
        limits=Limits(proposals=0),
    )
    first = batch.submit(Request(lives[0], Mixture("large"), 2))
    assert [chunk.last for _, chunk in batch.step()] == [False]
    second = batch.submit(Request(lives[1], Mixture("large"), 2))
    ended = {ticket: chunk for ticket, chunk in batch.step() if chunk.last}
    assert (ended[first].finish, ended[second].error) == ("length", "large is gone")
    assert batch.idle


def test_a_lost_member_ends_every_text_with_an_error(family, lives) -> None:
    class Mortal(LocalMember):
        """A member whose process dies at a given call."""

        lives = 3

        def read(self, *args, **kwargs):
            self.lives -= 1
            if self.lives < 0:
                raise MemberLostError("small is gone")
            return super().read(*args, **kwargs)

    members = [LocalMember(name, family[name], rows=2, slots=SLOTS) for name in ("large", "small-tuned")]
    batch = Batcher(
        [*members, Mortal("small", family["small"], rows=2, slots=SLOTS)],
        family["large"].tokenizer,
        ends=frozenset({2}),
    )
    found = served(batch, [Request(ids, steered(), 60) for ids in lives[:4]])
    assert [one.error for one in found] == ["small is gone"] * 4
    with pytest.raises(MemberLostError, match="small is gone"):
        batch.submit(Request(lives[0], steered(), 4))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": Mixture("huge")}, "model 'huge': is not here; there are large, small-tuned, small"),
        ({"mixture": steered(math.nan)}, "alpha nan of small-tuned is not finite"),
        ({"prompt": ()}, "the prompt of large is empty"),
        ({"prompt": (1, 9999)}, "token 9999 is not in the vocabulary of large; ids end at 1535"),
        ({"prompt": (1,) * 300}, "the prompt's 300 tokens and max_tokens 8 are beyond the 256 tokens that large holds"),
        ({"max_tokens": 0}, "max_tokens 0"),
        ({"stops": ("",)}, "an empty string ends every text"),
        ({"sampling": Sampling(logit_bias={1536: 1.0})}, "logit_bias: token 1536 is not in the vocabulary"),
    ],
)
def test_a_request_that_cannot_be_served_is_refused_at_once(batch, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch.submit(replace(Request((1, 5), steered(), 8), **change))
    assert batch.idle


def test_accounts_are_those_made_after_the_fact(batch, family, lives) -> None:
    ensemble = Ensemble(family["large"], family["small-tuned"], family["small"], alpha=1.3)
    (found,) = served(batch, [Request(lives[0], steered(1.3), 30, account=4)])
    expected = account(ensemble, Prompt(lives[0], (), 30), found.ids, 4)
    assert [one.token for one in found.accounts] == list(found.ids)
    for one, other in zip(found.accounts, expected, strict=True):
        assert (one.changed, one.alpha) == (other.changed, other.alpha)
        assert one.shift == pytest.approx(other.shift, abs=1e-3)
        assert one.log_prob_shift == pytest.approx(other.log_prob_shift, abs=1e-3)
        views, theirs = (one.base, *one.steering, one.combined), (other.base, *other.steering, other.combined)
        assert [view.part for view in views] == [view.part for view in theirs]
        assert [view.top[0].token for view in views] == [view.top[0].token for view in theirs]
    assert any(one.changed for one in found.accounts)


def test_nothing_is_drafted_behind_what_ends_a_short_answer(family) -> None:
    """Answers of a word and a newline: once a newline was seen to end one, it is never proposed."""
    asked = [question.prompt for question in zero_shot(World.shipped(), 6, seed=1)]
    prompts = encode(family["large"].tokenizer, asked)
    batch = batch_of(family, rows=1, proposals=4)
    found = [served(batch, [Request(tuple(ids), steered(), 24, ("\n",))])[0] for ids in prompts]
    plain = [served(batch, [Request(tuple(ids), steered(), 24, ("\n",), draft=False)])[0] for ids in prompts]
    assert [one.text for one in found] == [one.text for one in plain]
    short = [one.usage for one in found[1:] if one.usage.completion_tokens == 2]
    assert len(short) >= 3
    assert found[0].usage.drafted > 0 == sum(usage.drafted for usage in short)
