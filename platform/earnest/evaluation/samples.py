"""What tasks hand back: every sample, and the metrics over them; and the samples as a table."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
from torch import Tensor

from earnest.records import Estimate, Part
from earnest.specs import UserError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("prompt_hash", pa.string()),
        ("prediction", pa.string()),
        ("gold", pa.string()),
        ("correct", pa.bool_()),
        ("score", pa.float64()),
        ("log_likelihoods", pa.list_(pa.float64())),
        ("truncated", pa.bool_()),
        ("domain", pa.string()),
        ("stratum", pa.string()),
    ]
)
COUNTS = ("tokens", "kl_positions", "finish")
_TYPES: dict[type, pa.DataType] = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}


@dataclass(frozen=True)
class Sample:
    """One question and what became of it.

    `score` is the headline metric on this sample, None where it could not be scored; `correct` is None for tasks
    without right and wrong. `more` holds the task's own columns, the same for all its samples. `finite` is False where
    the model's logits were not finite, and it has no score.
    """

    id: str
    prompt: str
    prediction: str = ""
    gold: str = ""
    correct: bool | None = None
    score: float | None = None
    log_likelihoods: tuple[float | None, ...] = ()
    truncated: bool = False
    domain: str = ""
    stratum: str = ""
    more: Mapping[str, bool | int | float | str | None] = field(default_factory=dict)
    finite: bool = True


@dataclass(frozen=True)
class Measured:
    """A task's outcome: its samples in order, its metrics, how to estimate the headline on some of the samples, and
    the dense log-probabilities for later comparison where the task makes them. `breakdowns` are those of `Scores`.

    `headline_name` and `higher_is_better` are there where the spec does not know them.
    """

    samples: Sequence[Sample]
    metrics: Mapping[str, Estimate]
    headline: Callable[[Sequence[Sample]], Estimate]
    reference: dict[str, Tensor] | None = None
    breakdowns: Mapping[str, dict[str, dict[str, Part]]] = field(default_factory=dict)
    headline_name: str | None = None
    higher_is_better: bool | None = None


def unscored(sample: Sample) -> Sample:
    """The sample of a model whose logits were not finite: it has no score, and of its own columns only the counts."""
    kept = {name: value if name in COUNTS else None for name, value in sample.more.items()}
    return replace(sample, correct=None, score=None, more=kept, finite=False)


def scored(samples: Sequence[Sample]) -> list[Sample]:
    """The samples that have a score.

    Raises:
        UserError: none has.
    """
    known = [sample for sample in samples if sample.score is not None]
    if not known and not all(sample.finite for sample in samples):
        raise UserError(
            f"none of {len(samples)} samples could be scored: the model's logits are not finite\n"
            "load it in bfloat16 or float32; if they stay so, its weights are broken"
        )
    if not known:
        raise UserError(
            f"none of {len(samples)} samples could be scored: each has an option that is empty or too long; "
            "look at the choices, or use a model with a longer context"
        )
    return known


def column(samples: Sequence[Sample], name: str) -> list[float]:
    """A task's own column over `samples`, as numbers."""
    return [float(sample.more[name] or 0.0) for sample in samples]


def table(samples: Sequence[Sample]) -> pa.Table:
    """The samples as a table: the columns that all tasks share, then the task's own."""
    rows = [_row(sample) for sample in samples]
    own = {name: _type(name, samples) for sample in samples[:1] for name in sample.more}
    schema = pa.schema([*SCHEMA, *own.items()])
    return pa.Table.from_pylist(rows, schema=schema)


def _row(sample: Sample) -> dict[str, Any]:
    return {
        "id": sample.id,
        "prompt_hash": hashlib.sha256(sample.prompt.encode()).hexdigest()[:16],
        "prediction": sample.prediction,
        "gold": sample.gold,
        "correct": sample.correct,
        "score": sample.score,
        "log_likelihoods": list(sample.log_likelihoods),
        "truncated": sample.truncated,
        "domain": sample.domain,
        "stratum": sample.stratum,
        **sample.more,
    }


def _type(name: str, samples: Sequence[Sample]) -> pa.DataType:
    values = (sample.more[name] for sample in samples)
    return _TYPES[type(next((value for value in values if value is not None), 0.0))]
