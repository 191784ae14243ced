"""Hidden states come back bit for bit from memory and from disk."""

import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from earnest.models.hidden_states import HiddenStates
from earnest.specs import UserError


def batches(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, 5, 8, generator=generator).to(dtype) for size in (2, 2, 1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("memory", [0, 400, 10**6])
def test_what_is_kept_anywhere_comes_back(dtype: torch.dtype, memory: int) -> None:
    first, second = batches(dtype), [torch.flip(batch, [1]) for batch in batches(dtype)]
    first[1] = first[1].transpose(1, 2).contiguous().transpose(1, 2)  # not contiguous
    second[1][0, 0, 0], second[1][0, 0, 1] = torch.nan, -0.0
    states = HiddenStates(memory)
    for batch in first:
        states.append(batch)
    assert all(torch.equal(found, wanted) for found, wanted in zip(states, first, strict=True))
    for index, batch in enumerate(second):
        states[index] = batch
    for found, wanted in zip(states, second, strict=True):
        bits = [one.contiguous().view(torch.uint8) for one in (found, wanted)]
        assert found.dtype == dtype
        assert torch.equal(*bits)


def test_a_folder_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"hidden states .*absent.*TMPDIR"):
        HiddenStates(0).append(torch.zeros(1, 2, 3))
