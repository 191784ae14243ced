"""A sweep: a model, the ways to compress and to steer it, the tasks to run on each, and the workers to run them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, TypeAdapter, model_validator

from earnest.specs.chat import Chat
from earnest.specs.defaults import check_data_is_named, check_judges_are_named
from earnest.specs.dtypes import Dtype
from earnest.specs.ensembles import Proxy, check_pairs
from earnest.specs.frame import Spec, read_toml
from earnest.specs.localise import Localise
from earnest.specs.methods import AnyMethod
from earnest.specs.tasks import AnyTask


class Calibration(Spec):
    """The text that data-driven methods look at.

    `data` is a Parquet file or folder, a text file, a dataset's hub id, or `nano`, the almanac's corpus: the default
    for `nano:` models, and for no other. A column
    `input_ids` holds token ids already made: rows of exactly `length` are used as they are, in order.
    """

    data: str = "nano"
    """A text or Parquet file, a folder, a hub id, or `nano`."""
    column: str = "text"
    """The column of the text."""
    split: str = "train"
    """Which split of the data."""
    samples: int = Field(default=128, ge=1)
    """Sequences."""
    length: int = Field(default=2048, ge=2)
    """Tokens of each sequence."""
    seed: int = Field(default=0, ge=0)
    """Draws the sequences."""


class Cluster(Spec):
    """Which workers a sweep asks for. `gpus_per_worker` may be a fraction or several; 0 pins CPUs instead.

    Without `gpus_per_worker`, one GPU per worker where the cluster has GPUs and one CPU where it has none.
    """

    gpus_per_worker: float | None = Field(default=None, ge=0.0)
    """GPUs of each worker: one, several, or a fraction; 0 pins CPUs."""
    cpus_per_worker: float = Field(default=1.0, gt=0.0)
    """CPUs of each worker."""
    compressors: int | None = Field(default=None, ge=1)
    """Workers that compress; as many as fit by default."""
    evaluators: int | None = Field(default=None, ge=1)
    """Workers that evaluate; as many as fit by default."""
    attempts: int = Field(default=3, ge=1)
    """How often a step is tried."""
    step_timeout_s: float = Field(default=86_400.0, gt=0.0)
    """Seconds after which a step counts as lost."""

    @model_validator(mode="after")
    def _whole_gpus_above_one(self) -> Self:
        gpus = self.gpus_per_worker
        if gpus is not None and gpus > 1 and not float(gpus).is_integer():
            raise ValueError(f"gpus_per_worker {gpus}: above 1 it must be a whole number of GPUs")
        return self


class Registry(Spec):
    """The registered model whose versions the best checkpoints become, under aliases such as `best-4bit`."""

    model: str = Field(pattern=r"^[^/:.%\"']+$")
    """The registered model's name; made where there is none."""
    by: str | None = None
    """The label of the task whose headline decides; the sweep's first task by default."""


class Tracking(Spec):
    """Where MLflow keeps the runs: a URI, or the sweep's own store by default."""

    uri: str | None = None
    """MLflow's tracking URI; a database in the store by default."""
    experiment: str | None = Field(default=None, min_length=1)
    """The experiment's name; the sweep's by default. Curves stand in a second one, "NAME curves"."""
    enabled: bool = True
    """Whether runs are written."""
    required: bool = False
    """Whether a sweep whose runs could not be sent ends with exit code 3; without it the last line alone says so."""
    registry: Registry | None = None
    """Register the best checkpoint of each size; nothing is registered without it."""

    @model_validator(mode="after")
    def _required_is_enabled(self) -> Self:
        if self.required and not self.enabled:
            raise ValueError("required = true wants enabled = true; take one of the two away")
        return self


class Sequential(Spec):
    """Stop a task on a compressed model as soon as it is shown to match dense within 5 %, or to fall or rise beyond.

    `error` is the probability that the verdict of one task on one model is wrong, however often one looks. Tasks whose
    score is no mean of values within 0..1 are asked whole.
    """

    error: float = Field(default=0.05, gt=0.0, le=0.5)
    """The probability that one verdict is wrong."""


class Noise(Spec):
    """What tells how far a score moves for no reason. Seeds do where a sweep has several.

    `jitter` evaluates the dense model once more in batches of another size: a difference that rounding alone makes is
    then marked.
    """

    jitter: bool = False
    """Evaluate dense once more in batches of another size."""


class Sweep(Spec):
    """One sweep: a model, the ways to compress it, the pairs that steer it, the tasks to run on each.

    `dtype` is what all models compute in. `auto` is settled when the sweep is planned and names its steps: float32 on
    CPUs (bfloat16 where this machine's is clearly faster in it), the stored dtype on GPUs; a sweep with steps in the
    store goes on in theirs.

    `chat` says which models are asked to write in a form for conversations; the others read plain text. `published`
    names figures to stand beside the measured ones: a file that ships, as "proxy_tuning", or a TOML file. With `reread`
    the dense model reads all that the cells write: the perplexity of their texts.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    """The sweep's name in tables, reports and MLflow."""
    model: str = Field(min_length=1)
    """The model that is compressed."""
    dtype: Dtype = "auto"
    """What all models compute in."""
    store: str = Field(default="store", min_length=1)
    """Where step outputs are kept: a folder or a bucket's URL."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(default=(0,), min_length=1)
    """Each seed is a row of cells of its own."""
    calibration: Calibration = Calibration()
    """The text that data-driven methods look at."""
    compress: tuple[AnyMethod, ...] = ()
    """The ways to compress; lists are grids."""
    proxy: tuple[Proxy, ...] = ()
    """The pairs that steer."""
    tasks: tuple[AnyTask, ...] = Field(min_length=1)
    """What every cell is asked."""
    references: tuple[str, ...] = ()
    """Models to stand beside the compressed ones, such as small dense ones."""
    published: str | None = Field(default=None, min_length=1)
    """Figures of a paper, beside the measured ones."""
    localise: tuple[Localise, ...] = ()
    """Where in a model losses lie."""
    chat: dict[str, Chat] = Field(default_factory=dict)
    """Which models are asked in which form for conversations."""
    sequential: Sequential | None = None
    """Stop tasks once they are decided."""
    noise: Noise = Noise()
    """What tells how far scores move for no reason."""
    reread: bool = False
    """Whether the dense model reads what the cells write."""
    cluster: Cluster = Cluster()
    """The workers."""
    tracking: Tracking = Tracking()
    """Where MLflow keeps the runs."""

    @model_validator(mode="after")
    def _labels_differ(self) -> Self:
        labels = [task.label for task in self.tasks]
        if "compress" in labels:
            raise ValueError("tasks: the name 'compress' is taken by the step that compresses; use another")
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f'tasks: {twice[0]!r} stands twice; give each its own name = "..."')
        registry = self.tracking.registry
        if registry is not None and registry.by not in (None, *labels):
            raise ValueError(f"tracking.registry: no task {registry.by!r} in this sweep; it has {', '.join(labels)}")
        unknown = [name for entry in self.localise for name in entry.tasks if name not in labels]
        if unknown:
            raise ValueError(f"localise: no task {unknown[0]!r} in this sweep; it has {', '.join(labels)}")
        return self

    @model_validator(mode="after")
    def _something_is_asked(self) -> Self:
        if not (self.compress or self.proxy or "compress" in self.model_fields_set):
            raise ValueError("a sweep needs [[compress]] or [[proxy]] entries; compress = [] evaluates the model alone")
        check_pairs(self.proxy)
        strangers = sorted(set(self.chat) - set(self.models))
        if strangers:
            raise ValueError(f"chat: no model {strangers[0]!r} in this sweep; it has {', '.join(self.models)}")
        return self

    @model_validator(mode="after")
    def _stopping_has_a_meaning(self) -> Self:
        if self.sequential is None:
            return self
        if self.proxy or self.localise:
            raise ValueError(
                "[sequential]: what pairs gain and where losses lie is measured against whole runs; leave it out, or "
                "[[proxy]] and [[localise]]"
            )
        if not (self.compress and any(task.bounded for task in self.tasks)):
            raise ValueError(
                "[sequential]: it stops tasks on compressed models whose score is a mean of values within 0..1, and "
                "this sweep has none; leave it out"
            )
        return self

    def check_data_are_named(self) -> None:
        """Raise UserError where a model that is not of the almanac's family would be given its data by default."""
        if any(method.needs_calibration for method in self.compress):
            remedy = 'set [calibration] data = "FILE" (text, Parquet or a hub id); data = "nano" asks for the almanac'
            check_data_is_named(self.calibration, (self.model,), "calibration", remedy)
        for task in self.tasks:
            remedy = 'set its data = "..." (a file, a folder or a hub id); data = "nano" asks for the almanac'
            check_data_is_named(task, self._evaluated_models, f"task {task.label}", remedy)
            check_judges_are_named(task, self._evaluated_models, f"task {task.label}")

    @property
    def _evaluated_models(self) -> tuple[str, ...]:
        return (self.model, *self.references, *(proxy.target for proxy in self.proxy if proxy.target is not None))

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the sweep names, each once: its own, references, those of pairs, targets."""
        steering = (name for proxy in self.proxy for name in (*proxy.models, proxy.target) if name is not None)
        return tuple(dict.fromkeys((self.model, *self.references, *steering)))

    @model_validator(mode="before")
    @classmethod
    def _expand_grids(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("compress"), list | tuple):
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
    alternatives = [key for key in ("sparsity", "pattern") if key in entry]
    if len(alternatives) == 2 and any(isinstance(entry[key], list) for key in alternatives):
        without = {key: value for key, value in entry.items() if key not in alternatives}
        return [spec for key in alternatives for spec in expand({**without, key: entry[key]})]
    keys = [key for key in GRID_KEYS if isinstance(entry.get(key), list)]
    empty = [key for key in keys if not entry[key]]
    if empty:
        raise ValueError(f"compress: {empty[0]} = [] asks for nothing; give at least one value or leave the entry out")
    combinations = product(*(entry[key] for key in keys))
    return [{**entry, **dict(zip(keys, values, strict=True))} for values in combinations]


def read_sweep(path: Path) -> Sweep:
    """A sweep from a TOML file. Raises UserError naming the file, the key, the value and the rule."""
    return read_toml(path, TypeAdapter(Sweep), "sweep file; jobs/configs holds examples")
