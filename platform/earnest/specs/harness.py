"""Any benchmark of lm-eval as a task: `task = "lm_eval:arc_easy"`. Needs the extra `lm-eval`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from earnest.specs.task import Task

LM_EVAL = "lm_eval"


def _absolute(folder: str) -> str:
    """Workers stand in other folders than the user."""
    return str(Path(folder).expanduser().absolute())


class LMEval(Task):
    """A benchmark as lm-eval defines it, by its name there or in a folder `include` of the user's own YAML files.

    Its first metric is the headline; those that hold for a whole corpus alone are linearised by the jackknife.
    `data = "lm_eval"` is the data that the benchmark itself names; a path or hub id takes its place. `split` is what is
    asked, by default the benchmark's own (test, else validation). `shots`, `max_tokens` and `system` replace the
    benchmark's own; `seed` draws the demonstrations. `chat_template` wraps prompts in the tokenizer's template, each
    demonstration a turn. `unsafe_code = true` is the user's word that the benchmark may run code that a model
    wrote, as lm-eval runs it: outside earnest's sandbox.
    """

    task: Literal["lm_eval"] = "lm_eval"
    version: ClassVar[int] = 2
    writes: ClassVar[bool] = False
    headline: ClassVar[str] = "the benchmark's first metric"
    benchmark: str = Field(min_length=1)
    """Its name in lm-eval or in `include`."""
    data: str = LM_EVAL
    split: str = ""
    include: Annotated[str, AfterValidator(_absolute)] | None = None
    """A folder of YAML files that define benchmarks."""
    shots: int | None = Field(default=None, ge=0)
    """Demonstrations; the benchmark's own number by default."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of an answer; the benchmark's own by default."""
    chat_template: bool = False
    """Whether prompts are wrapped in the tokenizer's template."""
    system: str | None = Field(default=None, min_length=1)
    """A system prompt in the place of the benchmark's own."""
    unsafe_code: bool = False
    """Whether the benchmark may run code that a model wrote, outside the sandbox."""
    seed: int = Field(default=1234, ge=0)

    @model_validator(mode="after")
    def _own_columns(self) -> Self:
        if self.columns:
            raise ValueError("columns: a benchmark of lm-eval names its columns itself; say them in its YAML file")
        return self

    @property
    def label(self) -> str:
        """As in "lm_eval.arc_easy"."""
        return self.name or re.sub(r"[^a-z0-9_.-]+", "-", f"{LM_EVAL}.{self.benchmark.lower()}")

    @property
    def places(self) -> dict[str, str]:
        """The folder of YAML files, whose content names the step."""
        return {} if self.include is None else {"include": self.include}


def split_name(fields: Any) -> Any:
    """A task written as "lm_eval:NAME" with the name in a field of its own."""
    if isinstance(fields, Mapping) and str(fields.get("task", "")).startswith(f"{LM_EVAL}:"):
        kind, _, benchmark = str(fields["task"]).partition(":")
        return {**fields, "task": kind, "benchmark": benchmark}
    return fields
