"""Tiny random models of several architectures, with a tokenizer made on the spot."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from earnest.almanac.corpus import corpus_text
from earnest.almanac.tokenizer import save_tokenizer, train_tokenizer
from earnest.almanac.world import World
from earnest.models.loading import LoadedModel

MakeModel = Callable[..., LoadedModel]
VOCABULARY = 700


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> transformers.PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(train_tokenizer(corpus_text(World.shipped(), 300, seed=1), VOCABULARY), folder, 128)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def make_model(tokenizer: transformers.PreTrainedTokenizerBase) -> MakeModel:
    """A random model of a family; large initial weights make its choices clear-cut."""

    def make(family: str = "Llama", seed: int = 0, **changes: object) -> LoadedModel:
        torch.manual_seed(seed)
        model = _CAUSAL[family](_CONFIGS[family](**{"vocab_size": VOCABULARY, **_SIZES[family], **changes})).eval()
        for parameter in model.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.2)
        return LoadedModel(model.requires_grad_(False), tokenizer, f"{family}-{seed}", str(seed), Path())

    return make


_LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_SIZES: dict[str, dict[str, object]] = {
    "Llama": _LLAMA,
    "Qwen3": _LLAMA,
    "Mistral": {**_LLAMA, "sliding_window": 8},
    "Gemma2": {**_LLAMA, "sliding_window": 8, "final_logit_softcapping": 3.0},
    "Gemma3Text": {**_LLAMA, "sliding_window": 8, "num_hidden_layers": 7, "query_pre_attn_scalar": 8},
    "GptOss": {**_LLAMA, "sliding_window": 8, "num_local_experts": 4, "num_experts_per_tok": 2},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "bos_token_id": 1, "eos_token_id": 2},
    "OPT": {
        "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    },
    "GPTNeo": {
        "hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
        "window_size": 8, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
    },
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 128},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2},
    "Falcon": {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, "multi_query": False,
        "new_decoder_architecture": False, "parallel_attn": False, "bos_token_id": 1, "eos_token_id": 2,
    },
    "Phi3": {
        **_LLAMA, "pad_token_id": 0, "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32,
            "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 3.0, 4.0],
        },
    },
    "Mamba": {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "bos_token_id": 1, "eos_token_id": 2},
}  # fmt: skip
_CONFIGS = {
    family: getattr(transformers, "Gemma3TextConfig" if family == "Gemma3Text" else f"{family}Config")
    for family in _SIZES
}
_CAUSAL = {
    family: getattr(
        transformers,
        {"GPT2": "GPT2LMHeadModel", "Gemma3Text": "Gemma3ForCausalLM"}.get(family, f"{family}ForCausalLM"),
    )
    for family in _SIZES
}
