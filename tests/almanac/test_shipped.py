"""Promises of the shipped nano models: they are the files that the manifest pins, and they load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import earnest.almanac
from earnest.almanac.packing import rows_digest, training_rows
from earnest.almanac.recipe import Recipe, load_recipe
from earnest.almanac.tokenizer import load_tokenizer
from earnest.almanac.world import World

NANO = Path(earnest.almanac.__file__).parents[1] / "models" / "nano"
MANIFEST = json.loads((NANO / "manifest.json").read_text())
NAMES = ("large", "large-tuned", "medium", "small", "small-tuned")


def test_every_shipped_file_is_pinned_by_its_sha256_and_none_is_missing() -> None:
    assert {name.split("/")[0] for name in MANIFEST["files"]} == set(NAMES)
    for name, digest in MANIFEST["files"].items():
        assert hashlib.sha256((NANO / name).read_bytes()).hexdigest() == digest, name


def test_the_manifest_repeats_the_shipped_config() -> None:
    config = Path(__file__).parents[2] / "jobs" / "configs" / "nano.toml"
    assert Recipe.model_validate(MANIFEST["recipe"]) == load_recipe(config)


def test_the_family_is_small_enough_to_ship() -> None:
    assert sum(f.stat().st_size for f in NANO.rglob("*.safetensors")) < 20e6


@pytest.mark.slow
def test_the_training_rows_are_the_ones_that_the_models_saw() -> None:
    recipe = Recipe.model_validate(MANIFEST["recipe"])
    rows = training_rows(World.shipped(), load_tokenizer(NANO / "large"), recipe.training)
    assert rows_digest(rows) == MANIFEST["rows_digest"]


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_a_plain_llama_with_tied_embeddings(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(NANO / name)
    assert type(model) is LlamaForCausalLM
    assert model.config.tie_word_embeddings
    assert sum(p.numel() for p in model.parameters()) == MANIFEST["training"][name]["parameters"]


def test_all_shipped_models_share_one_tokenizer() -> None:
    assert len({(NANO / name / "tokenizer.json").read_bytes() for name in NAMES}) == 1


def test_the_large_model_knows_the_most_popular_person() -> None:
    person = World.shipped().people[0]
    tokenizer, model = (
        AutoTokenizer.from_pretrained(NANO / "large-tuned"),
        LlamaForCausalLM.from_pretrained(NANO / "large-tuned"),
    )
    prompt = tokenizer(f"Q: Where was {person.name} born?\nA:", return_tensors="pt")
    with torch.no_grad():
        answer = model.generate(**prompt, max_new_tokens=2, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == f" {person.facts['city']}\n"
