"""Which weights a pruning method may keep: a share of all, or N of every M."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from earnest.specs.frame import Spec


class Unstructured(Spec):
    """`sparsity` of the weights become zero, wherever they are."""

    kind: Literal["unstructured"] = "unstructured"
    sparsity: float = Field(gt=0.0, lt=1.0, description="share of the prunable weights that become zero, in (0, 1)")

    def __str__(self) -> str:
        return f"{self.sparsity:.0%}" if round(self.sparsity * 100, 6).is_integer() else f"{self.sparsity:.4g}"


class NM(Spec):
    """At most `n` non-zero weights in every `m` consecutive inputs of a row (2:4 keeps 2 of 4)."""

    kind: Literal["n:m"] = "n:m"
    n: int = Field(ge=1)
    """Weights that stay, of every `m`."""
    m: int = Field(ge=2, le=64)
    """Consecutive inputs of a row."""

    @model_validator(mode="after")
    def _keeps_fewer_than_all(self) -> Self:
        if self.n >= self.m:
            raise ValueError(
                f"pattern {self.n}:{self.m}: N:M keeps N of every M weights, so N must be below M, as in 2:4"
            )
        return self

    @property
    def sparsity(self) -> float:
        """The share of weights that the pattern removes."""
        return 1.0 - self.n / self.m

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"


Pattern = Annotated[Unstructured | NM, Field(discriminator="kind")]


def parse_pattern(text: str) -> NM:
    """Read "2:4" as N:M. Raises ValueError with the rule for anything else."""
    parts = text.split(":")
    if len(parts) != 2 or not all(part.strip().isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"pattern {text!r}: write N:M with two whole numbers, as in 2:4")
    return NM(n=int(parts[0]), m=int(parts[1]))
