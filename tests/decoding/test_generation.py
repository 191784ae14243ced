"""Greedy generation is transformers' own, token for token, whatever else is in the batch."""

import random
from collections import Counter
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from earnest.decoding import generation as plain_loop
from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.generation import Prompt, continue_prompts, continue_samples, generate
from earnest.decoding.sampling import GREEDY, Sampling
from earnest.models.loading import LoadedModel

LARGE = 10_000


def prompts_of(count: int, max_tokens: int = 12, shared: int = 0) -> list[Prompt]:
    rng = random.Random(3)
    block = tuple(rng.randrange(3, 700) for _ in range(shared))
    lengths = [rng.randrange(1, 30) for _ in range(count)]
    return [Prompt((*block, *(rng.randrange(3, 700) for _ in range(n))), (), max_tokens) for n in lengths]


def transformers_own(loaded: LoadedModel, prompt: Prompt) -> tuple[int, ...]:
    ids = torch.tensor([prompt.ids])
    whole = loaded.model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=prompt.max_tokens, do_sample=False, pad_token_id=0
    )
    made = whole[0, len(prompt.ids) :].tolist()
    return tuple(made[: made.index(2)] if 2 in made else made)


@pytest.mark.parametrize("family", ["Llama", "Qwen3", "GPT2", "OPT", "Mistral", "Gemma2"])
@pytest.mark.parametrize("shared", [0, 40])
def test_greedy_generation_equals_transformers(make_model, family: str, shared: int) -> None:
    loaded = make_model(family)
    prompts = prompts_of(7, shared=shared)
    found = continue_prompts(ModelDistribution(loaded), prompts, LARGE)
    assert [generation.ids for generation in found] == [transformers_own(loaded, prompt) for prompt in prompts]


def test_company_does_not_show(make_model) -> None:
    distribution = ModelDistribution(make_model())
    prompts = prompts_of(20)
    together = continue_prompts(distribution, prompts, LARGE)
    assert together == [continue_prompts(distribution, [prompt], LARGE)[0] for prompt in prompts]
    assert together == continue_prompts(distribution, prompts, 100)


def test_every_row_stops_at_its_own_string(make_model) -> None:
    distribution = ModelDistribution(make_model())
    free = continue_prompts(distribution, prompts_of(6), LARGE)
    prompts, expected = [], []
    for i, (prompt, generation) in enumerate(zip(prompts_of(6), free, strict=True)):
        middle = len(generation.text) // 2
        stop = generation.text[middle : middle + 2]
        prompts.append(Prompt(prompt.ids, (stop,) if i % 2 else (), 12))
        expected.append(
            (generation.text[: generation.text.index(stop)], "stop") if i % 2 else (generation.text, "length")
        )
    found = continue_prompts(distribution, prompts, LARGE)
    assert [(generation.text, generation.finish) for generation in found] == expected
    stopped = [len(generation.ids) for generation in found][1::2]
    assert max(stopped) < 12


def test_the_earliest_stop_string_wins(make_model) -> None:
    distribution = ModelDistribution(make_model())
    prompt = prompts_of(1)[0]
    text = continue_prompts(distribution, [prompt], LARGE)[0].text
    stops = (text[6:8], text[3:5])
    found = continue_prompts(distribution, [Prompt(prompt.ids, stops, 12)], LARGE)[0]
    assert found.text == text[: min(text.index(stop) for stop in stops)]


def test_limits_are_each_row_own(make_model) -> None:
    distribution = ModelDistribution(make_model())
    prompts = [Prompt(prompt.ids, (), 1 + i * 3) for i, prompt in enumerate(prompts_of(5))]
    found = continue_prompts(distribution, prompts, LARGE)
    long = continue_prompts(distribution, [Prompt(prompt.ids, (), 13) for prompt in prompts], LARGE)
    assert [g.ids for g in found] == [g.ids[: 1 + i * 3] for i, g in enumerate(long)]


def test_an_end_token_ends_the_row_and_is_not_part_of_it(make_model) -> None:
    loaded = make_model()
    prompt = prompts_of(1)[0]
    free = continue_prompts(ModelDistribution(loaded), [prompt], LARGE)[0]
    distribution = ModelDistribution(loaded)
    distribution.ends = frozenset({free.ids[4]})
    found = continue_prompts(distribution, [prompt], LARGE)[0]
    assert (found.ids, found.finish) == (free.ids[: free.ids.index(free.ids[4])], "end")


@pytest.mark.parametrize("family", ["GPT2", "Llama"])
def test_a_long_prompt_loses_its_beginning_and_says_so(make_model, family: str) -> None:
    """A row at the model's last position shares its batch with rows that go on."""
    loaded = make_model(family)
    rng = random.Random(0)
    long = Prompt(tuple(rng.randrange(3, 700) for _ in range(300)), (), 3)
    short = [Prompt((5, 6 + i), (), 100) for i in range(6)]
    found = continue_prompts(ModelDistribution(loaded), [long, *short], LARGE)
    assert found[0].cut == 300 - (128 - 3)
    assert found[0].ids == transformers_own(loaded, Prompt(long.ids[-125:], (), 3))
    assert [g.ids for g in found[1:]] == [transformers_own(loaded, prompt) for prompt in short]


def test_more_tokens_than_the_model_holds_are_refused(make_model) -> None:
    with pytest.raises(ValueError, match="max_tokens 128: the model holds 128 tokens"):
        continue_prompts(ModelDistribution(make_model()), [Prompt((1,), (), 128)], LARGE)


def test_an_empty_prompt_is_refused(make_model) -> None:
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        continue_prompts(ModelDistribution(make_model()), [Prompt(())], LARGE)


def test_text_is_continued(make_model) -> None:
    loaded = make_model()
    found = generate(loaded, ["Who is"], max_tokens=5)[0]
    ids = tuple(loaded.tokenizer("Who is")["input_ids"])
    assert ids[0] == 1
    assert found.ids == transformers_own(loaded, Prompt(ids, (), 5))


def test_nothing_to_generate_and_an_empty_stop_string_are_refused(make_model) -> None:
    with pytest.raises(ValueError, match="max_tokens 0: nothing to generate"):
        generate(make_model(), ["Ann"], max_tokens=0)
    with pytest.raises(ValueError, match="stop ''"):
        generate(make_model(), ["Ann"], max_tokens=4, stop=("\n", ""))


def test_a_row_whose_logits_are_not_finite_ends_there_and_the_others_go_on(make_model) -> None:
    loaded = make_model(tie_word_embeddings=False)
    prompts = [Prompt((5, 6), (), 4), Prompt((7, 8), (), 4)]
    whole = continue_prompts(ModelDistribution(loaded), prompts, LARGE)
    loaded.model.get_input_embeddings().weight[8] = torch.nan
    found = continue_prompts(ModelDistribution(loaded), prompts, LARGE)
    assert found[0] == whole[0]
    assert (found[1].ids, found[1].finish) == ((), "not_finite")


def test_what_is_remembered_of_stop_strings_is_bounded(make_model, monkeypatch) -> None:
    monkeypatch.setattr(plain_loop, "MOST_REMEMBERED", 8)
    reader = plain_loop.Reader(make_model().tokenizer, frozenset({2}))
    for number in range(100):
        row = plain_loop.row_of(number, Prompt((5, 6), (f"never {number}",), 4), 128)
        reader.append(row, 5 + number)
    assert len(reader._completes) <= 8


SETTINGS = [
    GREEDY,
    Sampling(temperature=0.8, top_p=0.9, seed=1),
    Sampling(temperature=1.2, top_k=40, repetition_penalty=1.3, seed=2),
    Sampling(frequency_penalty=1.0, presence_penalty=0.5),
    Sampling(temperature=1.0, seed=3, logprobs=2),
]


def test_rows_with_different_settings_share_a_batch_and_do_not_see_each_other(make_model) -> None:
    distribution = ModelDistribution(make_model())
    prompts = [replace(p, sampling=SETTINGS[i % len(SETTINGS)]) for i, p in enumerate(prompts_of(20))]
    together = continue_prompts(distribution, prompts, LARGE)
    alone = [continue_prompts(distribution, [prompt], LARGE)[0] for prompt in prompts]
    assert [g.ids for g in together] == [g.ids for g in alone]
    greedy = continue_prompts(distribution, prompts_of(20), LARGE)
    assert [g.ids for g in together[:: len(SETTINGS)]] == [g.ids for g in greedy[:: len(SETTINGS)]]
    assert [g.ids for g in together[1 :: len(SETTINGS)]] != [g.ids for g in greedy[1 :: len(SETTINGS)]]


def test_a_repetition_penalty_is_transformers_own(make_model) -> None:
    loaded = make_model()
    prompts = [replace(prompt, sampling=Sampling(repetition_penalty=1.8)) for prompt in prompts_of(5)]
    for prompt, found in zip(prompts, continue_prompts(ModelDistribution(loaded), prompts, LARGE), strict=True):
        ids = torch.tensor([prompt.ids])
        whole = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, repetition_penalty=1.8,
            pad_token_id=0,
        )  # fmt: skip
        made = whole[0, len(prompt.ids) :].tolist()
        assert found.ids == tuple(made[: made.index(2)] if 2 in made else made)


def test_samples_of_a_prompt_differ_and_come_again_with_the_same_seed(make_model) -> None:
    distribution = ModelDistribution(make_model())
    prompts = [replace(prompt, sampling=Sampling(temperature=1.0, seed=11)) for prompt in prompts_of(2)]
    first = continue_samples(distribution, prompts, 4, LARGE)
    assert first == continue_samples(distribution, prompts, 4, LARGE)
    assert [samples[0] for samples in first] == continue_prompts(distribution, prompts, LARGE)
    assert all(len({generation.ids for generation in samples}) == 4 for samples in first)


def test_less_than_one_sample_is_refused(make_model) -> None:
    with pytest.raises(ValueError, match="count 0: ask for at least one"):
        continue_samples(ModelDistribution(make_model()), prompts_of(1), 0, LARGE)


@torch.inference_mode()
def test_raw_log_probabilities_are_those_of_the_model(make_model) -> None:
    loaded = make_model()
    prompt = replace(prompts_of(1)[0], sampling=Sampling(temperature=0.6, logprobs=3, seed=4))
    found = continue_prompts(ModelDistribution(loaded), [prompt], LARGE)[0]
    whole = loaded.model(torch.tensor([[*prompt.ids, *found.ids]])).logits.log_softmax(-1)[0, len(prompt.ids) - 1 :]
    assert [known.token for known in found.logprobs] == list(found.ids)
    for row, known in zip(whole, found.logprobs, strict=False):
        assert known.raw.chosen == pytest.approx(float(row[known.token]), abs=1e-4)
        assert [token for token, _ in known.raw.top] == row.topk(3).indices.tolist()


def test_sampled_tokens_follow_the_distribution_of_the_model(make_model) -> None:
    loaded = make_model(vocab_size=700)
    sampling = Sampling(temperature=0.7, top_k=6, seed=5)
    found = continue_samples(ModelDistribution(loaded), [Prompt((1, 20, 30), (), 1, sampling=sampling)], 2000, LARGE)
    scores, tokens = loaded.model(torch.tensor([[1, 20, 30]])).logits[0, -1].topk(6)
    expected = (scores.double() / 0.7).softmax(-1) * 2000
    counts = Counter(generation.ids[0] if generation.ids else 2 for generation in found[0])
    assert set(counts) <= set(tokens.tolist())
    assert chisquare([counts[token] for token in tokens.tolist()], expected.numpy()).pvalue > 1e-3
