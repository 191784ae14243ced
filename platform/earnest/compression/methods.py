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
from earnest.compression.masks import nm_zeros, share
from earnest.compression.matrices import Compressed, Matrix
from earnest.specs import GPTQ, NM, RTN, Magnitude, Method, Pruning, Random, SparseGPT, UserError, Wanda, method_names

Zeros = Callable[[Any, int, int], int]


@dataclass(frozen=True)
class DataFree:
    """A method that looks at weights alone: `compress(matrices, spec)`.

    `zeros(spec, rows, cols)` says how many weights of a matrix without N:M it prunes, exactly; without it a count
    within one weight per row of the sparsity is taken.
    """

    compress: Callable[[Sequence[Matrix], Any], list[Compressed]]
    zeros: Zeros | None = None


@dataclass(frozen=True)
class DataDriven:
    """A method that looks at inputs too: `compress(matrices, statistic, spec)` for Linears that read the same inputs.

    `statistic(cols, device)` begins the sum over inputs that it wants; `zeros` is as for `DataFree`.
    """

    compress: Callable[[Sequence[Matrix], Tensor, Any], list[Compressed]]
    statistic: Callable[[int, torch.device], Statistic]
    zeros: Zeros | None = None


Procedure = DataFree | DataDriven

PROCEDURES: dict[type[Method], Procedure] = {
    Random: DataFree(random_control.compress, random_control.zeros),
    Magnitude: DataFree(magnitude.compress, magnitude.zeros),
    Wanda: DataDriven(wanda.compress, SquaredNorms, wanda.zeros),
    SparseGPT: DataDriven(sparsegpt.compress, SecondMoment, sparsegpt.zeros),
    RTN: DataFree(rtn.compress),
    GPTQ: DataDriven(gptq.compress, SecondMoment),
}


def procedure_for(method: Method) -> Procedure:
    """How to carry out a method. Raises UserError for `dense`, where there is nothing to do."""
    if type(method) not in PROCEDURES:
        raise UserError(f"method {name_of(method)}: there is nothing to compress; use {method_names()}")
    return PROCEDURES[type(method)]


def nominal_zeros(method: Method, rows: int, cols: int) -> range:
    """How many weights of one matrix [rows, cols] the method may prune: one number, where its procedure says it."""
    if not isinstance(method, Pruning):
        return range(1)
    if isinstance(method.pattern, NM):
        return _exactly(nm_zeros(method.pattern, rows, cols))
    zeros = procedure_for(method).zeros
    if zeros is not None:
        return _exactly(zeros(method, rows, cols))
    whole = share(rows * cols, method.pattern.sparsity)
    return range(max(whole - rows, 0), min(whole + rows, rows * cols) + 1)


def _exactly(count: int) -> range:
    return range(count, count + 1)
