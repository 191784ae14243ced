"""How one compressed weight lies in a file: the parts that are stored under its name, and the way back, bit for bit.

| form | parts |
|---|---|
| bitmask | `bitmask`, `values` in the model's dtype |
| packed | `codes` packed, `scale` [rows, groups]; `zero` packed if asymmetric; `group_of` [cols] if no plain runs |
| packed-bitmask | as packed, but with `bitmask`, and `codes` only of the weights that it marks |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from earnest.compression import bitmask
from earnest.compression.packing import pack, unpack
from earnest.compression.quantiser import Quantised, plain_groups, scale_dtype_for

Form = Literal["dense", "bitmask", "packed", "packed-bitmask"]
PARTS = ("bitmask", "values", "codes", "scale", "zero", "group_of")


@dataclass(frozen=True)
class Layout:
    """What must be known beside the parts to read them: form, shape, dtype, and bits and group size of codes."""

    form: Form
    shape: tuple[int, ...]
    dtype: torch.dtype
    bits: int | None = None
    group_size: int | None = None


def form_of(pruned: int, bits: int | None) -> Form:
    """The form that suits what was done to a weight: `pruned` of it chosen to become zero, the others of `bits`."""
    if bits is None:
        return "bitmask"
    return "packed-bitmask" if pruned else "packed"


def encode(form: Form, weight: Tensor, quantised: Quantised | None) -> dict[str, Tensor]:
    """The parts of a weight [rows, cols], on the CPU, in the dtype of the model."""
    if quantised is None:
        marks, values = bitmask.sparse(weight)
        return {"bitmask": marks, "values": values}
    parts = {"scale": quantised.scale.to(scale_dtype_for(weight.dtype))}
    if not quantised.symmetric:
        parts["zero"] = pack(quantised.zero.abs(), quantised.bits)  # −0 is 0
    if not torch.equal(quantised.group_of, plain_groups(weight.shape[1], quantised.group_size)):
        parts["group_of"] = quantised.group_of.to(_narrowest(quantised.scale.shape[1]))
    codes = quantised.codes
    if form == "packed-bitmask":
        kept = codes != quantised.zero[:, quantised.group_of]  # a code at the zero point is a weight of zero
        parts["bitmask"] = pack(kept, 1)
        codes = codes[kept]
    parts["codes"] = pack(codes, quantised.bits)
    return parts


def _narrowest(groups: int) -> torch.dtype:
    return torch.int16 if groups <= torch.iinfo(torch.int16).max else torch.int32


def decode(layout: Layout, parts: Mapping[str, Tensor]) -> Tensor:
    """The weight in the model's dtype, equal bit for bit to the one that was encoded.

    Raises:
        KeyError: a part is missing.
        ValueError: parts do not fit each other.
    """
    if layout.form == "bitmask":
        return bitmask.dense(parts["bitmask"], parts["values"], layout.shape)
    return _quantised(layout, parts).dequantised().to(layout.dtype)


def _quantised(layout: Layout, parts: Mapping[str, Tensor]) -> Quantised:
    assert layout.bits is not None
    assert layout.group_size is not None
    rows, cols = layout.shape
    scale = parts["scale"].float()
    symmetric = "zero" not in parts
    if symmetric:
        zero = torch.full_like(scale, 2 ** (layout.bits - 1))
    else:
        zero = unpack(parts["zero"], layout.bits, scale.numel()).view_as(scale).float()
    plain = plain_groups(cols, layout.group_size)
    group_of = parts["group_of"].long() if "group_of" in parts else plain
    if layout.form == "packed-bitmask":
        codes = zero[:, group_of].to(torch.uint8)
        kept = bitmask.positions(parts["bitmask"], layout.shape)
        codes[kept] = unpack(parts["codes"], layout.bits, int(kept.sum()))
    else:
        codes = unpack(parts["codes"], layout.bits, rows * cols).view(rows, cols)
    return Quantised(layout.bits, symmetric, layout.group_size, codes, scale, zero, group_of)
