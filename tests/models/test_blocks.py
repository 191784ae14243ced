"""The walk over decoder blocks gives each block what the model would give it, family by family."""

import pytest
import torch
import transformers
from torch import Tensor, nn

from earnest.models.blocks import decoder_blocks, groups_by_input, open_stream
from earnest.specs import UserError

SIZES = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA_LIKE = {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
FAMILIES = {
    "Llama": LLAMA_LIKE,
    "Mistral": LLAMA_LIKE | {"sliding_window": 4},
    "Qwen2": LLAMA_LIKE | {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
    "Qwen3": LLAMA_LIKE,
    "Gemma3Text": LLAMA_LIKE | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "OPT": {"ffn_dim": 48, "word_embed_proj_dim": 32, "pad_token_id": 1},
    "GPTNeoX": {"intermediate_size": 48},
    "Phi": {"intermediate_size": 48},
}


def make(family: str, attention: str = "sdpa") -> nn.Module:
    changes = dict(FAMILIES[family])
    if "layer_types" in changes:
        changes["num_hidden_layers"] = 4
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
    torch.manual_seed(0)
    model = getattr(transformers, f"{family.removesuffix('Text')}ForCausalLM")._from_config(
        config, attn_implementation=attention
    )
    return model.eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.randint(2, 100, (5, 16), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("family", list(FAMILIES))
@torch.no_grad()
def test_block_by_block_equals_the_whole_model(
    family: str, attention: str, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with batches of two sizes, and where layers have masks and positions of their own."""
    monkeypatch.setattr("earnest.models.blocks.BATCH_TOKENS", 32)
    model = make(family, attention)
    expected = [[] for _ in decoder_blocks(model)]
    for block in decoder_blocks(model):
        block.module.register_forward_hook(lambda _m, _a, out, i=block.index: expected[i].append(out))
    for batch in ids.split(2):
        model(input_ids=batch, use_cache=False)
    outputs = [[out[0] if isinstance(out, tuple) else out for out in layer] for layer in expected]
    for block in decoder_blocks(model):
        block.module._forward_hooks.clear()
    stream = open_stream(model, decoder_blocks(model), ids)
    assert [len(batch) for batch in stream.hidden] == [2, 2, 1]
    assert stream.sequences == 5
    for block, layer in zip(decoder_blocks(model), outputs, strict=True):
        stream.advance(block)
        assert all(torch.equal(found, wanted) for found, wanted in zip(stream.hidden, layer, strict=True))


@pytest.mark.parametrize(
    ("family", "groups"),
    [
        ("Llama", ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"]),
        ("Qwen3", ["q_proj k_proj v_proj", "o_proj", "gate_proj up_proj", "down_proj"]),
        ("OPT", ["q_proj k_proj v_proj", "out_proj", "fc1", "fc2"]),
        ("GPTNeoX", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"]),
    ],
)
@torch.no_grad()
def test_linears_that_read_the_same_tensor_form_a_group(family: str, groups: list[str], ids: Tensor) -> None:
    model = make(family)
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, ids)
    found = groups_by_input(blocks[0], stream)
    assert [sorted(name.rsplit(".", 1)[1] for name in group) for group in found] == [sorted(g.split()) for g in groups]


def test_blocks_are_named_as_in_the_state_dict() -> None:
    model = make("Llama")
    blocks = decoder_blocks(model)
    assert [block.name for block in blocks] == ["model.layers.0", "model.layers.1", "model.layers.2"]
    assert all(f"{name}.weight" in model.state_dict() for block in blocks for name in block.linears)
    assert len(blocks[0].linears) == 7


@torch.no_grad()
def test_only_the_first_block_computes_when_a_stream_is_opened(ids: Tensor) -> None:
    """Later blocks may not even have their weights in memory."""
    model = make("Qwen2")
    blocks = decoder_blocks(model)
    for block in blocks[1:]:
        block.module.to("meta")
    model.lm_head.to("meta")
    stream = open_stream(model, blocks, ids)
    assert stream.hidden[0].shape == (5, 16, 32)
    assert stream.run(blocks[0], stream.hidden[0]).shape == (5, 16, 32)


@torch.no_grad()
def test_a_model_of_one_block_opens_too(ids: Tensor) -> None:
    config = transformers.LlamaConfig(**SIZES | LLAMA_LIKE | {"num_hidden_layers": 1})
    model = transformers.LlamaForCausalLM(config).eval()
    blocks = decoder_blocks(model)
    stream = open_stream(model, blocks, ids)
    stream.advance(blocks[0])
    logits = model.lm_head(model.model.norm(stream.hidden[0]))
    assert torch.equal(logits, model(input_ids=ids).logits)


@torch.no_grad()
def test_the_model_is_left_as_it_was(ids: Tensor) -> None:
    model = make("Llama")
    before = model(input_ids=ids).logits
    blocks = decoder_blocks(model)
    groups_by_input(blocks[0], open_stream(model, blocks, ids))
    assert torch.equal(model(input_ids=ids).logits, before)
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())


def test_a_family_without_linears_is_refused() -> None:
    config = transformers.GPT2Config(vocab_size=100, n_embd=32, n_layer=2, n_head=4)
    with pytest.raises(UserError, match=r"model type gpt2: transformer\.h\.0 has no Linear layers"):
        decoder_blocks(transformers.GPT2LMHeadModel(config))


def test_fused_experts_are_refused() -> None:
    config = transformers.MixtralConfig(**SIZES, **LLAMA_LIKE, num_local_experts=2)
    with pytest.raises(UserError, match="matrices of several experts in one tensor"):
        decoder_blocks(transformers.MixtralForCausalLM(config))


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match="no list of None decoder blocks"):
        decoder_blocks(nn.Linear(2, 2))
