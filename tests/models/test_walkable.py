"""Blocks are run one by one only where that gives what the model gives; experts that no token reaches stay numbers."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from earnest.compression.produce import compress_to_folder
from earnest.compression.walk import CompressedWeights, compress
from earnest.models.blocks import decoder_blocks, groups_by_input, open_stream
from earnest.models.loading import LoadedModel, load
from earnest.models.source import resolve
from earnest.models.walkable import check_walk
from earnest.report.scores import touched_line
from earnest.specs import UserError, read_method

IDS = torch.randint(3, 1000, (6, 24), generator=torch.Generator().manual_seed(0))
SIZES = {
    "vocab_size": 1536, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8}


def made(family: str, **sizes: Any) -> nn.Module:
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**sizes)
    return transformers.AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)


class Mixture(nn.Module):
    """A feed-forward part of four experts that are Linears of their own; a token goes to two, none to the last."""

    def __init__(self, dense: nn.Module, width: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, 4, bias=False)
        self.experts = nn.ModuleList(type(dense)(dense.config) for _ in range(4))

    def forward(self, hidden: Tensor) -> Tensor:
        tokens = hidden.flatten(0, 1)  # [tokens, width]
        weights, chosen = self.router(tokens)[:, :3].softmax(-1).topk(2)
        out = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            at, place = (chosen == number).nonzero(as_tuple=True)
            if len(at):
                out.index_add_(0, at, expert(tokens[at]) * weights[at, place, None])
        return out.view_as(hidden)


@pytest.fixture
def mixture(make_tiny: Callable[..., Path]) -> LoadedModel:
    loaded = load(resolve(str(make_tiny())), dtype="float32")
    torch.manual_seed(1)
    for layer in loaded.model.model.layers:
        layer.mlp = Mixture(layer.mlp, 32)
    return replace(loaded, model=loaded.model.eval().requires_grad_(False))


METHODS = [
    {"method": "wanda", "sparsity": 0.5},
    {"method": "sparsegpt", "pattern": "2:4"},
    {"method": "gptq", "bits": 4, "group_size": 8, "true_sequential": True},
]


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: fields["method"])
def test_a_mixture_of_separate_experts_is_compressed_whole_and_stays_finite(
    mixture: LoadedModel, fields: dict[str, Any]
) -> None:
    before = {key: value.clone() for key, value in mixture.model.state_dict().items()}
    done = compress(mixture, read_method(fields), IDS)
    linears = {f"{name}.weight" for block in decoder_blocks(mixture.model) for name in block.linears}
    assert len(linears) == 2 * (4 + 1 + 4 * 3)
    assert done.tensors.keys() == linears
    for name in linears:
        weight = mixture.model.get_parameter(name)
        assert bool(weight.isfinite().all())
        assert not torch.equal(weight, before[name]), name
    assert bool(mixture.model(IDS).logits.isfinite().all())


def expert(loaded: LoadedModel, number: int) -> Tensor:
    return loaded.model.model.layers[0].mlp.experts[number].up_proj.weight.clone()


def name_of_expert(number: int) -> str:
    return f"model.layers.0.mlp.experts.{number}.up_proj.weight"


def compressed(loaded: LoadedModel, **fields: Any) -> CompressedWeights:
    method = read_method(fields)
    return compress(loaded, method, IDS if method.needs_calibration else None)


def test_an_expert_that_no_token_reaches_is_pruned_by_its_weights_and_counted(mixture: LoadedModel) -> None:
    dense = expert(mixture, 3)
    done = compressed(mixture, method="wanda", sparsity=0.5)
    smallest = dense.abs().argsort(dim=1)[:, :16]  # the smaller half of each row's 32
    assert torch.equal(expert(mixture, 3), dense.scatter(1, smallest, 0.0))
    assert done.tensors[name_of_expert(3)].unseen == 32
    assert done.tensors[name_of_expert(0)].unseen == 0


def test_an_expert_that_no_token_reaches_is_rounded_to_nearest(mixture: LoadedModel) -> None:
    dense = {key: value.clone() for key, value in mixture.model.state_dict().items()}
    compressed(mixture, method="gptq", bits=4, group_size=8)
    found = expert(mixture, 3), expert(mixture, 0)
    mixture.model.load_state_dict(dense)
    compressed(mixture, method="rtn", bits=4, group_size=8)
    torch.testing.assert_close(found[0], expert(mixture, 3))
    assert not torch.allclose(found[1], expert(mixture, 0))


def test_an_expert_that_only_a_later_batch_reaches_is_seen(
    mixture: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("earnest.models.blocks.BATCH_TOKENS", 24)
    blocks = decoder_blocks(mixture.model)
    stream = open_stream(mixture.model, blocks, IDS)
    ran: list[int] = []
    mlp = mixture.model.model.layers[0].mlp
    for number, one in enumerate(mlp.experts):
        one.register_forward_pre_hook(lambda _module, _args, number=number: ran.append(number))
    mlp.router.register_forward_hook(lambda _m, _a, out: out + (len(ran) < 2) * torch.tensor([99.0, 98.0, 0.0, 0.0]))
    groups = [{name.rpartition(".mlp.")[2] for name in group} for group in groups_by_input(blocks[0], stream)]
    assert ran[:2] == [0, 1]
    assert {"experts.2.gate_proj", "experts.2.up_proj"} in groups
    assert {"experts.3.up_proj"} in groups
    assert sum(map(len, groups)) == 4 + 1 + 4 * 3


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("Bamba", {**SIZES, **MAMBA, "attn_layer_indices": [1]}),
        ("Rwkv", {"vocab_size": 1536, "hidden_size": 32, "num_hidden_layers": 3, "context_length": 256}),
    ],
)
@torch.no_grad()
def test_blocks_that_put_out_more_than_hidden_states_are_walked(family: str, sizes: dict[str, Any]) -> None:
    model = made(family, **sizes)
    blocks = decoder_blocks(model)
    wanted: list[Any] = []
    handle = blocks[-1].module.register_forward_hook(lambda _m, _a, out: wanted.append(out[0]))
    model(input_ids=IDS, use_cache=False)
    handle.remove()
    stream = open_stream(model, blocks, IDS)
    for block in blocks:
        stream.advance(block)
    torch.testing.assert_close(stream.hidden[0], wanted[0])
    check_walk(model, blocks, IDS)


class Reader(nn.Module):
    """A model whose blocks are given the embeddings of the tokens too, beside hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2, model_type="reader")
        self.embed = nn.Embedding(1536, 32)
        self.layers = nn.ModuleList(Reading() for _ in range(2))

    def forward(self, input_ids: Tensor, use_cache: bool) -> Tensor:
        hidden = embedded = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, embedded=embedded)
        return hidden


class Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(32, 32)

    def forward(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        return hidden + self.linear(embedded)


def test_blocks_that_are_given_the_tokens_too_are_not_calibrated_on_those_of_another_text() -> None:
    model = Reader()
    with pytest.raises(
        UserError, match=r"model type reader: run one by one, .* \(\d+% off\), so it cannot be calibrated"
    ):
        check_walk(model, decoder_blocks(model), IDS)


def test_gemma_3n_is_refused_in_one_line_where_it_would_be_calibrated() -> None:
    model = made(
        "Gemma3nText", **SIZES | {"intermediate_size": [64] * 3}, head_dim=8, sliding_window=12, num_kv_shared_layers=0,
        vocab_size_per_layer_input=1536, hidden_size_per_layer_input=8, laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 3,
    )  # fmt: skip
    with pytest.raises(UserError, match="model type gemma3n_text: run one by one") as raised:
        check_walk(model, decoder_blocks(model), IDS)
    assert "\n" not in str(raised.value)


def test_blocks_that_share_weights_are_refused() -> None:
    model = made(
        "Zamba2", vocab_size=1536, hidden_size=32, num_hidden_layers=4, num_attention_heads=4, intermediate_size=64,
        mamba_d_state=8, n_mamba_heads=8, mamba_headdim=8, mamba_ngroups=1, num_mem_blocks=1, hybrid_layer_ids=[1, 3],
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], chunk_size=16,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"model\.layers\.3\S+ shares its weight with model\.layers\.1"):
        decoder_blocks(model)


def test_a_tensor_of_several_matrices_is_not_called_experts_where_it_holds_none() -> None:
    model = made("RecurrentGemma", **SIZES, lru_width=32, attention_window_size=16, head_dim=8)
    with pytest.raises(UserError, match=r"rg_lru\.input_gate_weight holds several matrices in one tensor") as raised:
        decoder_blocks(model)
    assert "expert" not in str(raised.value)


def test_what_was_touched_is_listed(make_tiny: Callable[..., Path], tmp_path: Path) -> None:
    loaded = load(resolve(str(make_tiny(num_hidden_layers=3))), dtype="float32")
    manifest = compress_to_folder(loaded, read_method({"method": "magnitude", "sparsity": 0.5}), None, tmp_path / "out")
    assert touched_line(manifest) == (
        "touched 21 matrices of 3 blocks, model.layers.*: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    )
