"""The ensemble is base + alpha * (expert - antiexpert), step by step."""

import copy

import pytest
import torch

from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.ensemble import Ensemble
from earnest.decoding.generation import Prompt, continue_prompts, generate
from earnest.specs import UserError

PROMPTS = [Prompt((1, 20, 30, 40), (), 10), Prompt((1, 9), (), 10), Prompt((1, 77, 78, 79, 80, 81), (), 6)]


def test_alpha_zero_is_the_base(make_model) -> None:
    base, expert, antiexpert = (make_model(seed=seed) for seed in range(3))
    ensemble = Ensemble(base, expert, antiexpert, alpha=0.0)
    assert continue_prompts(ensemble, PROMPTS, 1000) == continue_prompts(ModelDistribution(base), PROMPTS, 1000)


def test_base_as_antiexpert_with_alpha_one_is_the_expert(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    found = continue_prompts(Ensemble(base, expert), PROMPTS, 1000)
    assert [g.ids for g in found] == [g.ids for g in continue_prompts(ModelDistribution(expert), PROMPTS, 1000)]


def test_tokens_of_all_models_are_counted(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    ensemble = Ensemble(base, expert)
    continue_prompts(ensemble, [Prompt((1, 20, 30), (), 2)], 1000)
    assert ensemble.tokens_forwarded == 2 * (3 + 1)


@torch.inference_mode()
def test_every_token_is_the_best_of_the_combined_logits(make_model) -> None:
    models = [make_model(seed=seed) for seed in range(3)]
    found = continue_prompts(Ensemble(*models, alpha=0.7), PROMPTS, 1000)
    for prompt, generation in zip(PROMPTS, found, strict=True):
        ids = list(prompt.ids)
        for token in generation.ids:
            base, expert, antiexpert = (model.model(torch.tensor([ids])).logits[0, -1] for model in models)
            assert token == int((base + 0.7 * (expert - antiexpert)).argmax())
            ids.append(token)


def test_heads_padded_to_different_widths_are_cut_to_the_vocabulary(make_model) -> None:
    base = make_model(seed=0)
    wide = make_model(seed=0, vocab_size=720)
    with torch.no_grad():
        for name, tensor in base.model.state_dict().items():
            wide.model.state_dict()[name][: tensor.shape[0]].copy_(tensor)
    found = generate(Ensemble(base, wide, wide), ["Who"], max_tokens=6)
    assert found == generate(base, ["Who"], max_tokens=6)


def test_different_vocabularies_are_refused_token_by_token(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    expert.tokenizer = copy.deepcopy(expert.tokenizer)
    expert.tokenizer.add_tokens(["<odd>"])
    with pytest.raises(UserError, match="token '<odd>' is None and 700"):
        Ensemble(base, expert, base)
