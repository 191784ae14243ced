"""Processors do what transformers' own do, in the documented order, and draws are the row's own."""

import math

import pytest
import torch
from pydantic import ValidationError
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from earnest.decoding.sampling import GREEDY, NO_TOKEN, TOLD, Draw, Sampling, choose, processed

NOTHING = ((), ())


def some_logits(rows: int = 6, vocabulary: int = 50) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(7)) * 3


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(0.7, 0, 1.0), (1.0, 5, 1.0), (1.3, 0, 0.8), (0.5, 10, 0.6), (2.0, 49, 0.999)]
)
def test_processed_probabilities_equal_those_of_transformers(temperature: float, top_k: int, top_p: float) -> None:
    logits = some_logits()
    prompt, written = [1, 4, 9], [4, 30]
    theirs = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.4), TemperatureLogitsWarper(temperature)])
    if top_k:
        theirs.append(TopKLogitsWarper(top_k))
    theirs.append(TopPLogitsWarper(top_p))
    expected = theirs(torch.tensor([prompt + written] * 6), logits.double()).softmax(-1)
    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=1.4)
    torch.testing.assert_close(processed(logits, sampling, [(prompt, written)] * 6), expected)


def test_bias_comes_first_then_penalties_then_temperature() -> None:
    """By hand: token 0 is biased from -1 to 1 and then divided by 2, token 1 pays presence once and frequency twice."""
    sampling = Sampling(
        temperature=0.5, logit_bias={0: 2.0}, repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.5
    )
    found = processed(torch.tensor([[-1.0, 4.0, -1.0]]), sampling, [([0, 2], [1, 1])])
    expected = torch.tensor([[0.5, 4 / 2 - 0.25 - 2 * 0.5, -2.0]], dtype=torch.float64) / 0.5
    torch.testing.assert_close(found, expected.softmax(-1))


def test_top_p_keeps_the_fewest_tokens_that_reach_it_and_one_at_least() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    kept = [int((processed(logits, Sampling(temperature=1, top_p=p), [NOTHING]) > 0).sum()) for p in (0.01, 0.6, 0.9)]
    assert kept == [1, 2, 3]


def test_top_k_keeps_exactly_k_where_all_tie() -> None:
    found = processed(torch.zeros(1, 6), Sampling(temperature=1, top_k=2), [NOTHING])
    assert found.tolist() == [[0.5, 0.5, 0, 0, 0, 0]]


@pytest.mark.parametrize("temperature", [1e-300, 1e-6, 1e6])
def test_no_temperature_overflows(temperature: float) -> None:
    found = processed(some_logits(), Sampling(temperature=temperature), [NOTHING] * 6)
    assert bool(found.isfinite().all())
    torch.testing.assert_close(found.sum(-1), torch.ones(6, dtype=torch.float64))


def test_a_masked_token_is_not_drawn_whatever_its_bias() -> None:
    logits = some_logits(rows=1)
    logits[0, 3] = -torch.inf
    assert processed(logits, Sampling(temperature=5.0, logit_bias={3: 1000.0}), [NOTHING])[0, 3] == 0


def test_zero_temperature_takes_the_likeliest_of_the_processed_scores() -> None:
    logits = some_logits(rows=1)
    best, second = logits[0].topk(2).indices.tolist()
    assert choose(logits, [Draw(GREEDY, (), [])])[0] == [best]
    assert choose(logits, [Draw(Sampling(logit_bias={best: -100.0}), (), [])])[0] == [second]
    assert choose(logits, [Draw(Sampling(presence_penalty=50.0), (), [best])])[0] == [second]


def test_settings_that_differ_share_a_batch() -> None:
    logits = some_logits()
    settings = [
        GREEDY, Sampling(temperature=1, seed=3), Sampling(temperature=1, seed=4), Sampling(temperature=0.5, top_k=3),
        Sampling(logprobs=2), Sampling(temperature=1, seed=3, frequency_penalty=0.4),
    ]  # fmt: skip
    together = choose(logits, [Draw(sampling, (1, 2), [5]) for sampling in settings])
    apart = [choose(logits[i : i + 1], [Draw(sampling, (1, 2), [5])]) for i, sampling in enumerate(settings)]
    assert together == ([tokens[0] for tokens, _ in apart], [known[0] for _, known in apart])


def test_log_probabilities_are_of_the_raw_and_of_the_processed_distribution() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    _, (known,) = choose(logits, [Draw(Sampling(temperature=0.5, top_k=2, logprobs=3, seed=1), (), [])])
    assert known is not None
    raw, ours = dict(known.raw.top), dict(known.processed.top)
    assert raw == pytest.approx({0: math.log(0.5), 1: math.log(0.3), 2: math.log(0.15)})
    assert ours == pytest.approx({0: math.log(0.25 / 0.34), 1: math.log(0.09 / 0.34)})
    assert known.raw.chosen == pytest.approx(raw[known.token])
    assert known.processed.chosen == pytest.approx(ours[known.token])


def test_samples_of_a_prompt_have_seeds_of_their_own() -> None:
    sampling = Sampling(temperature=1, seed=9)
    assert sampling.nth(0) == sampling
    assert len({sampling.nth(i).seed for i in range(100)} | {Sampling(seed=10).nth(i).seed for i in range(100)}) == 200


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"logit_bias": {-4: 1.0}}, "token -4 with 1.0: ids begin at 0"),
        ({"logit_bias": {4: float("inf")}}, "-100 bans a token"),
        ({"top_q": 1}, "top_q"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, object], rule: str) -> None:
    with pytest.raises(ValidationError, match=rule):
        Sampling(**fields)


def test_a_bias_for_a_token_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="logit_bias: token 50 is not in the vocabulary; ids end at 49"):
        processed(some_logits(), Sampling(logit_bias={50: 1.0}), [NOTHING] * 6)


def test_a_row_whose_logits_are_not_finite_gets_no_token_greedy_or_drawn() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], [0.0, float("nan"), 2.0]])
    for sampling in (GREEDY, Sampling(temperature=1.0, logprobs=1)):
        tokens, _ = choose(logits, [Draw(sampling, (), []), Draw(sampling, (), [])])
        assert tokens[0] in range(3)
        assert tokens[1] == NO_TOKEN


def test_the_likeliest_token_tells_the_same_alone_as_among_others() -> None:
    logits = some_logits()
    alone = choose(logits, [Draw(TOLD, (), [])] * 6)
    mixed = choose(logits, [Draw(TOLD, (), [])] * 5 + [Draw(Sampling(temperature=0.5), (), [])])
    assert alone[0][:5] == mixed[0][:5]
    for one, other in zip(alone[1][:5], mixed[1][:5], strict=True):
        assert one is not None
        assert other is not None
        assert (one.token, one.processed) == (other.token, other.processed)
        assert one.raw.chosen == pytest.approx(other.raw.chosen, abs=1e-6)
    assert choose(torch.tensor([[0.0, float("nan"), 2.0]]), [Draw(TOLD, (), [])])[0] == [NO_TOKEN]
