"""What the house writes down: scores, sizes, manifests and cells, as typed records with a JSON form.

`specs.py` is what a user asks for; this is what a step or a sweep answers. Rooms that must not import each other
(evaluation, tracking, report) meet here.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Verdict = Literal["matches", "no worse", "falls", "rises", "not decided"]
State = Literal["not run yet", "running"]
NO_WORSE: tuple[Verdict, ...] = ("matches", "no worse", "rises")
FLUENT = 0.5  # below this share of well-formed statements, a score of what they say rests on almost nothing


class Record(BaseModel):
    """A frozen record; unknown keys are refused so that a reader never drops what a writer meant."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Estimate(Record):
    """A measured value with its standard error, 95 % interval and the number of samples behind it."""

    value: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None
    n: int


class ShiftedWord(Record):
    """A word that an ensemble wrote `count` times, in `changed` of them where its base would have written otherwise.

    `shift` is the mean change of the word's log-probability against the base, nats; `instead` is what the base wanted
    most often where the word was changed.
    """

    word: str
    count: int
    changed: int
    shift: float
    instead: str


class TokenShift(Record):
    """How far an ensemble's texts are from what its base would have written.

    `changed` is the share of tokens that are not the base's likeliest after the same text; `shift` the mean absolute
    change of a written token's log-probability, nats; both with a bootstrap over texts. `words`: those changed most.
    """

    tokens: int
    changed: Estimate
    shift: Estimate
    words: tuple[ShiftedWord, ...]


class Stopped(Record):
    """What asking a task's questions in growing batches decided: the verdict against dense, and after how many samples.

    `error` is the probability of a wrong verdict, ever; `margin` matching's. All questions were asked where the verdict
    is "not decided" or "no worse".
    """

    verdict: Verdict
    after: int
    error: float
    margin: float


class Part(Record):
    """The mean of a metric over the tokens of one kind, and how many there are."""

    tokens: int
    mean: Estimate


class Scores(Record):
    """What one task measured on one subject.

    `metrics` maps a metric's name to its estimate; `groups` maps a grouping ("stratum", "domain") to
    group -> the headline metric's estimate within it. `asked` samples were wanted, `scored` have a score,
    `truncated` had their input cut, `failed` could not be scored. `token_shift` is there where an ensemble wrote texts.
    `dtype` is what the subject computed in, as "float32" or "bfloat16, float32" for a base and its pair.
    `stopped` is there where the task was to stop once decided; `scored` and `failed` may then add up to less than
    `asked`. `reading` says how texts were read in company: "grouped", "whole" and "alone" are slower ways, for models
    whose answers would otherwise depend on it. `breakdowns` maps a mean per token to grouping -> kind of token -> its
    part. `notes` counts questions that were asked otherwise than their rows say, or judged so: `own_demonstration`,
    `equal_options`.
    """

    task: str
    version: int
    headline: str
    higher_is_better: bool
    dtype: str = ""
    asked: int
    scored: int
    truncated: int
    failed: int
    metrics: dict[str, Estimate]
    groups: dict[str, dict[str, Estimate]] = Field(default_factory=dict)
    tokens_forwarded: int = 0
    token_shift: TokenShift | None = None
    stopped: Stopped | None = None
    reading: Literal["masked", "aligned", "grouped", "whole", "alone"] = "masked"
    breakdowns: dict[str, dict[str, dict[str, Part]]] = Field(default_factory=dict)
    notes: dict[str, int] = Field(default_factory=dict)

    @property
    def main(self) -> Estimate:
        """The headline metric's estimate."""
        return self.metrics[self.headline]

    @property
    def means_something(self) -> bool:
        """Whether enough statements are well formed for the headline to mean something.

        Always so where the task has no `fluent` metric, or is headed by it.
        """
        fluent = self.metrics.get("fluent")
        return fluent is None or self.headline == "fluent" or fluent.value >= FLUENT

    @property
    def whole(self) -> bool:
        """Whether all samples that were wanted were asked."""
        return self.scored + self.failed == self.asked


class TensorRecord(Record):
    """One compressed tensor as counted in the saved file."""

    name: str
    shape: tuple[int, ...]
    form: Literal["dense", "bitmask", "packed", "packed-bitmask"]
    zeros: int
    sparsity: float
    bits: int | None = None
    group_size: int | None = None
    stored_bytes: int
    dense_bytes: int
    bf16_bytes: int | None = None
    method: str | None = None


class Size(Record):
    """How large a checkpoint is. `dense_bytes` and `stored_bytes` count the weights that the method touches
    (dense ones at two bytes each, bf16; stored ones as they lie in the file), and `bf16_bytes` the stored ones with
    every floating-point number among them at two bytes. `file_bytes` are the whole safetensors files, and
    `dense_file_bytes` what the dense model takes in such a file in the same dtype.
    """

    dense_bytes: int
    stored_bytes: int
    file_bytes: int
    dense_file_bytes: int
    sparsity: float
    bits_per_weight: float
    bf16_bytes: int | None = None

    @property
    def saved(self) -> float:
        """1 − bytes of the whole file ÷ bytes of the whole dense file: the shared x-axis of all methods."""
        return 1.0 - self.file_bytes / self.dense_file_bytes if self.dense_file_bytes else 0.0

    @property
    def saved_of_touched(self) -> float:
        """The same of the weights that the method touches alone, both sides in bf16 whatever the model's dtype."""
        return 1.0 - self._touched_bytes / self.dense_bytes if self.dense_bytes else 0.0

    @property
    def compression_ratio(self) -> float:
        """Dense ÷ stored bytes of the touched weights, both in bf16."""
        return self.dense_bytes / self._touched_bytes if self._touched_bytes else 1.0

    @property
    def _touched_bytes(self) -> int:
        return self.stored_bytes if self.bf16_bytes is None else self.bf16_bytes


class Manifest(Record):
    """What a compressed checkpoint is: its base, its method, every tensor counted, every file hashed.

    `dtype` is what the weights are stored in, `compute_dtype` what the compression was computed in. `notes` says in
    words what a reader should know of it, `unseen_inputs` how many of each layer's inputs were zero in all of
    calibration, where any were.
    """

    format: int = 1
    base: str
    base_digest: str
    method: dict[str, Any]
    calibration: dict[str, Any] | None = None
    calibration_digest: str | None = None
    seed: int = 0
    dtype: str
    compute_dtype: str = ""
    tensors: tuple[TensorRecord, ...]
    size: Size
    files: dict[str, str]
    logits_digest: str
    versions: dict[str, str]
    notes: tuple[str, ...] = ()
    unseen_inputs: dict[str, int] = Field(default_factory=dict)


class Comparison(Record):
    """One task of one cell against the dense model on the same samples.

    `relative` is the headline's relative change (+0.02 = 2 % higher); `within_margin` says whether that figure is no
    worse than 5 % (LLM-KICK's criterion), which says nothing of how sure it is. `verdict` is what is shown at that
    margin, of all the sweep's cells and tasks together wrong with at most 5 % for each kind of claim: "matches" within
    it, "no worse", "falls" and "rises" (worse, better by more), or "not decided" at `units` units (`samples`, or
    clusters of them), which are worth `effective` units of equal weight; `needed` units would decide it, None where it
    is decided or no number would. It is None where the two cannot be paired. `difference` is the headline's, with its
    interval; `p` of no change at all, adjusted over the sweep; `noise` the difference that seeds or batches alone
    make, where that was looked at. `stopped`: decided before all questions were asked, on those that were; the verdict
    is then wrong with the sweep's own error rate by itself. `retention`: of the answers dense had right, the share
    kept; `flips`: the share of answers whose correctness or text changed. `kl`: mean KL(dense ‖ subject), nats.
    """

    relative: float | None
    within_margin: bool | None
    verdict: Verdict | None = None
    samples: int = 0
    units: int = 0
    effective: float | None = None
    needed: int | None = None
    difference: Estimate | None = None
    p: float | None = None
    noise: float | None = None
    stopped: bool = False
    retention: Estimate | None = None
    flips: Estimate | None = None
    kl: Estimate | None = None

    @property
    def no_worse(self) -> bool:
        """Whether the score is shown to be no worse than 5 %."""
        return self.verdict in NO_WORSE

    @property
    def falls(self) -> bool:
        """Whether the score is shown to be worse by more than 5 %."""
        return self.verdict == "falls"

    @property
    def within_noise(self) -> bool:
        """Whether seeds or batches alone make a difference as large as this."""
        if self.noise is None or self.difference is None:
            return False
        return 0 < abs(self.difference.value) <= self.noise


class Steered(Record):
    """What steers a cell's model: a pair, how strongly, the same cell without it, and the directly tuned model.

    `base` is that cell's key, `target` the model that gaps are measured against.
    """

    pair: str
    expert: str
    expert_digest: str
    antiexpert: str | None
    antiexpert_digest: str | None
    alpha: float | Literal["adaptive"]
    base: str
    target: str | None

    @property
    def label(self) -> str:
        """As in "tuned α 0.5"."""
        return f"{self.pair} α {self.alpha if isinstance(self.alpha, str) else format(self.alpha, 'g')}"


class Gain(Record):
    """One task of a steered cell against the same model without the pair, on the same samples.

    `difference` is steered − base. `gap_closed` is (steered − base) ÷ (target − base), and `won_back`, for a compressed
    base, (steered − base) ÷ (dense − base): the share of what compression cost. Each is None where there is nothing to
    compare with, and where target or dense are not shown to be better (the gap's 95 % interval holds 0).
    """

    difference: Estimate
    gap_closed: Estimate | None = None
    won_back: Estimate | None = None


class CellRecord(Record):
    """One row as a user reads it: model × compression × seed, steered or not, with all its tasks.

    `dtype` is what it computes in, as "float32" or "bfloat16, float32" for a base and its pair. Of the steps that are
    not finished, `failures` holds the reasons of those that failed, and `waiting` how the others stand.
    """

    key: str
    sweep: str
    model: str
    model_digest: str
    method: str
    family: Literal["dense", "pruning", "quantisation"]
    nominal: str
    nominal_sparsity: float | None = None
    nominal_bits: int | None = None
    method_spec: dict[str, Any]
    seed: int
    dtype: str = ""
    steering: Steered | None = None
    size: Size | None = None
    scores: dict[str, Scores] = Field(default_factory=dict)
    comparisons: dict[str, Comparison] = Field(default_factory=dict)
    gains: dict[str, Gain] = Field(default_factory=dict)
    failures: dict[str, str] = Field(default_factory=dict)
    waiting: dict[str, State] = Field(default_factory=dict)
    seconds: dict[str, float] = Field(default_factory=dict)
    steps: dict[str, str] = Field(default_factory=dict)
    datasets: dict[str, str] = Field(default_factory=dict)

    @property
    def label(self) -> str:
        """Method and nominal ratio, as in "wanda 50%", and what steers it, as in "wanda 50% + tuned α 1"."""
        return self.base_label + self.steering_label

    @property
    def base_label(self) -> str:
        """Method and nominal ratio alone."""
        return self.method if self.family == "dense" else f"{self.method} {self.nominal}"

    @property
    def steering_label(self) -> str:
        """As in " + tuned α 1"; empty where nothing steers."""
        return f" + {self.steering.label}" if self.steering else ""

    @property
    def saved(self) -> float:
        """Share of the whole file's bytes that is saved; 0 for the dense model."""
        return 0.0 if self.size is None else self.size.saved

    @property
    def saved_of_touched(self) -> float:
        """Share of bytes saved on the touched weights alone, against bf16; 0 for the dense model."""
        return 0.0 if self.size is None else self.size.saved_of_touched

    @property
    def curve(self) -> str:
        """The line this cell is a point of: cells that differ only in sparsity, bits or seed share one.

        "wanda", "wanda 2:4", "sparsegpt + 4 bits", "gptq g32": N:M patterns of equal sparsity save equal bytes, so
        on one line they would stand above each other. Steered cells have lines of their own: "wanda + tuned α 1".
        """
        spec, pattern = self.method_spec, self.method_spec.get("pattern") or {}
        parts = [self.method]
        if pattern.get("kind") == "n:m":
            parts.append(f"{pattern['n']}:{pattern['m']}")
        if pattern and spec.get("bits"):
            parts.append(f"+ {spec['bits']} bits")
        if spec.get("bits") and spec.get("group_size", -1) != -1:
            parts.append(f"g{spec['group_size']}")
        options = ("symmetric", "act_order", "static_groups", "true_sequential")
        parts += [option.replace("_", "-") for option in options if spec.get(option)]
        return " ".join(parts) + self.steering_label


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: the text that digests cover."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """The first 32 hex digits of the sha256 of a value's canonical JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]
