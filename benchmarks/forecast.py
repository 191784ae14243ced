"""What steps cost here, and what steps and acceptance predict: for these models, and for large ones on an H200."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from roofline import LLAMA_2, Costs, Machine, acceptance
from rows import Row, row
from runs import Run, in_turn
from setting import MOST, PROXY, Setting
from step_costs import step_costs


def steps(setting: Setting) -> Iterator[Row]:
    """Cached steps against transformers', and the loop against the rate that its steps alone would give."""
    costs = {
        name: step_costs(name, setting.models[name], setting.repeat, setting.clock)
        for name in ("large", "medium", "small")
    }
    for cost in costs.values():
        yield from cost.rows()
    runs = biographies(setting)
    here = Costs(costs["large"].seconds, costs["small"].seconds)
    proposals = round(sum(run.drafted for run in runs) / sum(run.rounds for run in runs))
    rate = 1 / here.drafted(accepted(runs), proposals, read(runs))
    ours = [run.rate(setting.clock) for run in runs]
    yield row("proxy, 1 text, against its models' steps alone", ours, [rate], "tokens/s")


def predicted(setting: Setting) -> Iterator[Row]:
    """By bytes moved: the ensemble drafted against undrafted and against its base alone."""
    for share, how in ((accepted(biographies(setting)), "as measured here"), (0.7, "0.7"), (0.9, "0.9")):
        yield from forecasts(share, f"acceptance {how}")


def forecasts(share: float, how: str) -> Iterator[Row]:
    """Milliseconds per token of one text, 512 tokens of context, pairs of 7B models, nothing guessed."""
    for size in ("13B", "70B"):
        costs = Costs.of(Machine(), LLAMA_2[size], LLAMA_2["7B"])
        proposals, drafted = costs.best(share)
        work = f"H200 predicted, {size} + 7B - 7B, {how}, {proposals} proposals"
        yield row(f"{work}, against undrafted", [1e3 * drafted], [1e3 * costs.plain], "ms/token")
        yield row(f"{work}, against base alone", [1e3 * drafted], [1e3 * costs.base[0]], "ms/token")


def biographies(setting: Setting) -> Sequence[Run]:
    """The ensemble's runs."""
    work = partial(_biographies, setting)
    return in_turn({"proxy": work}, setting.repeat)["proxy"]


def _biographies(setting: Setting, number: int) -> Run:
    return setting.alone.one_by_one(setting.asked("biographies", number), PROXY, MOST)


def read(runs: Sequence[Run]) -> float:
    """How many tokens a drafting step reads, those apart that were guessed in vain."""
    return sum(run.drafted + run.rounds for run in runs) / sum(run.steps for run in runs)


def accepted(runs: Sequence[Run]) -> float:
    """How likely a proposal is right if those before it were."""
    rounds = sum(run.rounds for run in runs)
    return acceptance(sum(run.tokens for run in runs) / rounds, sum(run.drafted for run in runs) / rounds)
