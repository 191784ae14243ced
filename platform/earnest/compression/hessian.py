"""From the Hessian to what the column loop needs: dead inputs, the order of visits, and U with H⁻¹ = Uᵀ U.

The order of the steps is that of SparseGPT and GPTQ (arXiv 2301.00774 §3, arXiv 2210.17323 §3.3): dead inputs, order,
damping, inversion by Cholesky, and the upper factor of the inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earnest.specs import UserError


@dataclass(frozen=True)
class Prepared:
    """What the column loop reads.

    upper: float32 [cols, cols], in visiting order; dead: bool [cols], inputs that were always zero, in the original
    order; order: int64 [cols], the columns in the order of their visit.
    """

    upper: Tensor
    dead: Tensor
    order: Tensor


def prepare(hessian: Tensor, *, damping: float, act_order: bool, name: str) -> Prepared:
    """Make a Hessian ready for the column loop.

    Args:
        hessian: float32 [cols, cols]; it is not changed.
        damping: share of the mean diagonal that is added to the diagonal.
        act_order: visit inputs with large activations first.
        name: a Linear that reads these inputs, for the message of an error.

    Raises:
        UserError: the Hessian is not finite, or not positive definite even with the damping.
    """
    hessian = hessian.clone()
    diagonal = hessian.diagonal()
    if not bool(torch.isfinite(hessian).all()):
        raise not_finite(name)
    dead = diagonal == 0
    diagonal[dead] = 1.0
    order = torch.arange(len(dead), device=dead.device)
    if act_order:
        order = diagonal.argsort(descending=True, stable=True)
        hessian = hessian[order][:, order]
        diagonal = hessian.diagonal()
    diagonal += damping * diagonal.mean()
    return Prepared(_upper_of_inverse(hessian, damping, name), dead, order)


def _upper_of_inverse(hessian: Tensor, damping: float, name: str) -> Tensor:
    lower, failed = torch.linalg.cholesky_ex(hessian)
    upper: Tensor = torch.empty_like(lower)
    if not bool(failed):
        upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
    if bool(failed):
        raise UserError(
            f"{name}: the Hessian of its inputs is not positive definite with damping = {damping}; "
            f"use damping = {10 * damping:g} or more calibration samples"
        )
    return upper


def not_finite(name: str) -> UserError:
    """The error of a Linear whose calibration inputs overflowed."""
    return UserError(f"{name}: its calibration inputs are not finite; use dtype = float32 or other calibration text")
