"""Greedy generation is transformers' own, token for token, whatever else is in the batch."""

import random

import pytest
import torch

from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.generation import Prompt, continue_prompts, generate
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
