"""What steers a sweep's models: a small tuned expert beside its untuned twin, at one or several strengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from earnest.specs.frame import Spec, UserError

ADAPTIVE: Literal["adaptive"] = "adaptive"
Alpha = float | Literal["adaptive"]


def _listed(value: Any) -> Any:
    """One value as a list of one; lists are grids."""
    return list(value) if isinstance(value, list | tuple) else [value]


class Proxy(Spec):
    """Proxy-tuning (Liu et al. 2024, arXiv 2401.08565): logits = base + alpha * (expert - antiexpert).

    Without an antiexpert the base itself stands there. `alpha` is a number, "adaptive", or a list of these. `bases`
    says which of the sweep's cells are steered: "all" (but no model that has a part in a pair itself), "dense" (the
    sweep's model as it is), or names: of a method ("wanda"), of a cell ("wanda 50%"), of a model among `references`.
    `target` is the directly tuned model that the share of the gap closed is measured against; it is evaluated beside
    the others. `compressed` says which of the two are compressed as their base is, by the same method, ratio and seed:
    both for a pair as cheap as its base; the antiexpert alone, beside itself as the expert, for a pair whose difference
    is what compression cost it.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The pair's name in tables."""
    expert: str = Field(min_length=1)
    """The small tuned model."""
    antiexpert: str | None = Field(default=None, min_length=1)
    """Its untuned twin; the base by default."""
    alpha: Annotated[tuple[Alpha, ...], BeforeValidator(_listed), Field(min_length=1)] = (1.0,)
    """How strongly the pair steers: a number, "adaptive", or a list of these."""
    bases: Literal["all", "dense"] | tuple[str, ...] = "all"
    """Which cells are steered."""
    target: str | None = Field(default=None, min_length=1)
    """The directly tuned model that the gap is measured to."""
    compressed: tuple[Literal["expert", "antiexpert"], ...] = ()
    """Which of the two are compressed as their base is."""

    @field_validator("alpha")
    @classmethod
    def _finite(cls, alphas: tuple[Alpha, ...]) -> tuple[Alpha, ...]:
        for alpha in alphas:
            if not isinstance(alpha, str) and not math.isfinite(alpha):
                raise ValueError(f"alpha {alpha}: write a finite number such as 1.0, or {ADAPTIVE!r}")
        return tuple(dict.fromkeys(alphas))

    @field_validator("bases")
    @classmethod
    def _some(cls, bases: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not bases:
            raise ValueError('bases = [] steers nothing; write "all", "dense" or some names, or leave the entry out')
        return bases

    @model_validator(mode="after")
    def _compressed_is_there(self) -> Self:
        if "antiexpert" in self.compressed and self.antiexpert is None:
            raise ValueError(f"compressed = {list(self.compressed)}: the pair has no antiexpert; name one")
        return self

    def steers(self, *names: str) -> bool:
        """Whether a cell that is called by these names is one of the bases."""
        wanted = ("dense",) if self.bases == "dense" else self.bases
        return wanted == "all" or bool(set(names) & set(wanted))

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the pair is made of."""
        return tuple(name for name in (self.expert, self.antiexpert) if name is not None)


def check_pairs(proxies: Sequence[Proxy]) -> None:
    """Raise ValueError where one name stands for two pairs: entries may share a name, but then also the models."""
    named: dict[str, Proxy] = {}
    for proxy in proxies:
        other = named.setdefault(proxy.name, proxy)
        if (other.models, other.target, other.compressed) != (proxy.models, proxy.target, proxy.compressed):
            raise ValueError(
                f"proxy: {proxy.name!r} names {' - '.join(other.models)} and {' - '.join(proxy.models)}, or two "
                "targets or ways to compress; give each pair a name of its own"
            )


def alpha_text(alpha: Alpha) -> str:
    """An alpha as it is written: "0.5", "1", "adaptive"."""
    return alpha if isinstance(alpha, str) else f"{alpha:g}"


def read_alpha(text: str) -> Alpha:
    """An alpha as a user types it. Raises UserError for what is neither a finite number nor "adaptive"."""
    if text == ADAPTIVE:
        return ADAPTIVE
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha):
        raise UserError(f"alpha {text}: write a finite number such as 1.0, or {ADAPTIVE}")
    return alpha
