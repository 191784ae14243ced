"""Problems whose answers are programs: sample them, clean them as published, run them in the sandbox, count.

Which prompt is asked and how a completion becomes a program belongs to the tasks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from earnest.decoding.encoding import encode
from earnest.decoding.generation import Generation, Prompt
from earnest.decoding.sampling import Sampling
from earnest.evaluation.engine import Engine, Progress
from earnest.evaluation.samples import Measured, Sample, column, scored, unscored
from earnest.evaluation.sandbox import Limits, Outcome, run_all, walls
from earnest.records import Estimate
from earnest.specs.code import CodeTask
from earnest.statistics.intervals import bootstrap_mean
from earnest.statistics.passes import pass_at_k

KS = (1, 10)


@dataclass(frozen=True)
class Problem:
    """What is asked; what makes a program and its tests of a completion; a right completion, if one is known."""

    id: str
    prompt: str
    program: Callable[[str], tuple[str, str]]
    gold: str = ""
    domain: str = ""
    stratum: str = ""
    frequency: float | None = None


def solve(
    engine: Engine,
    spec: CodeTask,
    problems: Sequence[Problem],
    stops: tuple[str, ...],
    never_first: str = "",
    progress: Progress | None = None,
) -> Measured:
    """pass@k (Chen et al. 2021) of the problems.

    Args:
        engine: who writes the programs.
        spec: how many, how they are drawn, and what each may use.
        problems: what to solve.
        stops: strings that end a completion.
        never_first: a text that no completion begins with.
        progress: told how many completions are written, and of how many.

    Raises:
        UserError: this machine cannot isolate the programs.
    """
    walls(*([spec.python] if spec.python else []))  # before hours of sampling
    written = engine.generate(_prompts(engine, spec, problems, stops, never_first), progress)
    groups = [written[begin : begin + spec.samples] for begin in range(0, len(written), spec.samples)]
    outcomes = _run(spec, problems, groups)
    samples = [_sample(*each) for each in zip(problems, groups, outcomes, strict=True)]
    known = scored(samples)
    metrics = {f"pass_at_{k}": bootstrap_mean(column(known, f"pass_at_{k}")) for k in KS if k <= spec.samples}
    return Measured(samples, metrics, _pass_at_1)


def clean(completion: str) -> str:
    """A completion without the lines that assert or print, and without what is blank at its end (proxy-tuning)."""
    kept = [line for line in completion.split("\n") if not line.strip().startswith(("assert", "print"))]
    return "\n".join(kept).rstrip()


def _prompts(
    engine: Engine, spec: CodeTask, problems: Sequence[Problem], stops: tuple[str, ...], never_first: str
) -> list[Prompt]:
    """Every problem `samples` times, each with a seed of its own."""
    drawn = Sampling(
        temperature=spec.temperature, top_p=spec.top_p, seed=spec.seed, banned=_spellings(engine, spec.banned),
        never_first=_first_token(engine, never_first),
    )  # fmt: skip
    rows = encode(engine.tokenizer, [problem.prompt for problem in problems])
    return [
        Prompt(tuple(row), stops, spec.max_tokens, sampling=drawn.nth(number * spec.samples + n))
        for number, row in enumerate(rows)
        for n in range(spec.samples)
    ]


def _spellings(engine: Engine, texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """How a tokenizer may spell `texts`: at a line's beginning, and after a space."""
    ids = [_ids(engine, before + text) for text in texts for before in ("", " ")]
    return tuple(dict.fromkeys(each for each in ids if each))


def _first_token(engine: Engine, text: str) -> tuple[int, ...]:
    return _ids(engine, text)[:1] if text else ()


def _ids(engine: Engine, text: str) -> tuple[int, ...]:
    return tuple(engine.tokenizer(text, add_special_tokens=False)["input_ids"])


def _run(spec: CodeTask, problems: Sequence[Problem], groups: Sequence[Sequence[Generation]]) -> list[list[Outcome]]:
    """How every completion of every problem ends; equal programs are run once."""
    programs = [
        [problem.program(clean(generation.text)) for generation in group]
        for problem, group in zip(problems, groups, strict=True)
    ]
    distinct = list(dict.fromkeys(program for group in programs for program in group))
    ended = run_all(distinct, Limits(seconds=spec.seconds, memory_mib=spec.memory_mib), spec.python)
    outcome_of = dict(zip(distinct, ended, strict=True))
    return [[outcome_of[program] for program in group] for group in programs]


def _sample(problem: Problem, group: Sequence[Generation], outcomes: Sequence[Outcome]) -> Sample:
    passed = sum(outcome.passed for outcome in outcomes)
    more: dict[str, bool | int | float | str | None] = {
        **{f"pass_at_{k}": pass_at_k(len(group), passed, k) for k in KS if k <= len(group)},
        "passed": passed,
        "completions": json.dumps([generation.text for generation in group], ensure_ascii=False),
        "outcomes": json.dumps([f"{outcome.status} {outcome.detail}".strip() for outcome in outcomes]),
        "tokens": sum(len(generation.ids) for generation in group),
    }
    sample = Sample(
        problem.id, problem.prompt, clean(group[0].text), problem.gold,
        correct=passed > 0 if len(group) == 1 else None, score=pass_at_k(len(group), passed, 1),
        truncated=any(generation.cut > 0 for generation in group),
        domain=problem.domain, stratum=problem.stratum, more=more,
    )  # fmt: skip
    return unscored(sample) if any(generation.finish == "not_finite" for generation in group) else sample


def _pass_at_1(samples: Sequence[Sample]) -> Estimate:
    return bootstrap_mean([sample.score or 0.0 for sample in samples])
