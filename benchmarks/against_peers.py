"""Biographies of 60 to 90 tokens: the ensemble against the paper's way, and against its base alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from earnest.models.loading import LoadedModel
from naive_proxy import NaiveProxy
from rows import Row, row
from runs import Prompts, Run, Work, in_turn, timed, together
from setting import BASE, MOST, PROXY, Setting, drafting


def peers(setting: Setting) -> Iterator[Row]:
    """With one thread."""
    runs = in_turn(_works(setting), setting.repeat)
    _same(runs, "proxy", "undrafted", "paper", "batch", "paper's batch")
    _same(runs, "base", "base, looked up", "generate")
    n = setting.texts
    for work, ours, peer in (
        ("proxy, 1 text, against the paper's way", "proxy", "paper"),
        ("proxy undrafted, 1 text, against the paper's way", "undrafted", "paper"),
        (f"proxy, {n} texts, against the paper's way one by one", "batch", "paper"),
        (f"proxy, {n} texts, against the paper's static batch", "batch", "paper's batch"),
        ("proxy, 1 text, against base alone", "proxy", "base"),
        ("proxy, 1 text, against base alone with look-up", "proxy", "base, looked up"),
        ("proxy, 1 text, against base alone by transformers", "proxy", "generate"),
        ("base alone, 1 text, against transformers", "base", "generate"),
    ):
        yield setting.rates(work, runs[ours], runs[peer])
    yield from drafting("proxy, 1 text", runs["proxy"])
    yield from drafting(f"proxy, {n} texts", runs["batch"])


def peers_on_two_threads(setting: Setting) -> Iterator[Row]:
    """The chief rows again, by the wall's clock."""
    works = _works(setting)
    torch.set_num_threads(2)
    names = ("proxy", "paper", "batch", "paper's batch", "base")
    runs = in_turn({name: works[name] for name in names}, setting.repeat)
    torch.set_num_threads(1)
    for work, ours, peer in (
        ("proxy, 1 text, against the paper's way", "proxy", "paper"),
        (f"proxy, {setting.texts} texts, against the paper's way one by one", "batch", "paper"),
        (f"proxy, {setting.texts} texts, against the paper's static batch", "batch", "paper's batch"),
        ("proxy, 1 text, against base alone", "proxy", "base"),
    ):
        rates = ([run.rate("wall") for run in runs[name]] for name in (ours, peer))
        yield row(f"2 threads: {work}", *rates, "tokens/s")


def _works(setting: Setting) -> Mapping[str, Work]:
    alone, batched, base = setting.alone, setting.batched, setting.models["large"]
    naive = NaiveProxy(list(setting.ensemble.values()))

    def asked(number: int) -> Prompts:
        return setting.asked("biographies", number)

    return {
        "proxy": lambda i: alone.one_by_one(asked(i), PROXY, MOST),
        "paper": lambda i: together([timed(lambda ids=ids: naive.texts([ids], MOST)) for ids in asked(i)]),
        "batch": lambda i: batched.run(asked(i), PROXY, MOST),
        "paper's batch": lambda i: timed(lambda: naive.texts(asked(i), MOST)),
        "base": lambda i: alone.one_by_one(asked(i), BASE, MOST, draft=False),
        "base, looked up": lambda i: alone.one_by_one(asked(i), BASE, MOST),
        "generate": lambda i: together([timed(lambda ids=ids: generated(base, ids)) for ids in asked(i)]),
        "undrafted": lambda i: alone.one_by_one(asked(i), PROXY, MOST, draft=False),
    }


@torch.inference_mode()
def generated(loaded: LoadedModel, ids: tuple[int, ...]) -> tuple[list[str], int]:
    """The text of a prompt to its newline by transformers' own greedy generate, and how many tokens it has."""
    out = loaded.model.generate(
        input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
        max_new_tokens=MOST, do_sample=False, stop_strings=["\n"], tokenizer=loaded.tokenizer,
    )[0, len(ids) :]  # fmt: skip
    return [loaded.tokenizer.decode(out, skip_special_tokens=True).split("\n")[0]], len(out)


def _same(runs: Mapping[str, Sequence[Run]], *names: str) -> None:
    """Make sure that these wrote the same."""
    for name in names[1:]:
        for one, other in zip(runs[names[0]], runs[name], strict=True):
            assert one.texts == other.texts, f"{name} wrote other texts than {names[0]}"
