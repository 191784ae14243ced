"""The table of methods: what each needs to see of the calibration inputs, and the function that does it.

A new method is one file and one line here (and its spec in `specs`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earnest.compression import gptq, magnitude, random_control, rtn, sparsegpt, wanda
from earnest.compression.activations import SecondMoment, SquaredNorms, Statistic
from earnest.compression.checks import name_of
from earnest.compression.masks import share
from earnest.compression.matrices import Compressed, Matrix
from earnest.specs import GPTQ, NM, RTN, Magnitude, Method, Pruning, Random, SparseGPT, UserError, Wanda


@dataclass(frozen=True)
class DataFree:
    """A method that looks at weights alone: `compress(matrices, spec)`."""

    compress: Callable[[Sequence[Matrix], Any], list[Compressed]]


@dataclass(frozen=True)
class DataDriven:
    """A method that looks at inputs too: `compress(matrices, statistic, spec)` for Linears that read the same inputs.

    `statistic(cols, device)` begins the sum over inputs that it wants.
    """

    compress: Callable[[Sequence[Matrix], Tensor, Any], list[Compressed]]
    statistic: Callable[[int, torch.device], Statistic]


Procedure = DataFree | DataDriven

PROCEDURES: dict[type[Method], Procedure] = {
    Random: DataFree(random_control.compress),
    Magnitude: DataFree(magnitude.compress),
    Wanda: DataDriven(wanda.compress, SquaredNorms),
    SparseGPT: DataDriven(sparsegpt.compress, SecondMoment),
    RTN: DataFree(rtn.compress),
    GPTQ: DataDriven(gptq.compress, SecondMoment),
}


def procedure_for(method: Method) -> Procedure:
    """How to carry out a method. Raises UserError for `dense`, where there is nothing to do."""
    if type(method) not in PROCEDURES:
        raise UserError(
            f"method {name_of(method)}: there is nothing to compress; "
            "use one of random, magnitude, wanda, sparsegpt, rtn, gptq"
        )
    return PROCEDURES[type(method)]


def nominal_zeros(method: Method, rows: int, cols: int) -> int:
    """How many weights of one matrix [rows, cols] the method is to prune: exactly, rounding included."""
    if not isinstance(method, Pruning):
        return 0
    if isinstance(method.pattern, NM):
        return rows * cols // method.pattern.m * (method.pattern.m - method.pattern.n)
    sparsity = method.pattern.sparsity
    if isinstance(method, Wanda):
        return rows * share(cols, sparsity)
    if isinstance(method, SparseGPT):
        size = sparsegpt.block_size(method)
        return sum(share(rows * min(size, cols - start), sparsity) for start in range(0, cols, size))
    return share(rows * cols, sparsity)
