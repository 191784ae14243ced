"""The own forward pass is the models' own arithmetic, in whatever pieces and company a text is read."""

from collections.abc import Callable

import pytest
import torch
import transformers

from earnest.decoding import lean_pass
from earnest.decoding.blocks import fits, fused
from earnest.decoding.compiled import CompiledDecoder
from earnest.decoding.layout import Layout
from earnest.decoding.lean import LeanDecoder
from earnest.decoding.local import Decoder, decoder_for
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve

SIZES = {
    "vocab_size": 700, "hidden_size": 60, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256,
}  # fmt: skip
ROPE = {"rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64}
SHAPES: dict[str, tuple[str, dict[str, object]]] = {
    "Llama with biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "Llama 3's positions": (
        "Llama",
        {"rope_parameters": {**ROPE, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}},
    ),
    "Llama without shared keys": ("Llama", {"num_key_value_heads": 6}),
    "Mistral without a window": ("Mistral", {"sliding_window": None}),
    "Qwen2": ("Qwen2", {}),
    "Qwen3, tied": ("Qwen3", {"tie_word_embeddings": True}),
    "Qwen3, yarn": ("Qwen3", {"rope_parameters": {**ROPE, "rope_type": "yarn"}}),
    "Mistral with a window": ("Mistral", {"sliding_window": 8}),
    "Qwen2, some layers with a window": (
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "Qwen3, a window without shared keys": (
        "Qwen3",
        {"use_sliding_window": True, "sliding_window": 23, "max_window_layers": 2, "num_key_value_heads": 6},
    ),
}
UNKNOWN: dict[str, tuple[str, dict[str, object]]] = {
    "positions that depend on the length": ("Llama", {"rope_parameters": {**ROPE, "rope_type": "dynamic"}}),
    "another activation": ("Llama", {"hidden_act": "gelu"}),
    "another family": ("Olmo2", {}),
    "positions that are counted on the mask": ("Bloom", {"n_head": 6, "n_layer": 2}),
}
FLOAT32_ROUNDING = 3e-6
"""Of the largest logit: some units in the last place, as other block sizes of the same products round."""
BFLOAT16_ROUNDING = 0.004
"""Likewise; a norm that is scaled before it is rounded, and not after, costs 0.009 to 0.04 here."""


KINDS: dict[str, Callable[[LeanDecoder], Decoder]] = {"plain": lambda plain: plain, "compiled": CompiledDecoder}


def random_model(family: str, changes: dict[str, object]) -> torch.nn.Module:
    """A model whose every number matters: biases and norms too are drawn."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{**SIZES, **changes})
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.15)
    return model


def texts(count: int, length: int, vocabulary: int = 700) -> list[list[int]]:
    return torch.randint(3, vocabulary, (count, length), generator=torch.Generator().manual_seed(1)).tolist()


def whole(model: torch.nn.Module, text: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([text]), use_cache=False).logits[0].float()


def largest_error(decoder: Decoder, model: torch.nn.Module, length: int = 60, vocabulary: int = 700) -> float:
    """Texts read in pieces of many shapes against the model's reading of them whole; relative to the largest logit."""
    read = texts(4, length, vocabulary)
    wanted = [whole(model, text) for text in read]
    steps = [
        ([0, 1, 2, 3], [(0, 20), (0, 31), (0, 1), (0, 7)]),  # prompts of different lengths
        ([3, 0, 2], [(7, 8), (20, 21), (1, 2)]),  # one token each, not in the order of the rows
        ([1], [(31, 36)]),
        ([1, 3], [(36, 37), (8, 58)]),  # one token beside a prompt
        ([0, 1, 2], [(21, 26), (37, 42), (2, 7)]),
        ([2], [(7, 8)]),
        ([2], [(8, length)]),
    ]
    errors = []
    for rows, spans in steps:
        pieces = [read[row][start:stop] for row, (start, stop) in zip(rows, spans, strict=True)]
        found = decoder.read(rows, [start for start, _ in spans], pieces)
        whole_ones = torch.cat([wanted[row][start:stop] for row, (start, stop) in zip(rows, spans, strict=True)])
        errors.append((found - whole_ones).abs().max())
    return float(max(errors) / max(logits.abs().max() for logits in wanted))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_that_fits_gets_the_logits_that_transformers_gives(shape: str, kind: str) -> None:
    model = random_model(*SHAPES[shape])
    assert fits(model)
    assert largest_error(KINDS[kind](LeanDecoder(model, 4, 100)), model) < FLOAT32_ROUNDING


@pytest.mark.parametrize("shape", SHAPES)
def test_in_bfloat16_nothing_is_rounded_elsewhere_than_in_transformers(shape: str) -> None:
    model = random_model(*SHAPES[shape]).to(torch.bfloat16)
    text = texts(1, 60)[0]
    wanted = whole(model, text)
    found = LeanDecoder(model, 2, 100).read([1], [0], [text])
    assert float((found - wanted).abs().max() / wanted.abs().max()) < BFLOAT16_ROUNDING


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["large", "small"])
def test_a_nano_model_is_read_whole_to_the_last_bits(nano: Callable[[str], LoadedModel], name: str, kind: str) -> None:
    model = nano(name).model
    text = texts(1, 64, 1500)[0]
    wanted = whole(model, text)
    found = KINDS[kind](LeanDecoder(model, 4, 64)).read([2], [0], [text])
    assert float((found - wanted).abs().max() / wanted.abs().max()) < FLOAT32_ROUNDING


@pytest.mark.parametrize("name", ["large", "small"])
def test_a_nano_models_cached_steps_are_those_of_transformers(nano: Callable[[str], LoadedModel], name: str) -> None:
    model = nano(name).model
    decoder = LeanDecoder(model, 4, 64)
    text = texts(1, 40, 1500)[0]
    decoder.read([3], [0], [text[:30]])
    with torch.inference_mode():
        past = model(torch.tensor([text[:30]]), use_cache=True).past_key_values
        for position in range(30, 40):
            wanted = model(torch.tensor([text[position : position + 1]]), past_key_values=past).logits[0]
            found = decoder.read([3], [position], [text[position : position + 1]])
            torch.testing.assert_close(found, wanted, rtol=0, atol=FLOAT32_ROUNDING * float(wanted.abs().max()))


@pytest.mark.parametrize("shape", UNKNOWN)
def test_a_model_of_another_shape_is_left_to_transformers(shape: str) -> None:
    model = random_model(*UNKNOWN[shape])
    assert not fits(model)
    assert decoder_for(model, 2, 32).kind == "transformers"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("window", [1, 7, 30, 59, 60, 200])
def test_windows_of_any_length_hide_what_lies_before_them(
    window: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean_pass, "PIECE", 16)
    model = random_model("Mistral", {"sliding_window": window})
    assert largest_error(KINDS[kind](LeanDecoder(model, 4, 100)), model) < FLOAT32_ROUNDING
    (text,) = texts(1, 90)
    found, wanted = LeanDecoder(model, 2, 100).read([1], [0], [text]), whole(model, text)
    assert float((found - wanted).abs().max()) < FLOAT32_ROUNDING * float(wanted.abs().max())


@pytest.mark.parametrize("hidden", [60, 1024])  # the compiled steps are for narrow models
@pytest.mark.parametrize("wrong", [39, 41])
def test_a_window_that_is_seen_otherwise_is_found_out_though_no_probe_is_so_long(
    monkeypatch: pytest.MonkeyPatch, hidden: int, wrong: int
) -> None:
    model = random_model("Mistral", {"sliding_window": 40, "hidden_size": hidden})
    assert decoder_for(model, 2, 64).kind == "lean"
    assert model.config.sliding_window == 40
    monkeypatch.setattr(lean_pass, "layer_windows", lambda model: [model.config.sliding_window + wrong - 40] * 3)
    assert decoder_for(model, 2, 64).kind == "transformers"


def test_a_model_that_only_looks_alike_is_found_out_by_its_logits() -> None:
    model = random_model("Llama", {})
    product = model.model.layers[1].self_attn.o_proj
    plain = product.forward
    product.forward = lambda x: plain(x) * 1.01
    assert fits(model)
    assert decoder_for(model, 2, 32).kind == "transformers"


def test_joined_weights_are_the_models_own_memory_and_are_joined_once() -> None:
    model = random_model("Llama", {"attention_bias": True})
    text = texts(1, 20)[0]
    before = whole(model, text)
    held = [LeanDecoder(model, 2, 32) for _ in range(2)]
    attention = model.model.layers[0].self_attn
    joined = [decoder.forward.blocks[0].qkv for decoder in held]
    assert joined[0].weight.data_ptr() == joined[1].weight.data_ptr() == attention.q_proj.weight.data_ptr()
    rows = [0, 96, 128, 160]  # of six query heads, then two heads of keys and of values, sixteen wide
    for first, linear in zip(rows, (attention.q_proj, attention.k_proj, attention.v_proj), strict=False):
        assert linear.weight.data_ptr() == joined[0].weight[first:].data_ptr()
        assert linear.bias.data_ptr() == joined[0].bias[first:].data_ptr()
    assert torch.equal(whole(model, text), before)


def test_a_decoder_holds_no_weight_twice() -> None:
    model = random_model("Qwen3", {})
    decoder = LeanDecoder(model, 1, 8)
    theirs = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    ours = [
        tensor
        for block in decoder.forward.blocks
        for part in vars(block).values()
        for tensor in (part.weight, getattr(part, "bias", None))
        if tensor is not None
    ]
    rest = [decoder.forward.embeddings, decoder.forward.norm.weight, decoder.forward.head.weight]
    assert {tensor.untyped_storage().data_ptr() for tensor in [*ours, *rest]} == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_weight_is_read_by_both(kind: str) -> None:
    model = random_model("Qwen3", {})
    decoder = KINDS[kind](LeanDecoder(model, 1, 32))
    text = texts(1, 20)[0]
    model.model.layers[1].mlp.up_proj.weight.mul_(-1)
    model.model.layers[0].self_attn.k_norm.weight.mul_(2)
    found, wanted = decoder.read([0], [0], [text]), whole(model, text)
    assert float((found - wanted).abs().max()) < FLOAT32_ROUNDING * float(wanted.abs().max())


def test_one_product_alone_is_not_moved() -> None:
    linear = torch.nn.Linear(4, 3)
    at = linear.weight.data_ptr()
    assert fused(linear).weight.data_ptr() == at == linear.weight.data_ptr()


@pytest.mark.parametrize("kind", KINDS)
def test_a_compressed_checkpoints_weights_are_read_too(tmp_path_factory: pytest.TempPathFactory, kind: str) -> None:
    from earnest.compression.checkpoint import load as load_checkpoint
    from earnest.compression.produce import compress_to_folder
    from earnest.specs.methods import Magnitude

    folder = tmp_path_factory.mktemp("compressed") / "half"
    compress_to_folder(load(resolve("nano:small"), dtype="float32"), Magnitude(sparsity=0.5), None, folder)
    model = load_checkpoint(folder).model
    assert fits(model)
    assert largest_error(KINDS[kind](LeanDecoder(model, 4, 100)), model, vocabulary=1500) < FLOAT32_ROUNDING


@pytest.mark.parametrize("lengths", [[3, 1, 2], [2, 2, 2], [0, 2, 1]])
def test_a_layout_says_where_each_token_of_each_row_lies(lengths: list[int]) -> None:
    rows, starts = [5, 0, 3], [7, 4, 9]
    tokens = [list(range(100 * row, 100 * row + length)) for row, length in zip(rows, lengths, strict=True)]
    at = Layout.of(tokens, rows, starts, torch.device("cpu"))
    each = [(row, start + step) for row, start, n in zip(rows, starts, lengths, strict=True) for step in range(n)]
    assert list(zip(at.owners.tolist(), at.slots.tolist(), strict=True)) == each
    assert at.ids.tolist() == [token for row in tokens for token in row]
    width = max(lengths)
    assert at.positions.tolist() == [list(range(start, start + width)) for start in starts]
    assert (at.padding is None) == (len(set(lengths)) == 1)
    if at.padding is not None:
        spread = at.padding.spread(at.ids)
        for row, new in zip(spread.view(3, width).tolist(), tokens, strict=True):
            assert row[: len(new)] == new
            assert set(row[len(new) :]) <= {*new[-1:]} or not new
        assert at.padding.joined(spread).tolist() == at.ids.tolist()
