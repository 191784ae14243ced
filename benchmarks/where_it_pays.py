"""The ensemble against its base alone, undrafted, in the same engine, one text at a time: one thing changed each."""

from __future__ import annotations

from collections.abc import Iterator

from earnest.decoding.requests import Mixture, Steering
from earnest.decoding.sampling import GREEDY, Sampling
from rows import Row
from runs import in_turn
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
    engine = setting.alone
    runs = in_turn(
        {
            "proxy": lambda i: engine.one_by_one(setting.asked(task, i), mixture, MOST, sampling=sampling),
            "base": lambda i: engine.one_by_one(setting.asked(task, i), BASE, MOST, sampling=sampling, draft=False),
        },
        setting.repeat // 2 + 1,
    )
    work = f"proxy against base alone: {what}"
    yield setting.rates(work, runs["proxy"], runs["base"])
    yield from drafting(work, runs["proxy"])
