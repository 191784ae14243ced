"""Every family of models: its likelihoods are those of plain transformers whatever is asked beside it, and each kind of
compression of it reloads bit for bit, or is refused in one clear line.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from earnest.compression import checkpoint
from earnest.compression.produce import compress_to_folder
from earnest.evaluation.engine import Engine
from earnest.evaluation.tokens import requests
from earnest.models.inspected import InspectedModel
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from earnest.preflight import check_methods
from earnest.specs import UserError, read_method

TOKENIZER = Path(__file__).parents[2] / "platform" / "earnest" / "models" / "nano" / "large"
TOKENS = {"vocab_size": 1536, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.15}
LLAMA = {
    **TOKENS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0,
}  # fmt: skip
HEADS = {"head_dim": 8}
WINDOW = {"sliding_window": 12}
GPT2 = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
OPT = {
    **TOKENS, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "init_std": 0.15,
    "max_position_embeddings": 256, "pad_token_id": 0, "word_embed_proj_dim": 32,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8,
    "v_head_dim": 8, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 2,
    "topk_group": 1, "moe_intermediate_size": 16,
}  # fmt: skip
FALCON = {
    **TOKENS,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "new_decoder_architecture": False,
}
MAMBA = {**TOKENS, "hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "pad_token_id": 0}


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LONG = {
    "original_max_position_embeddings": 24, "factor": 8.0, "short_factor": [1.0] * 4,
    "long_factor": [1.0, 2.0, 3.0, 4.0],
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A type of model with small sizes; `refused` is what compression says of it, `some_refused` what some say."""

    kind: str
    sizes: dict[str, Any]
    refused: str = ""
    some_refused: str = ""


FUSED = "holds the matrices of several experts in one tensor"
FAMILIES = {
    "llama": Family("llama", {**LLAMA, "tie_word_embeddings": False}),
    "llama tied": Family("llama", {**LLAMA, "tie_word_embeddings": True}),
    "llama 3 rope": Family("llama", {**LLAMA, **rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                     original_max_position_embeddings=24)}),
    "llama dynamic rope": Family("llama", {**LLAMA, **rope("dynamic", factor=4.0,
                                                           original_max_position_embeddings=24)}),
    "llama yarn": Family("llama", {**LLAMA, **rope("yarn", factor=8.0, original_max_position_embeddings=24)}),
    "qwen2": Family("qwen2", {**LLAMA, "vocab_size": 1600}),
    "qwen3": Family("qwen3", {**LLAMA, **HEADS}),
    "qwen2_moe": Family("qwen2_moe", {**LLAMA, **EXPERTS, "shared_expert_intermediate_size": 16}, FUSED),
    "qwen3_moe": Family("qwen3_moe", {**LLAMA, **HEADS, **EXPERTS}, FUSED),
    "qwen3_next": Family("qwen3_next", {**LLAMA, **HEADS, **EXPERTS, "linear_num_value_heads": 4,
                                        "linear_num_key_heads": 2, "linear_key_head_dim": 8,
                                        "linear_value_head_dim": 8, "num_hidden_layers": 4,
                                        "shared_expert_intermediate_size": 16}, FUSED),
    "mistral": Family("mistral", {**LLAMA, **WINDOW}),
    "ministral3": Family("ministral3", {**LLAMA, **HEADS}),
    "mixtral": Family("mixtral", {**LLAMA, **EXPERTS}, FUSED),
    "olmoe": Family("olmoe", {**LLAMA, **EXPERTS}, FUSED),
    "phimoe": Family("phimoe", {**LLAMA, **EXPERTS}, FUSED),
    "gpt_oss": Family("gpt_oss", {**LLAMA, **HEADS, **WINDOW, **EXPERTS}, FUSED),
    "deepseek_v3": Family("deepseek_v3", {**LLAMA, **MLA, "first_k_dense_replace": 1}, FUSED),
    "deepseek_v3 dense": Family("deepseek_v3", {**LLAMA, **MLA, "first_k_dense_replace": 2}),
    "gemma2": Family("gemma2", {**LLAMA, **HEADS, **WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3": Family("gemma3_text", {**LLAMA, **HEADS, **WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3 that sees": Family("gemma3", {}),
    "llava": Family("llava", {}),
    "qwen2 that sees": Family("qwen2_vl", {}),
    "phi": Family("phi", {**LLAMA, "num_key_value_heads": 4}),
    "phi3": Family("phi3", LLAMA),
    "phi3 longrope": Family("phi3", {**LLAMA, "original_max_position_embeddings": 24, **rope("longrope", **LONG)}),
    "opt": Family("opt", OPT),
    "opt 350m": Family("opt", {**OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "gpt2": Family("gpt2", GPT2, "has no Linear layers but Conv1D"),
    "gptj": Family("gptj", {**GPT2, "rotary_dim": 4}),
    "gpt_neox": Family("gpt_neox", LLAMA),
    "gpt_neo": Family("gpt_neo", {**TOKENS, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 12,
                                  "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 256}),
    "gpt_bigcode": Family("gpt_bigcode", GPT2),
    "bloom": Family("bloom", {**TOKENS, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}),
    "mpt": Family("mpt", {**TOKENS, "d_model": 32, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2,
                          "max_seq_len": 256}),
    "falcon rope": Family("falcon", {**FALCON, "alibi": False, "multi_query": True, "bias": False}),
    "falcon alibi": Family("falcon", {**FALCON, "alibi": True, "multi_query": False, "parallel_attn": False}),
    "olmo2": Family("olmo2", LLAMA),
    "granite": Family("granite", {**LLAMA, "logits_scaling": 4.0, "embedding_multiplier": 6.0}),
    "stablelm": Family("stablelm", {**LLAMA, "partial_rotary_factor": 0.5}),
    "cohere": Family("cohere", {**LLAMA, "logit_scale": 0.25}),
    "starcoder2": Family("starcoder2", {**LLAMA, "sliding_window": None}),
    "smollm3": Family("smollm3", LLAMA),
    "nemotron": Family("nemotron", LLAMA),
    "glm4": Family("glm4", {**LLAMA, **HEADS}),
    "internlm3": Family("internlm3", {**LLAMA, **HEADS}),
    "lfm2": Family("lfm2", {**LLAMA, "layer_types": ["conv", "full_attention"]}),
    "mamba": Family("mamba", MAMBA, some_refused="no forward pass reaches it|does not divide"),
    "mamba2": Family("mamba2", {**MAMBA, "num_heads": 8, "head_dim": 8, "n_groups": 2, "expand": 2, "chunk_size": 16}),
}  # fmt: skip
METHODS = (
    {"method": "magnitude", "sparsity": 0.5},
    {"method": "sparsegpt", "pattern": "2:4"},
    {"method": "rtn", "bits": 4, "group_size": 8},
    {"method": "gptq", "bits": 4, "group_size": 8, "true_sequential": True},
)
SHARED = "Tell me about somebody who lived in a town by the sea and wrote books. "


def seeing(kind: str) -> Any:
    """The config of a small model of texts and images."""
    text = {**LLAMA, **HEADS}
    vision = {
        "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
        "patch_size": 14,
    }  # fmt: skip
    if kind == "gemma3":
        text |= {**WINDOW, "query_pre_attn_scalar": 8}
        marks = {"mm_tokens_per_image": 4, "image_token_index": 10, "boi_token_index": 11, "eoi_token_index": 12}
        return transformers.Gemma3Config(text_config=text, vision_config=vision, **marks)
    if kind == "llava":
        seen, read = transformers.CLIPVisionConfig(**vision, projection_dim=16), transformers.LlamaConfig(**text)
        return transformers.LlavaConfig(vision_config=seen, text_config=read, image_token_index=10)
    if kind == "qwen2_vl":
        text |= rope("default", mrope_section=[1, 1, 2])
        seen = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 14}
        marks = {"image_token_id": 10, "video_token_id": 11, "vision_start_token_id": 12, "vision_end_token_id": 13}
        return transformers.Qwen2VLConfig(text_config=text, vision_config=seen, **marks)
    read, seen = transformers.GemmaConfig(**text), transformers.SiglipVisionConfig(**vision)
    return transformers.PaliGemmaConfig(vision_config=seen, text_config=read, projection_dim=32, image_token_index=10)


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A family's folder, saved as transformers saves it, with a tokenizer."""

    def make(name: str, dtype: torch.dtype = torch.float32) -> Path:
        family = FAMILIES.get(name) or Family(name, {})
        config = transformers.AutoConfig.for_model(family.kind, **family.sizes) if family.sizes else seeing(family.kind)
        causal = type(config) in transformers.AutoModelForCausalLM._model_mapping
        kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForImageTextToText
        torch.manual_seed(0)
        model = kind.from_config(config).to(dtype)
        folder = tmp_path_factory.mktemp(name.replace(" ", "-"))
        model.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(TOKENIZER / file, folder / file)
        return folder

    return make


def asked(loaded: LoadedModel) -> list[Any]:
    """Texts of unequal length, on both sides of windows and switches, some of which begin alike."""
    pairs = [(SHARED + "Then", " it was"), (SHARED + "Then she", " wrote a book about the sea"), ("She", " was")]
    return requests(loaded.tokenizer, [*pairs, (SHARED * 2 + "He", " sang"), ("One two three four", " five")])


@torch.inference_mode()
def alone(loaded: LoadedModel, request: Any) -> float:
    """A continuation's log-likelihood by plain transformers, with nothing beside it."""
    fresh = type(loaded.model)(loaded.model.config).eval()  # as if it had read no other text
    fresh.load_state_dict(loaded.model.state_dict())
    text = [*request.context, *request.continuation]
    scores = fresh(input_ids=torch.tensor([text]), use_cache=False).logits[0].double().log_softmax(-1)
    begin = len(request.context) - 1
    return sum(float(scores[begin + i, token]) for i, token in enumerate(request.continuation))


def found(loaded: LoadedModel, wanted: Sequence[Any]) -> list[float]:
    values = [each.value for each in Engine(loaded).log_likelihoods(wanted)]
    return [value for value in values if value is not None]


@pytest.mark.parametrize("name", FAMILIES)
def test_likelihoods_are_plain_transformers_whatever_is_asked_beside(folder_of: Callable[..., Path], name: str) -> None:
    loaded = load(resolve(str(folder_of(name))), dtype="float32")
    wanted = asked(loaded)
    expected = [alone(loaded, request) for request in wanted]
    assert found(loaded, wanted) == pytest.approx(expected, abs=1e-4)
    assert found(loaded, wanted[::-1]) == pytest.approx(expected[::-1], abs=1e-4)
    assert found(loaded, wanted[2:3]) == pytest.approx(expected[2:3], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["method"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_compression_reloads_bit_for_bit_or_says_why_not(
    folder_of: Callable[..., Path], tmp_path: Path, name: str, method: dict[str, Any]
) -> None:
    source, spec, family = resolve(str(folder_of(name))), read_method(method), FAMILIES[name]
    if family.refused:
        with pytest.raises(UserError, match=family.refused):
            check_methods(InspectedModel(source), [spec])
        return
    loaded = load(source, dtype="float32")
    ids = (
        torch.randint(3, 1500, (6, 32), generator=torch.Generator().manual_seed(1)) if spec.needs_calibration else None
    )
    if family.some_refused and spec.method != "magnitude":
        with pytest.raises(UserError, match=family.some_refused):
            compress_to_folder(loaded, spec, ids, tmp_path / "out")
        return
    check_methods(InspectedModel(source), [spec])
    manifest = compress_to_folder(loaded, spec, ids, tmp_path / "out")
    saved = checkpoint.load(tmp_path / "out", dtype="float32")
    wanted = asked(loaded)
    assert found(saved, wanted) == found(loaded, wanted)
    assert not any("vision" in tensor.name for tensor in manifest.tensors if tensor.method)


@pytest.mark.parametrize("name", ["gemma3 that sees", "llava", "qwen2 that sees"])
def test_what_sees_is_compressed_where_it_reads(folder_of: Callable[..., Path], tmp_path: Path, name: str) -> None:
    loaded = load(resolve(str(folder_of(name))), dtype="float32")
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    compress_to_folder(loaded, read_method({"method": "magnitude", "sparsity": 0.5}), None, tmp_path / "out")
    changed = {key for key, value in loaded.model.state_dict().items() if not torch.equal(value, before[key])}
    assert len(changed) == 2 * 7
    assert all("language_model.layers" in key for key in changed)


def test_a_checkpoint_in_half_precision_computes_what_was_compressed(
    folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    """GPT-J keeps a table of sines outside its weights, which must not be rounded on the way back."""
    loaded = load(resolve(str(folder_of("gptj", torch.bfloat16))), dtype="bfloat16")
    compress_to_folder(loaded, read_method({"method": "rtn", "bits": 8, "group_size": 8}), None, tmp_path / "out")


def test_a_compression_after_which_the_model_says_the_same_fails(
    folder_of: Callable[..., Path], tmp_path: Path
) -> None:
    loaded = load(resolve(str(folder_of("llama"))), dtype="float32")
    method = read_method({"method": "magnitude", "sparsity": 0.5})
    compress_to_folder(loaded, method, None, tmp_path / "once")
    with pytest.raises(UserError, match="left its logits as they were"):
        compress_to_folder(loaded, method, None, tmp_path / "twice")


def test_a_model_that_reads_its_prompt_in_both_directions_is_refused(folder_of: Callable[..., Path]) -> None:
    """PaliGemma attends to all of a prompt at once, so that no text of its own is scored from left to right."""
    with pytest.raises(UserError, match="reads in both directions"):
        load(resolve(str(folder_of("paligemma"))), dtype="float32")
