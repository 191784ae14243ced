"""Tasks whose answers are programs: they are run, in a sandbox and only if the user says so."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from earnest.specs.task import Task


class CodeTask(Task):
    """Several sampled programs per problem, each run with the problem's tests: pass@1 and pass@10, unbiased.

    `execute = true` is the user's word that code which a model wrote may run here; it runs in the sandbox alone, with
    `seconds` and `memory_mib` for each program; its tests run in another process, out of its reach. Texts in `banned`
    are never written. The settings are proxy-tuning's. `python` is the executable that runs the programs; by default
    the one that evaluates.
    """

    version: ClassVar[int] = 3
    headline: ClassVar[str] = "pass_at_1"
    execute: bool = False
    """Must be true: programs that a model wrote are run, in a sandbox."""
    samples: int = Field(default=20, ge=1)
    """Programs per problem."""
    temperature: float = Field(default=0.8, ge=0, allow_inf_nan=False)
    """Of sampling; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Share of the probability that is sampled from."""
    max_tokens: int = Field(default=512, ge=1)
    banned: tuple[str, ...] = ("pass", "...")
    """Texts that are never written."""
    python: str | None = None
    """The interpreter that runs the programs; this one by default."""
    seconds: float = Field(default=3.0, gt=0)
    """Time for each program."""
    memory_mib: int = Field(default=1024, ge=64)
    """Memory for each program, MiB."""

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        if not self.execute:
            raise ValueError("it runs code that a model wrote; set execute = true to run it, in a sandbox")
        if self.temperature == 0 and self.samples > 1:
            raise ValueError(f"{self.samples} samples at temperature 0 are all the same; set samples = 1")
        return self


class HumanEval(CodeTask):
    """HumanEval: a function to complete, and its tests (task_id, prompt, entry_point, test)."""

    task: Literal["human_eval"] = "human_eval"
    data: str = "openai/openai_humaneval"


class DS1000(CodeTask):
    """DS-1000, completion: code to fill in for seven libraries, which `python` must have (prompt, code_context)."""

    task: Literal["ds_1000"] = "ds_1000"
    data: str = "xlangai/DS-1000"
    python: str = Field(min_length=1)
    seconds: float = Field(default=120.0, gt=0)
    memory_mib: int = Field(default=8192, ge=64)
