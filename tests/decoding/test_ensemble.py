"""The ensemble is base + sum of alpha * (expert - antiexpert), step by step."""

import copy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from earnest.decoding.distribution import ModelDistribution
from earnest.decoding.ensemble import Ensemble, Pair, check_vocabularies
from earnest.decoding.generation import Prompt, continue_prompts, generate
from earnest.models.loading import LoadedModel
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


def test_a_token_that_some_head_lacks_is_never_chosen(make_model) -> None:
    base, narrow = make_model(seed=0), make_model(seed=1, vocab_size=690)
    session = Ensemble(base, narrow, alpha=0.5).open([[1, 20, 30]])
    assert session.logits.shape == (1, 700)
    assert bool(session.logits[:, 690:].isneginf().all())
    assert bool(session.logits[:, :690].isfinite().all())


def test_rows_of_a_head_that_are_no_token_are_masked_and_not_cut_off(make_model) -> None:
    session = Ensemble(make_model(seed=0, vocab_size=720), make_model(seed=1)).open([[1, 20, 30]])
    assert session.logits.shape == (1, 720)
    assert bool(session.logits[:, 700:].isneginf().all())


def test_alpha_zero_gives_the_logits_of_the_base_bit_for_bit_and_runs_nothing_else(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    ensemble = Ensemble(base, expert, make_model(seed=2), alpha=0.0)
    prompts = [prompt.ids for prompt in PROMPTS]
    assert torch.equal(ensemble.open(prompts).logits, ModelDistribution(base).open(prompts).logits)
    assert [member.tokens_forwarded for member in ensemble.members[1:]] == [0, 0]


@torch.inference_mode()
def test_several_pairs_add_their_shifts(make_model) -> None:
    base, one, other, anti = (make_model(seed=seed) for seed in range(4))
    ensemble = Ensemble.of(base, [Pair(one, anti, 0.6), Pair(other, None, 0.4), Pair(one, other, -0.5)])
    found = ensemble.open([[1, 20, 30]]).logits
    b, e, f, a = (m.model(torch.tensor([[1, 20, 30]])).logits[:, -1] for m in (base, one, other, anti))
    torch.testing.assert_close(found, b + 0.6 * (e - a) + 0.4 * (f - b) - 0.5 * (e - f))
    assert ensemble.tokens_forwarded == 4 * 3


def test_without_pairs_the_base_stands_alone(make_model) -> None:
    base = make_model()
    assert continue_prompts(Ensemble.of(base, []), PROMPTS, 1000) == continue_prompts(
        ModelDistribution(base), PROMPTS, 1000
    )


@torch.inference_mode()
def test_every_model_may_read_its_own_form_of_the_prompt(make_model) -> None:
    """Also the same model with two forms, and rows whose forms have different lengths."""
    base, expert = make_model(seed=0), make_model(seed=1)
    forms = [((1, 7, 8, 9, 20), (1, 20)), ((), ()), ((1, 5), (1, 6, 6, 6, 6, 6, 6))]
    prompts = [
        Prompt(prompt.ids, (), 8, forms=form if any(form) else ()) for prompt, form in zip(PROMPTS, forms, strict=True)
    ]
    found = continue_prompts(Ensemble(base, expert, base, alpha=0.8), prompts, 1000)
    for prompt, generation in zip(prompts, found, strict=True):
        rows = [list(ids) for ids in (prompt.ids, *(prompt.forms or (prompt.ids, prompt.ids)))]
        for token in generation.ids:
            logits = [
                model.model(torch.tensor([row])).logits[0, -1]
                for model, row in zip((base, expert, base), rows, strict=True)
            ]
            assert token == int((logits[0] + 0.8 * (logits[1] - logits[2])).argmax())
            for row in rows:
                row.append(token)


def test_a_wrong_number_of_forms_is_refused(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    prompt = Prompt((1, 20), (), 4, forms=((1, 20), (1, 20)))
    with pytest.raises(ValueError, match="prompt 0 has 2 forms; give one for each of 1 steering"):
        continue_prompts(Ensemble(base, expert), [prompt], 1000)
    with pytest.raises(ValueError, match="forms for steering models, but this is one model"):
        continue_prompts(ModelDistribution(base), [prompt], 1000)


@pytest.mark.parametrize("family", ["Llama", "GPT2", "OPT", "Gemma2"])
def test_reading_ahead_gives_the_logits_after_each_token(make_model, family: str) -> None:
    """Rows of different lengths read different numbers of tokens; each logit is that of a row read at once."""
    ensemble = Ensemble(make_model(family, seed=0), make_model(family, seed=1), make_model(family, seed=2))
    session = ensemble.open([[1, 20, 30, 40], [1, 9]])
    ahead = session.read([[50, 51, 52], [60]])
    for row, ids in enumerate([[1, 20, 30, 40, 50, 51, 52], [1, 9, 60]]):
        torch.testing.assert_close(session.logits[row], ensemble.open([ids]).logits[0], rtol=1e-4, atol=1e-4)
    alone = ensemble.open([[1, 20, 30, 40, 50, 51]]).logits[0]
    torch.testing.assert_close(ahead[0, 1], alone, rtol=1e-4, atol=1e-4)


def test_an_alpha_that_is_not_finite_is_refused(make_model) -> None:
    with pytest.raises(UserError, match="alpha nan of Llama-1 is not finite"):
        Ensemble(make_model(seed=0), make_model(seed=1), alpha=float("nan"))


def test_different_vocabularies_are_refused_token_by_token(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    expert.tokenizer = copy.deepcopy(expert.tokenizer)
    expert.tokenizer.add_tokens(["<odd>", "<odder>"])
    with pytest.raises(UserError, match=r"token '<odd>' is None and 700 \(2 tokens differ\)"):
        Ensemble(base, expert, base)


def test_the_first_differing_token_is_named_whoever_has_it() -> None:
    """By hand: b and c change places at 1, and only one vocabulary has d, only the other e, at 3."""

    def speaker(name: str, words: str) -> LoadedModel:
        words_of = WordLevel({word: number for number, word in enumerate(words)}, unk_token="a")
        return LoadedModel(None, PreTrainedTokenizerFast(tokenizer_object=Tokenizer(words_of)), name, "", Path())

    with pytest.raises(UserError, match=r"one and other have .* token 'b' is 1 and 2 \(4 tokens differ\)"):
        check_vocabularies(speaker("one", "abcd"), speaker("other", "acbe"))
    check_vocabularies(speaker("one", "abcd"), speaker("other", "abcd"))
