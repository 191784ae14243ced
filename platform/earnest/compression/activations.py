"""What calibration remembers of a Linear's inputs: sums over tokens in float32, never the activations themselves.

N counts sequences, as in the reference programs: the factor matters only beside the ones that stand in for dead inputs.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Statistic(Protocol):
    """A sum over all inputs that a Linear saw."""

    def add(self, inputs: Tensor) -> None:
        """Take in one batch of inputs, [sequences, length, cols] in any float dtype."""

    def value(self) -> Tensor:
        """The statistic over all inputs so far, float32; zeros where there were none."""


class SquaredNorms:
    """Wanda's statistic: the sum of squares of each input over all tokens, over N sequences; [cols]."""

    def __init__(self, cols: int, device: torch.device) -> None:
        self._sum = torch.zeros(cols, device=device)
        self._sequences = 0

    def add(self, inputs: Tensor) -> None:
        """Take in one batch of inputs, [sequences, length, cols]."""
        tokens = inputs.reshape(-1, inputs.shape[-1]).float()
        self._sum += tokens.square().sum(0)
        self._sequences += inputs.shape[0]

    def value(self) -> Tensor:
        """float32 [cols]."""
        return self._sum / max(self._sequences, 1)


class SecondMoment:
    """The Hessian of a Linear's squared output error: (2 / N) Σ x xᵀ over all tokens; [cols, cols]."""

    def __init__(self, cols: int, device: torch.device) -> None:
        self._sum = torch.zeros(cols, cols, device=device)
        self._sequences = 0

    def add(self, inputs: Tensor) -> None:
        """Take in one batch of inputs, [sequences, length, cols]."""
        tokens = inputs.reshape(-1, inputs.shape[-1]).float()
        self._sum.addmm_(tokens.t(), tokens)
        self._sequences += inputs.shape[0]

    def value(self) -> Tensor:
        """float32 [cols, cols]."""
        return self._sum * (2.0 / max(self._sequences, 1))
