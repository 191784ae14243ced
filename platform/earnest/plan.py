"""What a plan is: cells, and the deduplicated steps that fill them, each named by the digest of all that decides its
result. `planning` makes one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from earnest.specs import Alpha, AnyTask, Calibration, Dense, LMEval, Method, alpha_text
from earnest.specs.dtypes import Auto, compute_dtype

Kind = Literal["compress", "evaluate"]
COMPRESS: Kind = "compress"
EVALUATE: Kind = "evaluate"
FUSION_VERSION = 1  # changes when an ensemble's logits do


@dataclass(frozen=True)
class Member:
    """A model with a part in a pair: its name, where it lies, and the digest of its weights.

    `checkpoint` is the step that compresses it, where it is compressed as its base is; `dtype` is what it computes in.
    """

    name: str
    path: str
    digest: str
    checkpoint: str | None = None
    dtype: str = ""

    @property
    def content(self) -> str:
        """What names the weights that are run."""
        return self.checkpoint or self.digest


@dataclass(frozen=True)
class Steering:
    """A pair and how strongly it steers; `name` is the pair's."""

    name: str
    expert: Member
    antiexpert: Member | None
    alpha: Alpha

    def __str__(self) -> str:
        """As in "tuned α 0.5"."""
        return f"{self.name} α {alpha_text(self.alpha)}"

    @property
    def checkpoints(self) -> tuple[str, ...]:
        """The steps that compress the pair's models."""
        members = (self.expert, self.antiexpert)
        return tuple(member.checkpoint for member in members if member is not None and member.checkpoint is not None)

    @property
    def fields(self) -> dict[str, Any]:
        """What a digest covers of it: weights and alpha, no names."""
        return {
            "expert": self.expert.content,
            "antiexpert": self.antiexpert.content if self.antiexpert else None,
            "alpha": self.alpha,
            "version": FUSION_VERSION,
        }


@dataclass(frozen=True)
class Step:
    """One unit of work.

    `spec` is JSON and holds all that decides the result; `digest` names it. `needs` are digests of steps that must
    be finished first: the checkpoint to evaluate, the dense reference to compare with. `steering` makes the subject an
    ensemble, `restored` puts decoder blocks of the checkpoint back to dense. `location` tells a worker where to find
    what the digest names by content (paths of models and data), and is not part of the digest.
    """

    kind: Kind
    digest: str
    spec: dict[str, Any]
    needs: tuple[str, ...] = ()
    checkpoint: str | None = None
    reference: str | None = None
    location: dict[str, str] = field(default_factory=dict)
    label: str = ""
    cost: float = 1.0
    steering: Steering | None = None
    restored: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One row of the table: a model compressed one way with one seed, steered or not, and its steps by task label.

    Of a steered cell, `base` is the key of the same cell without the pair, and `target` that of the directly tuned
    model, where the pair has one. `restored` holds, by task label, one step per decoder block put back to dense,
    `rebatched` the same evaluation in batches of another size.
    """

    key: str
    model: str
    model_digest: str
    method: Method
    seed: int
    compress: str | None
    evaluate: Mapping[str, str]
    steering: Steering | None = None
    base: str | None = None
    target: str | None = None
    restored: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rebatched: Mapping[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """What names the cell among others: "nano:large", "wanda 50%"."""
        method = str(self.method.model_dump()["method"])
        return self.model if isinstance(self.method, Dense) else f"{method} {self.method.nominal}"

    @property
    def name(self) -> str:
        """All that names it but its seed: "wanda 50% + tuned α 1"."""
        return self.label + (f" + {self.steering}" if self.steering else "")


@dataclass(frozen=True)
class Plan:
    """The steps of a sweep by digest, in an order that respects their needs, and the cells that they fill."""

    sweep: str
    steps: Mapping[str, Step]
    cells: tuple[Cell, ...]

    def missing(self, done: Iterable[str]) -> list[Step]:
        """The steps whose output is not there yet."""
        finished = set(done)
        return [step for step in self.steps.values() if step.digest not in finished]


@dataclass(frozen=True)
class Inputs:
    """What was found out about a sweep's models and data before planning.

    `models`: reference -> (path, digest of the weights); `data`: data's name -> (path or id, digest of its content),
    keyed by `data_key`; `versions`: the libraries whose version decides results; `helpers`: a model that a task needs
    for itself -> the digest of its weights; `blocks`: how many decoder blocks the sweep's model has; `stored`: a
    model -> the dtype of its files; `auto`: what the dtype `auto` means on the sweep's workers.
    """

    models: Mapping[str, tuple[str, str]]
    data: Mapping[str, tuple[str, str]]
    versions: Mapping[str, str]
    helpers: Mapping[str, str] = field(default_factory=dict)
    blocks: int = 0
    stored: Mapping[str, str] = field(default_factory=dict)
    auto: Auto = "float32"

    def stored_dtype(self, model: str) -> str:
        """The dtype of a model's files."""
        return self.stored.get(model, "float32")

    def compute_dtype(self, asked: str, model: str) -> str:
        """What a model computes in, where `asked` may be auto or stored."""
        return compute_dtype(asked, self.stored_dtype(model), self.auto)


def data_key(spec: Calibration | AnyTask) -> str:
    """What names a piece of data within a sweep: where it lies, its split and, where it matters, its column."""
    whose = [spec.benchmark, *spec.places.values()] if isinstance(spec, LMEval) else []
    return "|".join([spec.data, spec.split, *whose])


def method_fields(method: Method) -> dict[str, Any]:
    """A method's fields and version: what a digest covers of it."""
    return {**method.model_dump(mode="json"), "version": method.version}
