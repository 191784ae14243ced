"""What a user writes: frozen models of methods, tasks, calibration and sweeps.

Everything here is data. Unknown keys are refused, numbers are checked, and the canonical JSON of a spec is what
a step's digest covers. What the house itself writes down is in `records.py`.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator


class UserError(ValueError):
    """A mistake that the user can mend: the message names the value, the rule and the remedy, in one or two lines."""


class Spec(BaseModel):
    """A frozen piece of configuration that refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


# --- patterns -------------------------------------------------------------------------------------------------------


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
    m: int = Field(ge=2, le=64)

    @model_validator(mode="after")
    def _keeps_fewer_than_all(self) -> Self:
        if self.n >= self.m:
            raise ValueError(f"pattern {self.n}:{self.m}: N:M keeps N of every M weights, so N must be below M, as in 2:4")
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
    if len(parts) != 2 or not all(part.strip().isdigit() for part in parts):
        raise ValueError(f"pattern {text!r}: write N:M with two whole numbers, as in 2:4")
    return NM(n=int(parts[0]), m=int(parts[1]))


# --- methods --------------------------------------------------------------------------------------------------------


class Method(Spec):
    """What every compression method has: a name, a version that changes when its results do, and its needs."""

    version: ClassVar[int] = 1
    needs_calibration: ClassVar[bool] = False
    family: ClassVar[Literal["dense", "pruning", "quantisation"]] = "dense"

    @property
    def nominal(self) -> str:
        """What was asked, in a few characters: "50%", "2:4", "4 bits g32"."""
        return "dense"


class Dense(Method):
    """The model as it is: the point that all others are measured against."""

    method: Literal["dense"] = "dense"


class Pruning(Method):
    """A method that zeroes weights by a pattern. A user writes `sparsity = 0.5` or `pattern = "2:4"`."""

    family: ClassVar[Literal["dense", "pruning", "quantisation"]] = "pruning"
    pattern: Pattern

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
        return str(self.pattern)


class Random(Pruning):
    """Random weights become zero: the control that any method must beat."""

    method: Literal["random"] = "random"
    seed: int = Field(default=0, ge=0)


class Magnitude(Pruning):
    """The smallest weights of each matrix become zero (Han et al. 2015)."""

    method: Literal["magnitude"] = "magnitude"


class Wanda(Pruning):
    """The smallest |weight| × input norm of each row become zero (Sun et al. 2023, arXiv 2306.11695)."""

    method: Literal["wanda"] = "wanda"
    needs_calibration: ClassVar[bool] = True


class SparseGPT(Pruning):
    """Prune column by column and let the remaining weights make up for it (Frantar & Alistarh 2023, arXiv 2301.00774).

    With `bits`, the surviving weights are quantised in the same pass.
    """

    method: Literal["sparsegpt"] = "sparsegpt"
    needs_calibration: ClassVar[bool] = True
    damping: float = Field(default=0.01, gt=0.0)
    block_size: int = Field(default=128, ge=1)
    true_sequential: bool = False
    act_order: bool = False
    bits: int | None = Field(default=None, ge=2, le=8)
    group_size: int = Field(default=-1, ge=-1)
    symmetric: bool = False
    static_groups: bool = False

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        if self.bits is None and (self.group_size != -1 or self.symmetric or self.static_groups):
            raise ValueError("sparsegpt: group_size, symmetric and static_groups need bits, as in bits = 4")
        if self.act_order and isinstance(self.pattern, NM):
            raise ValueError("sparsegpt: act_order visits columns out of order and cannot keep N:M; use sparsity instead")
        _check_group_size(self.group_size)
        return self

    @property
    def nominal(self) -> str:
        return str(self.pattern) + ("" if self.bits is None else f" + {self.bits} bits")


class Quantisation(Method):
    """A method that stores weights as integers of `bits` bits with one scale per group of inputs.

    `group_size` -1 means one group per row. `symmetric` fixes the zero point in the middle of the range.
    """

    family: ClassVar[Literal["dense", "pruning", "quantisation"]] = "quantisation"
    bits: int = Field(ge=2, le=8)
    group_size: int = Field(default=128, ge=-1)
    symmetric: bool = False

    @model_validator(mode="after")
    def _group_size_is_possible(self) -> Self:
        _check_group_size(self.group_size)
        return self

    @property
    def nominal(self) -> str:
        group = "" if self.group_size == -1 else f" g{self.group_size}"
        return f"{self.bits} bits{group}"


class RTN(Quantisation):
    """Round each weight to the nearest level: the control that uses no data."""

    method: Literal["rtn"] = "rtn"


class GPTQ(Quantisation):
    """Quantise column by column and let the remaining weights make up for it (Frantar et al. 2022, arXiv 2210.17323)."""

    method: Literal["gptq"] = "gptq"
    needs_calibration: ClassVar[bool] = True
    act_order: bool = False
    static_groups: bool = False
    true_sequential: bool = False
    damping: float = Field(default=0.01, gt=0.0)
    block_size: int = Field(default=128, ge=1)

    @model_validator(mode="after")
    def _static_groups_need_groups(self) -> Self:
        if self.static_groups and self.group_size == -1:
            raise ValueError("gptq: static_groups needs a group_size, as in group_size = 32")
        return self


def _check_group_size(group_size: int) -> None:
    if group_size == 0:
        raise ValueError("group_size 0: use a number of inputs such as 32, or -1 for one group per row")


AnyMethod = Annotated[
    Dense | Random | Magnitude | Wanda | SparseGPT | RTN | GPTQ,
    Field(discriminator="method"),
]
METHODS: tuple[type[Method], ...] = (Dense, Random, Magnitude, Wanda, SparseGPT, RTN, GPTQ)


# --- calibration ----------------------------------------------------------------------------------------------------


class Calibration(Spec):
    """The text that data-driven methods look at.

    `data` is `nano` (the almanac's corpus), a Parquet file or folder, a text file, or a dataset's hub id. A column
    `input_ids` holds token ids already made: rows of exactly `length` are used as they are, in order.
    """

    data: str = "nano"
    column: str = "text"
    split: str = "train"
    samples: int = Field(default=128, ge=1)
    length: int = Field(default=2048, ge=2)
    seed: int = Field(default=0, ge=0)


# --- tasks ----------------------------------------------------------------------------------------------------------


class Task(Spec):
    """What every task has. `data` is `nano` for the almanac's own questions, or a path or hub id of the user's."""

    version: ClassVar[int] = 1
    headline: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = True
    data: str = "nano"
    split: str = "test"
    limit: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)

    @property
    def label(self) -> str:
        """The task's name in tables, metrics and files; specs with the same label do not share a sweep."""
        return str(self.name or self.task)  # type: ignore[attr-defined]

    name: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9_.-]*$")


class Perplexity(Task):
    """Perplexity per token, word and byte; with a dense reference also the KL divergence to it.

    Documents are joined, cut into windows of `length` tokens, each token scored once. `kl_bytes` bounds the dense
    log-probabilities kept for KL: positions are spread evenly over the text.
    """

    task: Literal["perplexity"] = "perplexity"
    headline: ClassVar[str] = "token_perplexity"
    higher_is_better: ClassVar[bool] = False
    column: str = "text"
    length: int = Field(default=2048, ge=2)
    kl_bytes: int = Field(default=64 * 2**20, ge=0)


class ClosedBook(Task):
    """Questions without the passage that holds the answer: exact match over aliases.

    With `data = "nano"` and `shots = 0` the questions are about people held out of tuning.
    """

    task: Literal["closed_book"] = "closed_book"
    headline: ClassVar[str] = "exact_match"
    shots: int = Field(default=3, ge=0)
    max_tokens: int = Field(default=24, ge=1)


class OpenBook(Task):
    """Questions with the passage that holds the answer: exact match over aliases."""

    task: Literal["open_book"] = "open_book"
    headline: ClassVar[str] = "exact_match"
    shots: int = Field(default=1, ge=0)
    max_tokens: int = Field(default=24, ge=1)


class MultipleChoice(Task):
    """The option with the highest log-likelihood, by the option's own text."""

    task: Literal["multiple_choice"] = "multiple_choice"
    headline: ClassVar[str] = "accuracy"
    shots: int = Field(default=2, ge=0)


class MMLU(Task):
    """MMLU's format: k shots from dev, four lettered options, the letter with the highest log-likelihood."""

    task: Literal["mmlu"] = "mmlu"
    headline: ClassVar[str] = "accuracy"
    data: str = "mmlu"
    shots: int = Field(default=5, ge=0)
    subjects: tuple[str, ...] = ()


class Summarisation(Task):
    """Summaries of a passage in the prompt: exact match and ROUGE against the reference."""

    task: Literal["summarisation"] = "summarisation"
    headline: ClassVar[str] = "rouge_l"
    max_tokens: int = Field(default=64, ge=1)


class Biography(Task):
    """Long form about people of the invented world: share of well-formed statements, and of those the share true."""

    task: Literal["biography"] = "biography"
    headline: ClassVar[str] = "true"
    data: Literal["nano"] = "nano"
    max_tokens: int = Field(default=128, ge=1)


AnyTask = Annotated[
    Perplexity | ClosedBook | OpenBook | MultipleChoice | MMLU | Summarisation | Biography,
    Field(discriminator="task"),
]
TASKS: tuple[type[Task], ...] = (Perplexity, ClosedBook, OpenBook, MultipleChoice, MMLU, Summarisation, Biography)


# --- sweeps ---------------------------------------------------------------------------------------------------------


class Cluster(Spec):
    """Which workers a sweep asks for. `gpus_per_worker` may be a fraction or several; 0 pins CPUs instead.

    Without `gpus_per_worker`, one GPU per worker where the cluster has GPUs and one CPU where it has none.
    """

    gpus_per_worker: float | None = Field(default=None, ge=0.0)
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    compressors: int | None = Field(default=None, ge=1)
    evaluators: int | None = Field(default=None, ge=1)
    attempts: int = Field(default=3, ge=1)
    step_timeout_s: float = Field(default=86_400.0, gt=0.0)

    @model_validator(mode="after")
    def _whole_gpus_above_one(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and not float(gpus).is_integer():
            raise ValueError(f"gpus_per_worker {gpus}: above 1 it must be a whole number of GPUs")
        return self


class Tracking(Spec):
    """Where MLflow keeps the runs: a URI, or the sweep's own store by default."""

    uri: str | None = None
    experiment: str | None = None
    enabled: bool = True


class Sweep(Spec):
    """One sweep: a model, the ways to compress it, the tasks to run on each."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    model: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    store: str = "store"
    seeds: tuple[int, ...] = (0,)
    calibration: Calibration = Calibration()
    compress: tuple[AnyMethod, ...]
    tasks: tuple[AnyTask, ...] = Field(min_length=1)
    references: tuple[str, ...] = ()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [task.label for task in self.tasks]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"tasks: {twice[0]!r} stands twice; give each its own name = \"...\"")
        return self

    @model_validator(mode="before")
    @classmethod
    def _expand_grids(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("compress"), Sequence):
            return {**data, "compress": [spec for entry in data["compress"] for spec in expand(entry)]}
        return data


GRID_KEYS = ("sparsity", "pattern", "bits", "group_size", "symmetric")


def expand(entry: Any) -> list[Any]:
    """One `[[compress]]` entry -> one spec per combination of its lists; `sparsity` and `pattern` are alternatives.

    >>> [e["sparsity"] for e in expand({"method": "wanda", "sparsity": [0.2, 0.5]})]
    [0.2, 0.5]
    """
    if not isinstance(entry, Mapping):
        return [entry]
    if isinstance(entry.get("sparsity"), list) or isinstance(entry.get("pattern"), list):
        if "sparsity" in entry and "pattern" in entry:
            without = {key: value for key, value in entry.items() if key not in ("sparsity", "pattern")}
            return [spec for key in ("sparsity", "pattern") for spec in expand({**without, key: entry[key]})]
    keys = [key for key in GRID_KEYS if isinstance(entry.get(key), list)]
    combinations = product(*(entry[key] for key in keys))
    return [{**entry, **dict(zip(keys, values, strict=True))} for values in combinations]


METHOD_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyMethod)
TASK_ADAPTER: TypeAdapter[Any] = TypeAdapter(AnyTask)


def read_method(fields: Mapping[str, Any]) -> Method:
    """A method from its fields, or UserError with every rule broken."""
    return _validated(METHOD_ADAPTER, fields, "method")


def read_task(fields: Mapping[str, Any]) -> Task:
    """A task from its fields, or UserError with every rule broken."""
    return _validated(TASK_ADAPTER, fields, "task")


def read_sweep(path: Path) -> Sweep:
    """A sweep from a TOML file. Raises UserError naming the file, the key, the value and the rule."""
    if not path.is_file():
        raise UserError(f"{path}: no such sweep file; jobs/configs holds examples")
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    sweep: Sweep = _validated(TypeAdapter(Sweep), fields, str(path))
    return sweep


def _validated(adapter: TypeAdapter[Any], fields: Mapping[str, Any], where: str) -> Any:
    try:
        return adapter.validate_python(fields)
    except ValidationError as error:
        raise UserError(explain(error, where)) from None


def explain(error: ValidationError, where: str) -> str:
    """pydantic's report as one line per broken rule: where, the key, the value, the rule."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or where
        message = problem["msg"].removeprefix("Value error, ")
        value = problem.get("input")
        shown = f" = {value!r}" if isinstance(value, str | int | float | bool) else ""
        lines.append(f"{where}: {key}{shown}: {message}")
    return "\n".join(lines)
