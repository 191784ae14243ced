"""The compression methods that a user may ask for. A new one is a class here and a file in `compression/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import Field, TypeAdapter, model_validator

from earnest.specs.frame import Spec, validated
from earnest.specs.patterns import NM, Pattern, parse_pattern


class Method(Spec):
    """What every compression method has: a name, a version that changes when its results do, and its needs."""

    version: ClassVar[int] = 1
    needs_calibration: ClassVar[bool] = False
    cost: ClassVar[float] = 1.0  # relative seconds, to start long steps first
    family: ClassVar[Literal["dense", "pruning", "quantisation"]] = "dense"

    @property
    def nominal(self) -> str:
        """What was asked, in a few characters: "50%", "2:4", "4 bits g32"."""
        return "dense"

    @classmethod
    def draws(cls) -> bool:
        """Whether its own `seed` decides the result, calibration apart."""
        return "seed" in cls.model_fields


class Dense(Method):
    """The model as it is: the point that all others are measured against."""

    method: Literal["dense"] = "dense"


class Pruning(Method):
    """A method that zeroes weights by a pattern. A user writes `sparsity = 0.5` or `pattern = "2:4"`."""

    family: ClassVar[Literal["dense", "pruning", "quantisation"]] = "pruning"
    pattern: Pattern
    """Which weights may stay: written as `sparsity = 0.5` or `pattern = "2:4"`."""

    @model_validator(mode="before")
    @classmethod
    def _read_sparsity_or_pattern(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        fields = dict(data)
        sparsity, pattern = fields.pop("sparsity", None), fields.pop("pattern", None)
        if (sparsity is None) == (pattern is None):
            raise ValueError("give exactly one of sparsity (as in 0.5) and pattern (as in 2:4)")
        if sparsity is not None:
            fields["pattern"] = {"kind": "unstructured", "sparsity": sparsity}
        else:
            fields["pattern"] = parse_pattern(pattern) if isinstance(pattern, str) else pattern
        return fields

    @property
    def nominal(self) -> str:
        """The pattern, as in "50%" or "2:4"."""
        return str(self.pattern)


class Random(Pruning):
    """Random weights become zero: the control that any method must beat."""

    method: Literal["random"] = "random"
    seed: int = Field(default=0, ge=0)
    """Draws the weights."""


class Magnitude(Pruning):
    """The smallest weights of each matrix become zero (Han et al. 2015)."""

    method: Literal["magnitude"] = "magnitude"


class Wanda(Pruning):
    """The smallest |weight| × input norm of each row become zero (Sun et al. 2023, arXiv 2306.11695)."""

    method: Literal["wanda"] = "wanda"
    needs_calibration: ClassVar[bool] = True
    cost: ClassVar[float] = 3.0


class SparseGPT(Pruning):
    """Prune column by column and let the remaining weights make up for it (Frantar & Alistarh 2023, arXiv 2301.00774).

    With `bits`, the surviving weights are quantised in the same pass.
    """

    method: Literal["sparsegpt"] = "sparsegpt"
    version: ClassVar[int] = 2
    needs_calibration: ClassVar[bool] = True
    cost: ClassVar[float] = 8.0
    damping: float = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    """Added to the diagonal of the Hessian, as a share of its mean."""
    block_size: int = Field(default=128, ge=1)
    """Columns that are compressed before the rest makes up for them."""
    true_sequential: bool = False
    """Whether the layers of a block see the compressed ones before them."""
    act_order: bool = False
    """Visit columns by falling activation."""
    bits: int | None = Field(default=None, ge=2, le=8)
    """Quantise the survivors to as many bits."""
    group_size: int = Field(default=-1, ge=-1)
    """Inputs per scale; -1 is one scale per row."""
    symmetric: bool = False
    """Whether the zero point is fixed in the middle."""
    static_groups: bool = False
    """Whether scales are found before any column changes."""

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.bits is None and (self.group_size != -1 or self.symmetric or self.static_groups):
            raise ValueError("group_size, symmetric and static_groups need bits, as in bits = 4")
        if self.act_order and isinstance(self.pattern, NM):
            raise ValueError("act_order visits columns out of order and cannot keep N:M; use sparsity instead")
        _check_group_size(self.group_size)
        return self

    @property
    def nominal(self) -> str:
        """The pattern, as in "50%" or "2:4"."""
        return str(self.pattern) + ("" if self.bits is None else f" + {self.bits} bits")


class Quantisation(Method):
    """A method that stores weights as integers of `bits` bits with one scale per group of inputs.

    `group_size` -1 means one group per row. `symmetric` fixes the zero point in the middle of the range.
    """

    family: ClassVar[Literal["dense", "pruning", "quantisation"]] = "quantisation"
    bits: int = Field(ge=2, le=8)
    """Bits per weight."""
    group_size: int = Field(default=128, ge=-1)
    """Inputs per scale; -1 is one scale per row."""
    symmetric: bool = False
    """Whether the zero point is fixed in the middle."""

    @model_validator(mode="after")
    def _group_size_is_possible(self) -> Self:
        _check_group_size(self.group_size)
        return self

    @property
    def nominal(self) -> str:
        """Bits and group, as in "4 bits g32"."""
        group = "" if self.group_size == -1 else f" g{self.group_size}"
        return f"{self.bits} bits{group}"


class RTN(Quantisation):
    """Round each weight to the nearest level: the control that uses no data."""

    method: Literal["rtn"] = "rtn"


class GPTQ(Quantisation):
    """Quantise column by column, the remaining weights making up for it (Frantar et al. 2022, arXiv 2210.17323)."""

    method: Literal["gptq"] = "gptq"
    version: ClassVar[int] = 2
    needs_calibration: ClassVar[bool] = True
    cost: ClassVar[float] = 8.0
    act_order: bool = False
    """Visit columns by falling activation."""
    static_groups: bool = False
    """Whether scales are found before any column changes."""
    true_sequential: bool = False
    """Whether the layers of a block see the compressed ones before them."""
    damping: float = Field(default=0.01, gt=0.0, allow_inf_nan=False)
    """Added to the diagonal of the Hessian, as a share of its mean."""
    block_size: int = Field(default=128, ge=1)
    """Columns that are compressed before the rest makes up for them."""

    @model_validator(mode="after")
    def _static_groups_need_groups(self) -> Self:
        if self.static_groups and self.group_size == -1:
            raise ValueError("static_groups needs a group_size, as in group_size = 32")
        return self


def _check_group_size(group_size: int) -> None:
    if group_size == 0:
        raise ValueError("group_size 0: use a number of inputs such as 32, or -1 for one group per row")


AnyMethod = Annotated[
    Dense | Random | Magnitude | Wanda | SparseGPT | RTN | GPTQ,
    Field(discriminator="method"),
]
METHODS: tuple[type[Method], ...] = get_args(get_args(AnyMethod)[0])  # in the order of the union
METHOD_ADAPTER: TypeAdapter[AnyMethod] = TypeAdapter(AnyMethod)


def read_method(fields: Mapping[str, Any]) -> AnyMethod:
    """A method from its fields, or UserError with every rule broken."""
    return validated(METHOD_ADAPTER, fields, "method")


def method_names(*, calibrated: bool = True) -> str:
    """The methods that compress, as errors and `--help` list them; without those that need calibration on request."""
    names = [
        str(method.model_fields["method"].default)
        for method in METHODS
        if method.family != "dense" and (calibrated or not method.needs_calibration)
    ]
    return " or ".join((", ".join(names[:-1]), names[-1]))


def draws(name: str) -> bool:
    """Whether a method of that name has a seed of its own."""
    return any(method.model_fields["method"].default == name and method.draws() for method in METHODS)
