"""Small whole numbers packed without gaps: `bits` bits each, 3 bits really take 3 bits.

Eight codes fill `bits` bytes, little endian, the first code in the lowest bits. A bitmask is the case of one bit.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 8 * 2**20  # codes at a time, so that packing a large matrix takes little memory beside it


def packed_bytes(count: int, bits: int) -> int:
    """The bytes that `count` codes of `bits` bits take: whole groups of eight codes."""
    return (count + 7) // 8 * bits


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of 0..2^bits − 1, any shape -> uint8 [packed_bytes], in row-major order. `bits` is 1..8."""
    flat = codes.reshape(-1)
    chunks = [_pack_chunk(chunk, bits) for chunk in torch.split(flat, _CHUNK)]
    return torch.cat(chunks) if chunks else flat.new_empty(0, dtype=torch.uint8)


def _pack_chunk(codes: Tensor, bits: int) -> Tensor:
    eights = torch.nn.functional.pad(codes.to(torch.int64), (0, -len(codes) % 8)).view(-1, 8)
    words: Tensor = (eights << _shifts(bits)).sum(1)  # one int64 holds eight codes of up to eight bits
    return words.view(torch.uint8).view(-1, 8)[:, :bits].reshape(-1)


def unpack(data: Tensor, bits: int, count: int) -> Tensor:
    """The first `count` codes of packed uint8 bytes, as uint8 [count].

    Raises:
        ValueError: the bytes are not as many as `count` codes take.
    """
    if len(data) != packed_bytes(count, bits):
        raise ValueError(
            f"{len(data)} bytes do not hold {count} codes of {bits} bits, which take {packed_bytes(count, bits)}"
        )
    chunks = [_unpack_chunk(chunk, bits) for chunk in torch.split(data, _CHUNK // 8 * bits)]
    return torch.cat(chunks)[:count] if chunks else data.new_empty(0)


def _unpack_chunk(data: Tensor, bits: int) -> Tensor:
    eights = torch.nn.functional.pad(data.view(-1, bits), (0, 8 - bits)).contiguous()
    words = eights.view(torch.int64)  # [groups of eight, 1]
    codes: Tensor = (words >> _shifts(bits)) & ((1 << bits) - 1)
    return codes.to(torch.uint8).reshape(-1)


def _shifts(bits: int) -> Tensor:
    return torch.arange(8) * bits
