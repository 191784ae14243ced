"""A block that is put back to dense is dense to the last bit, and what is taken out again leaves no trace."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from earnest.decoding.lean import LeanDecoder
from earnest.models.blocks import decoder_blocks
from earnest.models.inspected import InspectedModel
from earnest.models.loading import LoadedModel, load
from earnest.models.restoring import check_restorable, restored
from earnest.models.source import Source, resolve
from earnest.specs import UserError

IDS = torch.randint(3, 1000, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def dense(make_tiny: Callable[..., Path]) -> Source:
    return resolve(str(make_tiny(num_hidden_layers=3)))


@pytest.fixture
def pruned(dense: Source) -> LoadedModel:
    """The dense model with the smaller half of each Linear in a block set to zero."""
    loaded = load(dense)
    for block in decoder_blocks(loaded.model):
        for linear in block.linears.values():
            linear.weight.masked_fill_(linear.weight.abs() < linear.weight.abs().median(), 0.0)
    return loaded


@torch.inference_mode()
def logits(loaded: LoadedModel) -> Tensor:
    found: Tensor = loaded.model(input_ids=IDS, use_cache=False).logits
    return found


def test_with_all_blocks_back_the_logits_are_those_of_dense(dense: Source, pruned: LoadedModel) -> None:
    with restored(pruned.model, dense, (0, 1, 2)):
        assert torch.equal(logits(pruned), logits(load(dense)))


def test_afterwards_the_logits_are_the_checkpoints_own_even_where_an_evaluation_failed(
    dense: Source, pruned: LoadedModel
) -> None:
    before = logits(pruned)
    with restored(pruned.model, dense, (1,)):
        assert not torch.equal(logits(pruned), before)
    assert torch.equal(logits(pruned), before)
    with pytest.raises(ZeroDivisionError), restored(pruned.model, dense, (1,)):
        _ = 1 / 0
    assert torch.equal(logits(pruned), before)


def test_one_block_back_changes_that_block_alone(dense: Source, pruned: LoadedModel) -> None:
    before = {name: parameter.clone() for name, parameter in pruned.model.named_parameters()}
    true = dict(load(dense).model.named_parameters())
    with restored(pruned.model, dense, (1,)):
        for name, parameter in pruned.model.named_parameters():
            wanted = true if name.startswith("model.layers.1.") else before
            assert torch.equal(parameter, wanted[name]), name


def test_a_pass_over_joined_weights_sees_the_block_too(dense: Source, pruned: LoadedModel) -> None:
    lean = LeanDecoder(pruned.model, 3, 16)
    with restored(pruned.model, dense, (0, 1, 2)):
        found = lean.read([0, 1, 2], [0, 0, 0], IDS.tolist())
    torch.testing.assert_close(found, logits(load(dense)).flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_weights_that_were_joined_meanwhile_are_put_back_too(dense: Source, pruned: LoadedModel) -> None:
    before = logits(pruned)
    with restored(pruned.model, dense, (0, 2)):
        lean = LeanDecoder(pruned.model, 3, 16)
    torch.testing.assert_close(logits(pruned), before, rtol=1e-4, atol=1e-5)
    found = lean.read([0, 1, 2], [0, 0, 0], IDS.tolist())
    torch.testing.assert_close(found, before.flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_a_block_that_is_not_there_is_named(dense: Source, pruned: LoadedModel) -> None:
    with pytest.raises(UserError, match=r"restore block 3: .* has blocks 0 to 2"), restored(pruned.model, dense, (3,)):
        pass


def test_in_half_precision_a_block_is_what_loading_makes_of_it(dense: Source) -> None:
    loaded, true = load(dense, dtype="bfloat16"), load(dense, dtype="bfloat16")
    for parameter in decoder_blocks(loaded.model)[1].module.parameters():
        parameter.zero_()
    with restored(loaded.model, dense, (1,)):
        assert torch.equal(logits(loaded), logits(true))


def test_files_that_name_their_tensors_otherwise_are_refused_before_work_begins(dense: Source, tmp_path: Path) -> None:
    check_restorable(InspectedModel(dense).skeleton, dense)
    for file in dense.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name.removeprefix("model."): value for name, value in weights.items()}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"restore model\.layers\.0\.\S+: .* holds nothing, not"):
        check_restorable(InspectedModel(dense).skeleton, resolve(str(tmp_path)))


def test_another_models_files_are_refused(make_tiny: Callable[..., Path], pruned: LoadedModel) -> None:
    before = logits(pruned)
    other = resolve(str(make_tiny(num_hidden_layers=3, intermediate_size=48)))
    with (
        pytest.raises(UserError, match=r"mlp\.gate_proj\.weight: .* holds \(48, 32\)"),
        restored(pruned.model, other, (0,)),
    ):
        pass
    assert torch.equal(logits(pruned), before)
