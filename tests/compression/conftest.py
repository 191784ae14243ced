"""Tiny random models with a byte-level tokenizer of their own, saved to disk and loaded by the product's own loader."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve

Make = Callable[..., LoadedModel]


def save_tokenizer(folder: Path) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate(["<pad>", "<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=128
    )
    wrapped.save_pretrained(folder)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Save a tiny random model of a family and load it; the same arguments give the same weights."""

    def make(family: str = "Llama", dtype: str = "float32", **changes: object) -> LoadedModel:
        sizes: dict[str, object] = {
            "vocab_size": 264, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
            "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
            "initializer_range": 0.1,
        }  # fmt: skip
        config = getattr(transformers, f"{family}Config")(**{**sizes, **changes})
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}ForCausalLM")(config).to(getattr(torch, dtype))
        folder = tmp_path_factory.mktemp(f"tiny-{family.lower()}")
        model.save_pretrained(folder)
        save_tokenizer(folder)
        return load(resolve(str(folder)), dtype="stored")

    return make


@pytest.fixture(scope="session")
def ids() -> torch.Tensor:
    """Calibration token ids [12, 32] for the tiny models."""
    return torch.randint(264, (12, 32), generator=torch.Generator().manual_seed(5))
