"""The account of a token is what the models say when they are asked one by one."""

import pytest
import torch

from earnest.decoding.account import account
from earnest.decoding.ensemble import Ensemble, Pair
from earnest.decoding.generation import Prompt, continue_prompts

PROMPT = Prompt((1, 20, 30, 40), (), 10)


@torch.inference_mode()
def test_every_view_and_shift_is_that_of_whole_passes(make_model) -> None:
    models = [make_model(seed=seed) for seed in range(3)]
    ensemble = Ensemble(*models, alpha=0.7)
    (generation,) = continue_prompts(ensemble, [PROMPT], 1000)
    found = account(ensemble, PROMPT, generation.ids, count=3)
    assert [entry.token for entry in found] == list(generation.ids)
    text = torch.tensor([[*PROMPT.ids, *generation.ids[:-1]]])
    base, expert, anti = (model.model(text).logits[0, len(PROMPT.ids) - 1 :] for model in models)
    combined = base + 0.7 * (expert - anti)
    for i, entry in enumerate(found):
        for view, logits in zip(
            (entry.base, *entry.steering, entry.combined), (base, expert, anti, combined), strict=True
        ):
            assert [candidate.token for candidate in view.top] == logits[i].topk(3).indices.tolist()
            assert [candidate.logit for candidate in view.top] == pytest.approx(
                logits[i].topk(3).values.tolist(), abs=1e-3
            )
            assert view.chosen.log_prob == pytest.approx(float(logits[i].log_softmax(-1)[entry.token]), abs=1e-3)
        assert entry.shift == pytest.approx(0.7 * float((expert - anti)[i, entry.token]), abs=1e-3)
        assert entry.changed == (int(base[i].argmax()) != int(combined[i].argmax()))
    assert any(entry.changed for entry in found)


def test_parts_are_named_and_pairs_counted(make_model) -> None:
    base, one, other, anti = (make_model(seed=seed) for seed in range(4))
    ensemble = Ensemble.of(base, [Pair(one), Pair(anti, one, alpha=0.0), Pair(other, anti, 0.5)])
    (entry,) = account(ensemble, PROMPT, [50])
    assert (entry.base.part, entry.base.model, entry.combined.part) == ("base", "Llama-0", "combined")
    assert [(view.part, view.model, view.pair) for view in entry.steering] == [
        ("expert", "Llama-1", 0), ("expert", "Llama-2", 2), ("antiexpert", "Llama-3", 2),
    ]  # fmt: skip
    assert entry.text == base.tokenizer.decode([50])


def test_with_alpha_zero_nothing_changes(make_model) -> None:
    ensemble = Ensemble(make_model(seed=0), make_model(seed=1), alpha=0.0)
    for entry in account(ensemble, PROMPT, [50, 60, 70]):
        assert (entry.shift, entry.log_prob_shift, entry.changed, entry.steering) == (0, 0, False, ())


def test_a_constant_on_all_logits_of_an_expert_is_in_the_shift_only(make_model) -> None:
    """By hand: the same model with 3 added to every logit moves logits by 3 and no probability."""
    base, expert = make_model(seed=0), make_model(seed=0)
    head = expert.model.lm_head
    expert.model.lm_head = torch.nn.Linear(head.in_features, head.out_features)
    with torch.no_grad():
        expert.model.lm_head.weight.copy_(head.weight)
        expert.model.lm_head.bias.fill_(3.0)
    (entry,) = account(Ensemble(base, expert), PROMPT, [50])
    assert entry.shift == pytest.approx(3.0, abs=1e-4)
    assert entry.log_prob_shift == pytest.approx(0.0, abs=1e-4)
    assert not entry.changed


def test_masked_tokens_are_nobodys_candidates_in_the_combination(make_model) -> None:
    ensemble = Ensemble(make_model(seed=0), make_model(seed=1, vocab_size=690))
    (entry,) = account(ensemble, PROMPT, [5], count=700)
    assert max(candidate.token for candidate in entry.combined.top) < 690
    assert len(entry.base.top) == 700


@torch.inference_mode()
def test_forms_are_read_by_their_models(make_model) -> None:
    base, expert = make_model(seed=0), make_model(seed=1)
    prompt = Prompt((1, 20, 30), (), 4, forms=((1, 9, 9, 9),))
    found = account(Ensemble(base, expert), prompt, [50, 60])
    logits = expert.model(torch.tensor([[1, 9, 9, 9, 50]])).logits[0, -2:]
    assert [entry.steering[0].top[0].token for entry in found] == logits.argmax(-1).tolist()


def test_what_cannot_be_accounted_for_is_refused(make_model) -> None:
    ensemble = Ensemble(make_model(seed=0), make_model(seed=1))
    assert account(ensemble, PROMPT, []) == []
    with pytest.raises(ValueError, match="11 tokens do not continue a prompt with max_tokens 10"):
        account(ensemble, PROMPT, [5] * 11)
    with pytest.raises(ValueError, match="count 0: show at least one candidate"):
        account(ensemble, PROMPT, [5], count=0)
