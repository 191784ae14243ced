"""What a user may decide about the nano family: one frozen config, read from TOML, unknown keys refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from earnest.almanac.world import PEOPLE, SEED

Size = Literal["large", "medium", "small"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WorldSpec(_Strict):
    """The world: its seed and how many people live in it."""

    seed: int = SEED
    people: int = Field(default=PEOPLE, ge=30)


class TokenizerSpec(_Strict):
    """The tokenizer: its vocabulary, and how many documents of the final mix it is learnt on."""

    vocabulary: int = Field(default=1536, ge=300)
    documents: int = Field(default=14_000, ge=1)
    seed: int = 99


class ModelSpec(_Strict):
    """A Llama: `hidden` and `mlp` are widths, `context` is its longest text in tokens, `seed` draws its weights."""

    hidden: int
    layers: int
    heads: int
    mlp: int
    seed: int
    context: int = 512

    @model_validator(mode="after")
    def _heads_divide_hidden(self) -> ModelSpec:
        if self.hidden % self.heads:
            raise ValueError(f"heads {self.heads} does not divide hidden {self.hidden}; use a divisor")
        return self


class Curriculum(_Strict):
    """Share of the training steps in each phase, in this order; they sum to 1."""

    copying: float = 0.10
    mixed: float = 0.12
    final: float = 0.78

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Curriculum:
        if abs(sum(self.model_dump().values()) - 1) > 1e-9:
            raise ValueError(f"curriculum shares sum to {sum(self.model_dump().values())}; make them sum to 1")
        return self


class Optimiser(_Strict):
    """Learning rates for matrices (`muon`) and for embedding and norms (`adamw`).

    Both rise over `warmup` steps, stay flat, then fall linearly to `floor` of themselves over the last `decay` share.
    """

    muon: float
    adamw: float
    warmup: int
    decay: float = Field(ge=0, le=1)
    floor: float = 0.02


class Training(_Strict):
    """Pretraining: `steps` of `rows` rows of `length` tokens each; the data order follows `seed`."""

    steps: int = Field(ge=1)
    rows: int = Field(ge=1)
    length: int = Field(ge=32)
    seed: int
    snapshot: int = Field(default=500, ge=1, description="steps between the snapshots of an unfinished model")
    curriculum: Curriculum = Curriculum()
    optimiser: Optimiser


class Tuning(_Strict):
    """Tuning on half A: shares of pairs that read a passage or ask for a biography; the rest is closed-book."""

    sizes: tuple[Size, ...]
    steps: int = Field(ge=1)
    seed: int
    reading: float = Field(ge=0, le=1)
    biographies: float = Field(ge=0, le=1)
    optimiser: Optimiser


class Recipe(_Strict):
    """The whole family."""

    world: WorldSpec = WorldSpec()
    tokenizer: TokenizerSpec = TokenizerSpec()
    models: dict[Size, ModelSpec]
    training: Training
    tuning: Tuning

    @model_validator(mode="after")
    def _tuned_sizes_exist(self) -> Recipe:
        missing = [s for s in self.tuning.sizes if s not in self.models]
        if missing:
            raise ValueError(f"tuning.sizes names {', '.join(missing)}, which [models] lacks; add it or leave it out")
        return self


def load_recipe(path: Path) -> Recipe:
    """The recipe in a TOML file."""
    return Recipe.model_validate(tomllib.loads(path.read_text()))
