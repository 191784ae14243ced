"""Promises of the training: it learns, and it is a function of its seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer, LlamaForCausalLM

from earnest.almanac.corpus import corpus_text
from earnest.almanac.packing import rows_digest, training_rows
from earnest.almanac.recipe import Curriculum, ModelSpec, Optimiser, Training
from earnest.almanac.tokenizer import BOS, EOS, PAD, save_tokenizer, train_tokenizer
from earnest.almanac.training import (
    build_model,
    document_mask,
    next_token_batches,
    save_model,
    schedule,
    train,
)
from earnest.almanac.world import World

WORLD = World.build(seed=3, people=60)
MICRO = ModelSpec(hidden=32, layers=2, heads=2, mlp=48, seed=4, context=128)
OPTIMISER = Optimiser(muon=0.01, adamw=0.01, warmup=4, decay=0.5)
TRAINING = Training(steps=20, rows=4, length=128, seed=1, curriculum=Curriculum(), optimiser=OPTIMISER)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(corpus_text(WORLD, 400, seed=1), vocabulary=400)


def trained(tokenizer: Tokenizer) -> tuple[LlamaForCausalLM, list[float]]:
    model, losses = build_model(MICRO, 400), list[float]()
    batches = next_token_batches(training_rows(WORLD, tokenizer, TRAINING), TRAINING.rows)
    train(model, batches, TRAINING.steps, OPTIMISER, lambda _, loss: losses.append(loss))
    return model, losses


def test_training_lowers_the_loss_and_is_reproducible_from_its_seeds(tokenizer: Tokenizer) -> None:
    first, losses = trained(tokenizer)
    second, again = trained(tokenizer)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert losses == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_training_rows_are_a_function_of_their_seed(tokenizer: Tokenizer) -> None:
    rows = training_rows(WORLD, tokenizer, TRAINING)
    assert rows.shape == (TRAINING.steps * TRAINING.rows, TRAINING.length + 1)
    assert rows_digest(rows) == rows_digest(training_rows(WORLD, tokenizer, TRAINING))
    other = TRAINING.model_copy(update={"seed": 2})
    assert rows_digest(rows) != rows_digest(training_rows(WORLD, tokenizer, other))


def test_padding_and_the_start_of_a_document_are_not_learnt(tokenizer: Tokenizer) -> None:
    rows = training_rows(WORLD, tokenizer, TRAINING)
    targets = torch.cat([t for _, t in next_token_batches(rows, TRAINING.rows)])
    assert not ((targets == PAD) | (targets == BOS)).any()
    assert (targets == EOS).any()


def test_a_document_does_not_see_the_one_before_it() -> None:
    model = build_model(MICRO, 400).eval()
    model.set_attn_implementation("eager")
    alone = torch.tensor([[BOS, 7, 8, 9]])
    after = torch.tensor([[BOS, 11, 12, 13, BOS, 7, 8, 9]])
    with torch.no_grad():
        a = model(input_ids=alone, attention_mask=document_mask(alone).float()).logits
        b = model(input_ids=after, attention_mask=document_mask(after).float()).logits
    torch.testing.assert_close(a, b[:, 4:], atol=1e-5, rtol=1e-5)


def test_the_learning_rate_rises_stays_flat_and_falls_to_its_floor() -> None:
    spec = Optimiser(muon=1, adamw=1, warmup=10, decay=0.5)
    assert schedule(0, 100, spec) == pytest.approx(0.1)
    assert schedule(30, 100, spec) == 1.0
    assert schedule(75, 100, spec) == pytest.approx(0.5)
    assert schedule(99, 100, spec) == pytest.approx(0.02)


def test_a_saved_model_loads_in_transformers_with_its_tokenizer(tokenizer: Tokenizer, tmp_path: Path) -> None:
    model = build_model(MICRO, 400)
    save_model(model, tmp_path)
    save_tokenizer(tokenizer, tmp_path, MICRO.context)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path)
    reader = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(loaded.model.embed_tokens.weight, model.model.embed_tokens.weight.bfloat16())
    assert (reader.pad_token_id, reader.bos_token_id, reader.eos_token_id) == (PAD, BOS, EOS)
    assert reader("Q: Where?")["input_ids"] == tokenizer.encode("Q: Where?").ids
    assert reader("Q: Where?")["input_ids"][0] == BOS
    assert reader.decode(reader("Q: Where?\nA:")["input_ids"], skip_special_tokens=True) == "Q: Where?\nA:"


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="heads 3 does not divide hidden 32"):
        ModelSpec(hidden=32, layers=1, heads=3, mlp=8, seed=0)


def test_curriculum_shares_that_miss_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to"):
        Curriculum(copying=0.5, mixed=0.5, final=0.5)


def test_unknown_keys_in_a_recipe_are_refused() -> None:
    with pytest.raises(ValueError, match="stepz"):
        Training.model_validate({"stepz": 1})
