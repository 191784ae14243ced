"""Proxy-tuning's published per-item outcomes, paired: its metrics again, and which of its differences hold.

    python tests/compare/published.py ../shared/data/proxy_tuning_outcomes.parquet > docs/results/published-outcomes.md

The outcomes are those of arXiv 2401.08565, as its repository published them; they are not part of this repository.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from earnest.records import Estimate
from earnest.samples import Samples, match_up
from earnest.statistics.paired import gap_closed
from earnest.statistics.passes import pass_at_k
from earnest.statistics.versus import Versus, judge

SIZES = ("13B", "70B")


@dataclass(frozen=True)
class Task:
    """A published task: the outcomes it is read from, how people call it, and who plays which part."""

    name: str
    source: str
    base: str
    expert: str
    proxy: str
    tuned: str
    lower: bool = False


CHAT = ("llama2-{}", "llama2-chat-7B", "dexperts-{}", "llama2-chat-{}")
HELPFUL = ("llama2-{}", *(f"{name}-helpful-prompt" for name in CHAT[1:]))
TASKS = (
    Task("GSM8K, chat", "gsm8k", *CHAT),
    Task("GSM8K, task expert", "gsm8k", "llama2-{}", "llama2-gsm-7B", "dexperts-gsm-{}", "llama2-gsm-{}"),
    Task("AlpacaFarm win rate", "alpaca_win", *CHAT),
    Task("TruthfulQA true and informative", "truthfulqa_both", *HELPFUL),
    Task("TruthfulQA choice, invalid is wrong", "truthfulqa_mc", *HELPFUL),
    Task("ToxiGen toxic, less is better", "toxigen_is_toxic", *CHAT, lower=True),
    Task(
        "HumanEval pass@10", "humaneval_pass_10",
        "llama2-{}-t0.8", "codellama-7B-t0.8", "dexperts-{}-t0.8", "codellama-{}-t0.8",
    ),
)  # fmt: skip

ABOUT = """\
# Which of proxy-tuning's published differences hold

Recomputed from the per-item outcomes that the paper's repository published, paired by item
([arXiv 2401.08565](https://arxiv.org/abs/2401.08565)); {} comparisons judged as one family (Holm, 5 %). p, bold where
a difference is shown, is of no change at all. *Matches*: within 5 % of the other, relative, shown; *falls*, *rises*:
worse, better by more than that, shown; *no worse*: matches or rises, shown, and n is what would tell them apart.
Percent; intervals are of 95 %. Base is Llama 2, the expert has 7B. There are no per-item outcomes of DS-1000,
TriviaQA, AlpacaFarm's bases and ToxiGen's expert.
"""


def read_outcomes(path: Path) -> dict[tuple[str, str], Samples]:
    """(task, model) -> its samples. A choice without an answer is wrong; wins are preferences − 1, draws count half."""
    rows: dict[tuple[str, str], list[tuple[str, float | None, int]]] = defaultdict(list)
    for row in pq.read_table(path).to_pylist():
        rows[row["task"], row["model"]].append((row["item"], row["value"], row["n"]))
    found = {}
    for (task, model), items in rows.items():
        ids, values = tuple(item for item, _, _ in items), [value for _, value, _ in items]
        if task == "alpaca_preference":
            found["alpaca_win", model] = _samples("alpaca_win", ids, [value - 1 for value in values])
        elif task == "humaneval_pass_counts":
            passes = [pass_at_k(n, round(value), 10) for _, value, n in items]
            found["humaneval_pass_10", model] = _samples("humaneval_pass_10", ids, passes)
        else:
            found[task, model] = _samples(task, ids, [value or 0.0 for value in values])
    for model in [model for task, model in found if task == "truthfulqa_true"]:
        true, informative = found["truthfulqa_true", model], found["truthfulqa_info", model]
        both = [a * b for a, b in zip(true.above, informative.above, strict=True)]
        found["truthfulqa_both", model] = _samples("truthfulqa_both", true.ids, both)
    return found


def _samples(task: str, ids: tuple[str, ...], values: list[float]) -> Samples:
    lower = any(known.lower for known in TASKS if known.source == task)
    return Samples(task, "share", not lower, ids, ids, np.array(values, dtype=np.float64), np.ones(len(values)))


def differences(outcomes: dict[tuple[str, str], Samples]) -> list[Versus]:
    """The paper's comparisons, as one family: the proxy against its base, its expert and the directly tuned model."""
    matchups = []
    for task in TASKS:
        for size in SIZES:
            proxy = outcomes[task.source, task.proxy.format(size)]
            for part in ("base", "expert", "tuned"):
                other = outcomes.get((task.source, getattr(task, part).format(size)))
                if other is not None:
                    matchups.append(match_up(proxy, other, f"{task.name}|{size}|{part}"))
    return judge(matchups)


def gaps(outcomes: dict[tuple[str, str], Samples]) -> Iterator[tuple[str, str, Estimate]]:
    """Task, size, and the share of the way from base to the directly tuned model that the proxy goes."""
    for task in TASKS:
        for size in SIZES:
            sides = [outcomes.get((task.source, name.format(size))) for name in (task.base, task.proxy, task.tuned)]
            if all(sides):
                yield task.name, size, gap_closed(*(side.above for side in sides if side is not None))


def markdown(outcomes: dict[tuple[str, str], Samples]) -> Iterator[str]:
    """The page docs/results/published-outcomes.md, line by line."""
    rows = differences(outcomes)
    yield ABOUT.format(len(rows))
    yield "| task | size | proxy | against | difference | relative | p | verdict |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in rows:
        task, size, part = row.name.split("|")
        gap = row.difference
        relative = "" if row.relative is None else f"{100 * row.relative:+.1f} %"
        p = "< 0.001" if row.p_holm < 0.001 else f"{row.p_holm:.3f}"
        p = f"**{p}**" if row.changed else p
        needed = f", needs n ≈ {row.needed:,}" if row.needed else ""
        yield (
            f"| {task} | {size} | {100 * row.a:.2f} | {part} {100 * row.b:.2f} | {100 * gap.value:+.2f} "
            f"[{100 * (gap.low or 0):+.2f}, {100 * (gap.high or 0):+.2f}] | {relative} | {p} | {row.verdict}{needed} |"
        )
    yield "\nHow much of the gap between base and directly tuned model the proxy closes:\n"
    yield "| task | size | gap closed |"
    yield "|---|---|---|"
    for task, size, closed in gaps(outcomes):
        yield (
            f"| {task} | {size} | {100 * closed.value:.1f} % [{100 * (closed.low or 0):.1f}, "
            f"{100 * (closed.high or 0):.1f}] |"
        )


if __name__ == "__main__":
    print("\n".join(markdown(read_outcomes(Path(sys.argv[1])))))
