"""Codes and bitmasks: no bit wasted, no bit lost."""

import pytest
import torch

from earnest.compression import bitmask, packing
from earnest.compression.packing import pack, packed_bytes, unpack


def test_three_bits_by_hand() -> None:
    """Codes 0..7 in three bits each, the first in the lowest bits: 0xFAC688, little endian."""
    assert pack(torch.arange(8, dtype=torch.uint8), 3).tolist() == [0x88, 0xC6, 0xFA]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_what_is_packed_comes_back_and_takes_its_bits(bits: int, count: int) -> None:
    codes = torch.randint(2**bits, (count,), generator=torch.Generator().manual_seed(bits)).to(torch.uint8)
    packed = pack(codes, bits)
    assert len(packed) == packed_bytes(count, bits)
    assert count * bits <= 8 * len(packed) < count * bits + 8 * bits + 1
    assert torch.equal(unpack(packed, bits, count), codes)


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = torch.randint(8, (100,), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    whole = pack(codes, 3)
    monkeypatch.setattr(packing, "_CHUNK", 16)
    assert torch.equal(pack(codes, 3), whole)
    assert torch.equal(unpack(whole, 3, 100), codes)


def test_bytes_of_another_count_are_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes do not hold 9 codes of 3 bits, which take 6"):
        unpack(torch.zeros(3, dtype=torch.uint8), 3, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(3, 5), (8, 16), (1, 1)])
def test_a_sparse_matrix_comes_back(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    weight[weight < 0] = 0
    marks, values = bitmask.sparse(weight)
    assert len(marks) == (weight.numel() + 7) // 8
    assert torch.equal(bitmask.dense(marks, values, shape), weight)


def test_a_bitmask_that_does_not_fit_its_values_is_refused() -> None:
    marks, values = bitmask.sparse(torch.eye(4))
    with pytest.raises(ValueError, match="marks 4 weights but there are 3 values"):
        bitmask.dense(marks, values[:3], (4, 4))
