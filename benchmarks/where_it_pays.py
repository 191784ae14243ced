"""The ensemble against its base alone, undrafted, in the same engine, one text at a time: one thing changed each.

`allowed` is the rate that the members' steps alone would give, by the best of some ways of drafting or none.
"""

from __future__ import annotations

from collections.abc import Iterator

from earnest.decoding.requests import Mixture, Steering
from earnest.decoding.sampling import GREEDY, Sampling
from rows import Row
from runs import Engine, Prompts, Run, Seconds
from setting import BASE, MOST, PROXY, TASKS, Setting, drafting


def pays(setting: Setting) -> Iterator[Row]:
    """Tasks; then, on biographies, alphas, temperatures, and experts that cost more."""
    for task in TASKS:
        yield from _case(setting, task, PROXY, task=task)
    for alpha in (0.3, 1.6, 2.0, "adaptive"):
        mixture = Mixture("large", (Steering("small-tuned", "small", alpha),))
        yield from _case(setting, f"biographies, alpha {alpha}", mixture)
    for temperature in (0.7, 1.0):
        yield from _case(setting, f"biographies, temperature {temperature}", PROXY, Sampling(temperature=temperature))
    for expert, antiexpert in (("medium", "small"), ("large-tuned", "medium")):
        mixture = Mixture("large", (Steering(expert, antiexpert, 0.5),))
        yield from _case(setting, f"biographies, {expert} - {antiexpert} at alpha 0.5", mixture)


def _case(
    setting: Setting, what: str, mixture: Mixture, sampling: Sampling = GREEDY, task: str = "biographies"
) -> Iterator[Row]:
    ours: list[Run] = []
    base: list[Run] = []
    allowed: list[float] = []
    for number in range(setting.repeat // 2 + 2):
        prompts = setting.asked(task, number)
        found = _choices(setting, prompts, mixture, sampling)
        alone = setting.alone.one_by_one(prompts, BASE, MOST, sampling=sampling, draft=False)
        if number:  # a first one is not counted
            ours.append(found["clock"][0])
            base.append(alone)
            allowed.append(max(run.tokens / getattr(steps, setting.clock) for run, steps in found.values()))
    work = f"proxy against base alone: {what}"
    yield setting.rates(work, ours, base, allowed)
    yield from drafting(work, ours)


def _choices(
    setting: Setting, prompts: Prompts, mixture: Mixture, sampling: Sampling
) -> dict[str, tuple[Run, Seconds]]:
    """The run of each way of drafting, and of none, with the seconds of its steps alone; all write the same."""

    def work(engine: Engine, draft: bool = True) -> Run:
        return engine.one_by_one(prompts, mixture, MOST, sampling=sampling, draft=draft)

    found = {how: engine.measured(work) for how, engine in setting.choices.items()}
    found["none"] = setting.choices["clock"].measured(lambda engine: work(engine, draft=False))
    assert len({run.texts for run, _ in found.values()}) == 1, "drafted texts are others than undrafted ones"
    return found
