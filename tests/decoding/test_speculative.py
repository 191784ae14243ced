"""Speculative decoding gives the text of plain decoding, or a text of exactly the same distribution."""

import itertools
import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from earnest.almanac.questions import biographies
from earnest.almanac.world import World
from earnest.decoding.distribution import ModelDistribution, NextTokens
from earnest.decoding.drafting import Drafter, LookupDrafter, ModelDrafter, Proposal
from earnest.decoding.encoding import encode
from earnest.decoding.ensemble import Ensemble
from earnest.decoding.generation import Prompt, continue_prompts
from earnest.decoding.sampling import Draw, Sampling, processed
from earnest.decoding.speculative import Pace, Speculation, continue_speculatively, verified

PROMPTS = [
    Prompt((1, 20, 30, 40), (), 14),
    Prompt((1, 9), (), 1),
    Prompt((1, 9, 50), (), 2),
    Prompt((1, 77, 78, 79, 77, 78, 79, 77), (), 20),
]


def plain(distribution: NextTokens, prompts: list[Prompt]) -> list:
    return [continue_prompts(distribution, [prompt], 10_000)[0] for prompt in prompts]


def drafters(*models) -> list[Drafter]:
    found: list[Drafter] = [ModelDrafter(ModelDistribution(model)) for model in models]
    return [*found, ModelDrafter(Ensemble(models[0], models[-1], alpha=0.5)), LookupDrafter()]


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_nano_answers_are_those_of_plain_decoding(nano, short_prompts, alpha: float) -> None:
    ensemble = Ensemble(nano("large"), nano("small-tuned"), nano("small"), alpha=alpha)
    prompts = [Prompt(ids, ("\n",), 16) for ids in short_prompts[:40]]
    expected = plain(ensemble, prompts)
    for drafter in (ModelDrafter(ModelDistribution(nano("small-tuned"))), LookupDrafter()):
        found, report = continue_speculatively(ensemble, prompts, drafter)
        assert found == expected
        assert report.tokens == sum(len(generation.ids) for generation in found)


def test_nano_biographies_are_those_of_plain_decoding_in_fewer_passes(nano) -> None:
    ensemble = Ensemble(nano("large"), nano("small-tuned"), nano("small"))
    texts = [question.prompt for question in biographies(World.shipped(), 4, seed=1)]
    prompts = [Prompt(tuple(ids), ("\n",), 90) for ids in encode(ensemble.tokenizer, texts)]
    found, report = continue_speculatively(ensemble, prompts, ModelDrafter(ModelDistribution(nano("small-tuned"))))
    assert found == plain(ensemble, prompts)
    assert report.tokens_per_round > 2
    assert 0.5 < report.acceptance < 1


@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT", "Gemma2"])
@pytest.mark.parametrize("gamma", [None, 1, 5])
def test_greedy_text_does_not_depend_on_the_drafter(make_model, family: str, gamma: int | None) -> None:
    """Also where the drafter is useless (random weights), and where it is the verifier itself and always right."""
    base, other = make_model(family, seed=0), make_model(family, seed=1)
    ensemble = Ensemble(base, other, alpha=0.2)
    expected = plain(ensemble, PROMPTS)
    for drafter in [*drafters(base, other), ModelDrafter(ensemble)]:
        assert continue_speculatively(ensemble, PROMPTS, drafter, gamma)[0] == expected


def test_a_drafter_that_is_the_verifier_is_always_accepted(make_model) -> None:
    ensemble = Ensemble(make_model(seed=0), make_model(seed=1), alpha=0.2)
    prompts = [replace(PROMPTS[0], sampling=Sampling(temperature=t, seed=2)) for t in (0.0, 1.0)]
    _, report = continue_speculatively(ensemble, prompts, ModelDrafter(ensemble), gamma=3)
    assert report.proposed == report.accepted > 0


def test_penalties_biases_and_log_probabilities_are_those_of_plain_decoding(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    sampling = Sampling(
        repetition_penalty=1.5, presence_penalty=0.4, frequency_penalty=0.7, logit_bias={5: 2.0}, logprobs=2
    )
    ensemble = Ensemble(base, expert, alpha=0.4)
    prompts = [replace(prompt, sampling=sampling) for prompt in PROMPTS]
    expected = plain(ensemble, prompts)
    for drafter in drafters(base, expert):
        found, _ = continue_speculatively(ensemble, prompts, drafter)
        assert [g.ids for g in found] == [g.ids for g in expected]
        for one, other in zip(found, expected, strict=True):
            assert [k.raw.chosen for k in one.logprobs] == pytest.approx(
                [k.raw.chosen for k in other.logprobs], abs=1e-3
            )


def test_stops_and_ends_inside_a_proposal_end_the_row_there(make_model) -> None:
    base = make_model(seed=0)
    distribution = ModelDistribution(base)
    free = plain(distribution, PROMPTS[:1])[0]
    stopping = replace(PROMPTS[0], stops=(free.text[len(free.text) // 2 :][:3],))
    same = ModelDrafter(ModelDistribution(base))
    assert continue_speculatively(distribution, [stopping], same, 6)[0] == plain(distribution, [stopping])
    distribution.ends = frozenset({free.ids[4]})
    found = continue_speculatively(distribution, PROMPTS[:1], same, 6)[0]
    assert found == plain(distribution, PROMPTS[:1])
    assert found[0].finish == "end"


def test_forms_of_the_prompt_reach_verifier_and_drafter(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    prompts = [Prompt((1, 20, 30), (), 10, forms=((1, 5, 5, 20),))]
    ensemble = Ensemble(base, expert)
    drafter = ModelDrafter(ModelDistribution(expert), form=0)
    found, report = continue_speculatively(ensemble, prompts, drafter, 4)
    assert found == plain(ensemble, prompts)
    assert report.acceptance == 1  # with the base as antiexpert and alpha 1 the ensemble is the expert


def test_a_drafter_without_room_only_stops_proposing(make_model) -> None:
    base, short = make_model(seed=0), make_model(seed=0, max_position_embeddings=12)
    prompts = [Prompt((1, 20, 30, 40), (), 30), Prompt(tuple(range(3, 43)), (), 10)]
    found, report = continue_speculatively(ModelDistribution(base), prompts, ModelDrafter(ModelDistribution(short)), 4)
    assert found == plain(ModelDistribution(base), prompts)
    assert 0 < report.proposed <= 10


def p_value(counts: Counter, expected: dict, draws: int) -> float:
    """Pearson's chi-square; outcomes expected less than five times are one."""
    often = [outcome for outcome, share in expected.items() if share * draws >= 5]
    observed = [counts[outcome] for outcome in often]
    wanted = [expected[outcome] * draws for outcome in often]
    rest = draws - sum(wanted)
    if rest >= 1:
        observed, wanted = [*observed, draws - sum(observed)], [*wanted, rest]
    return float(chisquare(observed, wanted, sum_check=False).pvalue)


SETTINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.6, top_p=0.85),
    Sampling(temperature=1.4, top_k=4, frequency_penalty=0.8, logit_bias={3: 0.7}),
]


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SETTINGS)
@pytest.mark.parametrize("certain", [False, True])
def test_the_first_verified_token_has_the_distribution_of_the_verifier(sampling: Sampling, certain: bool) -> None:
    """6,000 draws over 8 tokens; the test itself can tell the drafter's distribution from the verifier's."""
    torch.manual_seed(0)
    raw, drafted = torch.randn(3, 8) * 1.5, torch.randn(2, 8) * 1.5
    draw = Draw(sampling, (1, 2), [3])
    p = processed(raw[:1], sampling, [((1, 2), [3])])[0]
    q = processed(drafted, sampling, [((1, 2), [3]), ((1, 2), [3])])
    rng, draws, counts = random.Random(4), 6_000, Counter()
    for _ in range(draws):
        tokens = (3, 4) if certain else tuple(rng.choices(range(8), row.tolist())[0] for row in q)
        counts[verified(raw, Proposal(tokens, None if certain else q), draw)[0][0]] += 1
    assert p_value(counts, dict(enumerate(p.tolist())), draws) > 1e-3
    assert all(p[token] > 0 for token in counts)
    assert p_value(counts, dict(enumerate(q[0].tolist())), draws) < 1e-9


def sequences(distribution: NextTokens, prompt: tuple[int, ...], length: int, sampling: Sampling) -> dict:
    """The probability of every continuation, by plain reading; an end token ends it."""
    shares: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        longer: dict[tuple[int, ...], float] = {}
        for written, share in shares.items():
            if written and written[-1] in distribution.ends:
                longer[written] = share
                continue
            logits = distribution.open([[*prompt, *written]]).logits
            row = processed(logits, sampling, [(prompt, written)])[0]
            for token in row.nonzero()[:, 0].tolist():
                longer[(*written, token)] = share * float(row[token])
        shares = longer
    return shares


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SETTINGS[1:])
@pytest.mark.parametrize("drafts", ["expert", "lookup"])
def test_sampled_continuations_have_the_distribution_of_the_ensemble(make_model, sampling: Sampling, drafts) -> None:
    """Whole continuations of three tokens of real models over a vocabulary of 7."""
    sizes = {
        "vocab_size": 7,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    base, expert, anti = (make_model(seed=seed, **sizes) for seed in range(3))
    ensemble, prompt, draws = Ensemble(base, expert, anti, alpha=0.8), (1, 4, 5, 4), 1000
    drafter = LookupDrafter() if drafts == "lookup" else ModelDrafter(ModelDistribution(expert))
    prompts = [Prompt(prompt, (), 3, sampling=sampling.nth(i + 1)) for i in range(draws)]
    found, report = continue_speculatively(ensemble, prompts, drafter, gamma=2)
    counts = Counter((*g.ids, 2) if g.finish == "end" else g.ids for g in found)
    expected = sequences(ensemble, prompt, 3, sampling)
    assert sum(expected.values()) == pytest.approx(1)
    assert set(counts) <= set(expected)
    assert len([share for share in expected.values() if share * draws >= 5]) > 5
    assert p_value(counts, expected, draws) > 1e-3
    assert 0.02 < report.acceptance < 0.98


def test_the_pace_follows_what_is_accepted() -> None:
    def after(accepted: int) -> int:
        pace = Pace(cost=0.1)
        for _ in range(50):
            pace.saw(6, accepted)
        return pace.count

    counts = [after(accepted) for accepted in range(7)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 16


def test_reports_add_up() -> None:
    total = Speculation(2, 6, 3, 5) + Speculation(1, 2, 1, 2)
    assert (total.acceptance, total.tokens_per_round) == (0.5, 7 / 3)
    assert (Speculation().acceptance, Speculation().tokens_per_round) == (0.0, 0.0)


def test_proposing_nothing_is_refused(make_model) -> None:
    with pytest.raises(ValueError, match="gamma 0: propose at least one token"):
        continue_speculatively(ModelDistribution(make_model()), PROMPTS, LookupDrafter(), gamma=0)


def test_lookup_proposes_what_followed_the_longest_match() -> None:
    drafting = LookupDrafter().open((), (), 10)
    for count, expected in itertools.product((1, 3), [(9, 8, 7)]):
        draw = Draw(Sampling(), (4, 5, 6, 9, 8, 7, 6, 3), [5, 6])
        assert drafting.propose(draw, count).tokens == expected[:count]
    assert drafting.propose(Draw(Sampling(), (1, 2, 3), [4]), 5).tokens == ()
