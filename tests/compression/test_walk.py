"""The walk over a whole model: what each block is calibrated on, what is touched, and what is refused up front."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from earnest.compression import wanda
from earnest.compression.activations import SquaredNorms
from earnest.compression.checks import check_fits, check_inputs
from earnest.compression.matrices import Matrix
from earnest.compression.produce import compress_to_folder
from earnest.compression.walk import compress
from earnest.models.blocks import decoder_blocks
from earnest.models.loading import LoadedModel
from earnest.specs import Method, UserError, Wanda, read_method

Make = Callable[..., LoadedModel]

METHODS = [
    {"method": "random", "sparsity": 0.5},
    {"method": "magnitude", "sparsity": 0.5},
    {"method": "wanda", "sparsity": 0.5},
    {"method": "sparsegpt", "pattern": "2:4"},
    {"method": "rtn", "bits": 4, "group_size": 16},
    {"method": "gptq", "bits": 4, "group_size": 16},
]


def state_of(loaded: LoadedModel) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}


def compressed(loaded: LoadedModel, ids: Tensor, **fields: object) -> dict[str, Tensor]:
    compress(loaded, read_method(fields), ids)
    return state_of(loaded)


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: str(fields["method"]))
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_all_linears_of_the_blocks_change_and_nothing_else(
    family: str, fields: dict[str, object], make_model: Make, ids: Tensor
) -> None:
    dense = state_of(make_model(family))
    loaded = make_model(family)
    weights = compress(loaded, read_method(fields), ids)
    assert len(weights.tensors) == 14
    after = loaded.model.state_dict()
    assert {name for name in dense if not torch.equal(dense[name], after[name])} == set(weights.tensors)


def test_later_blocks_are_calibrated_on_what_the_compressed_blocks_put_out(make_model: Make, ids: Tensor) -> None:
    """Block 1's Wanda mask is that of a model whose block 0 is compressed, and not that of the dense model."""
    dense, loaded, method = make_model(), make_model(), Wanda(sparsity=0.5)
    compress(loaded, method, ids)
    half = make_model()
    half.model.model.layers[0].load_state_dict(loaded.model.model.layers[0].state_dict())
    name = "model.layers.1.mlp.gate_proj.weight"
    found = loaded.model.state_dict()[name]
    assert torch.equal(found, wanda_by_hooks(half, name, ids, method))
    assert not torch.equal(found, wanda_by_hooks(dense, name, ids, method))


@torch.no_grad()
def wanda_by_hooks(loaded: LoadedModel, name: str, ids: Tensor, method: Wanda) -> Tensor:
    linear = loaded.model.get_submodule(name.removesuffix(".weight"))
    norms = SquaredNorms(linear.in_features, loaded.device)
    handle = linear.register_forward_pre_hook(lambda _module, args: norms.add(args[0]))
    loaded.model(input_ids=ids)
    handle.remove()
    return wanda.compress([Matrix(name, linear.weight, torch.float32)], norms.value(), method)[0].weight


@pytest.mark.parametrize("method", ["gptq", "sparsegpt"])
def test_true_sequential_differs_but_not_for_the_first_group(method: str, make_model: Make, ids: Tensor) -> None:
    options = {"gptq": {"bits": 4, "group_size": 16}, "sparsegpt": {"sparsity": 0.5}}[method]
    at_once = compressed(make_model(), ids, method=method, **options)
    in_turn = compressed(make_model(), ids, method=method, **options, true_sequential=True)
    assert torch.equal(
        at_once["model.layers.0.self_attn.q_proj.weight"], in_turn["model.layers.0.self_attn.q_proj.weight"]
    )
    assert not torch.equal(
        at_once["model.layers.0.mlp.down_proj.weight"], in_turn["model.layers.0.mlp.down_proj.weight"]
    )


@pytest.mark.parametrize("fields", METHODS, ids=lambda fields: str(fields["method"]))
def test_batches_of_calibration_do_not_matter(
    fields: dict[str, object], make_model: Make, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compressed(make_model(), ids, **fields)
    monkeypatch.setattr("earnest.models.blocks.BATCH_TOKENS", 5 * ids.shape[1])
    parts = compressed(make_model(), ids, **fields)
    entries = sum(int(((whole[name] - parts[name]).abs() > 1e-4).sum()) for name in whole)
    assert entries <= 0.002 * sum(tensor.numel() for tensor in whole.values())  # a rounding flip, at most


def test_progress_tells_each_block(make_model: Make, ids: Tensor) -> None:
    told: list[tuple[int, int]] = []
    compress(make_model(), Wanda(sparsity=0.5), ids, lambda done, of: told.append((done, of)))
    assert told == [(1, 2), (2, 2)]


def test_hidden_states_of_one_block_only_are_kept(make_model: Make, ids: Tensor) -> None:
    """While block 1 computes, no tensor that block 0 made is alive but its outputs."""
    import gc
    import weakref

    loaded, seen = make_model(), []
    first = loaded.model.model.layers[0].mlp.down_proj
    first.register_forward_pre_hook(lambda _module, args: seen.append(weakref.ref(args[0])))

    def check(done: int, _: int) -> None:
        gc.collect()
        assert not any(reference() is not None for reference in seen)

    compress(loaded, Wanda(sparsity=0.5), ids, check)
    assert seen


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"method": "gptq", "bits": 4, "group_size": 48},
            r"gptq: group_size 48 does not divide the 32 inputs of model\.layers\.0\.self_attn\.q_proj\nuse one of 8",
        ),
        (
            {"method": "rtn", "bits": 4, "group_size": 64},
            r"rtn: group_size 64 does not divide the 32 inputs of model\.layers\.0\.self_attn\.q_proj",
        ),
        (
            {"method": "sparsegpt", "pattern": "3:7"},
            r"sparsegpt: pattern 3:7 does not divide the 32 .*\nuse an M of 2, 4, 8, 16, 32, or sparsity = 0.571",
        ),
    ],
)
def test_groups_that_do_not_fit_are_refused_before_anything_is_computed(
    fields: dict[str, object], message: str, make_model: Make, ids: Tensor
) -> None:
    loaded = make_model()
    before = state_of(loaded)
    loaded.model.model.layers[0].register_forward_pre_hook(lambda *_: pytest.fail("a block computed"))
    with pytest.raises(UserError, match=message):
        compress(loaded, read_method(fields), ids)
    assert all(torch.equal(before[name], tensor) for name, tensor in loaded.model.state_dict().items())


def test_a_layer_far_down_that_does_not_fit_is_found_up_front(make_model: Make) -> None:
    loaded = make_model(intermediate_size=60)
    with pytest.raises(UserError, match=r"does not divide the 60 inputs of model\.layers\.0\.mlp\.down_proj"):
        check_fits(loaded.model, read_method({"method": "gptq", "bits": 4, "group_size": 32}))


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        ({"method": "rtn", "bits": 4, "group_size": 48}, "use group_size = -1 for one group per row"),
        ({"method": "wanda", "pattern": "2:4"}, "use sparsity = 0.5"),
    ],
)
def test_a_remedy_that_does_not_exist_is_not_offered(fields: dict[str, object], remedy: str) -> None:
    """Two layers of 15 and 7 inputs share no divisor but 1."""
    with pytest.raises(UserError) as raised:
        check_inputs(read_method(fields), {"a": 15, "b": 7})
    assert str(raised.value).splitlines()[1] == remedy


def test_a_sparse_model_is_not_told_to_ask_n_of_m_for_more(make_model: Make, tmp_path: Path) -> None:
    loaded = make_model()
    compress(loaded, read_method({"method": "magnitude", "sparsity": 0.7}))
    with pytest.raises(UserError, match="N:M fixes how many go; begin with the dense model, or ask for sparsity above"):
        compress_to_folder(loaded, read_method({"method": "magnitude", "pattern": "2:4"}), None, tmp_path / "out")


def test_shapes_are_checked_on_a_skeleton_without_weights(make_model: Make) -> None:
    skeleton = make_model().model.to("meta")
    check_fits(skeleton, read_method({"method": "gptq", "bits": 4, "group_size": 32}))
    assert len(decoder_blocks(skeleton)) == 2


@pytest.mark.parametrize(
    ("method", "calibration", "message"),
    [
        ({"method": "dense"}, None, "method dense: there is nothing to compress"),
        ({"method": "wanda", "sparsity": 0.5}, None, "wanda: needs calibration"),
        ({"method": "wanda", "sparsity": 0.5}, torch.ones(1, 129, dtype=torch.long), "lower length to at most 128"),
        (
            {"method": "wanda", "sparsity": 0.5},
            torch.tensor([[3, 999]]),
            "token id 999 is outside the model's vocabulary of 264",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    method: dict[str, object], calibration: Tensor | None, message: str, make_model: Make
) -> None:
    with pytest.raises(UserError, match=message):
        compress(make_model(), read_method(method), calibration)


def test_a_dense_weight_that_is_not_finite_is_named(make_model: Make) -> None:
    loaded = make_model()
    with torch.no_grad():
        loaded.model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(UserError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: the dense weight holds NaN"):
        compress(loaded, read_method({"method": "magnitude", "sparsity": 0.5}))


def test_activations_that_overflow_are_named(make_model: Make, ids: Tensor) -> None:
    loaded = make_model()
    with torch.no_grad():
        loaded.model.model.layers[0].input_layernorm.weight.fill_(3e38)
    method: Method = read_method({"method": "gptq", "bits": 4, "group_size": 16})
    with pytest.raises(
        UserError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight: its calibration inputs are not finite"
    ):
        compress(loaded, method, ids)


@pytest.mark.parametrize(
    ("fields", "inputs", "remedy"),
    [
        ({"method": "rtn", "bits": 4, "group_size": 48}, {"a": 40, "b": 24}, "use group_size = 8, or group_size = -1"),
        (
            {"method": "gptq", "bits": 4, "group_size": 48, "static_groups": True},
            {"a": 11},
            "use group_size = 11, or group_size = -1 without static_groups",
        ),
    ],
)
def test_a_remedy_names_the_option_and_can_be_taken(
    fields: dict[str, object], inputs: dict[str, int], remedy: str
) -> None:
    with pytest.raises(UserError) as raised:
        check_inputs(read_method(fields), inputs)
    said = str(raised.value).splitlines()[1]
    assert said.startswith(remedy)
    check_inputs(read_method({**fields, "group_size": int(said.split(" = ")[1].split(",")[0])}), inputs)
    whole = {name: value for name, value in fields.items() if name != "static_groups"}
    check_inputs(read_method({**whole, "group_size": -1}), inputs)


@pytest.mark.parametrize(
    ("method", "remedy"),
    [
        ("magnitude", r"begin with the dense model, or ask for sparsity above 0\.7\d$"),
        ("random", r"sparse already; begin with the dense model$"),
    ],
)
def test_more_zeros_are_only_suggested_where_they_help(
    method: str, remedy: str, make_model: Make, tmp_path: Path
) -> None:
    loaded, sparse = make_model(), {"method": "magnitude", "sparsity": 0.7}
    compress(loaded, read_method(sparse))
    with pytest.raises(UserError, match=remedy) as raised:
        compress_to_folder(loaded, read_method({"method": method, "sparsity": 0.5}), None, tmp_path / "out")
    if method == "magnitude":
        again, above = make_model(), float(str(raised.value).rpartition(" ")[2])
        compress(again, read_method(sparse))
        compress_to_folder(again, read_method({**sparse, "sparsity": above + 0.01}), None, tmp_path / "more")
