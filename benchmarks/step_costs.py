"""What a cached step of a model costs in this process: of one token, and of several at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from earnest.decoding.local import LocalMember
from earnest.models.loading import LoadedModel
from roofline import MOST_PROPOSED
from rows import Row, row
from runs import Seconds

PAST = 64
SHOWN = (1, 5, 9)
CALLS = 12


@dataclass(frozen=True)
class StepCosts:
    """Milliseconds of steps of 1, 2, ... tokens, ours and transformers': one list of repetitions per width."""

    name: str
    ours: tuple[list[float], ...]
    peer: tuple[list[float], ...]

    @property
    def seconds(self) -> tuple[float, ...]:
        """Our medians."""
        return tuple(median(times) / 1e3 for times in self.ours)

    def rows(self) -> Iterator[Row]:
        """Against transformers, at some widths."""
        for width in SHOWN:
            tokens = "1 token" if width == 1 else f"{width} tokens"
            yield row(f"step of {self.name}, {tokens}", self.ours[width - 1], self.peer[width - 1], "ms")


@torch.inference_mode()
def step_costs(name: str, loaded: LoadedModel, repeat: int, clock: str) -> StepCosts:
    """Steps behind `PAST` tokens; widths and contestants take turns, each repetition the median of some calls."""
    member = LocalMember(name, loaded, rows=1, slots=4 * PAST)
    past = loaded.model(input_ids=torch.arange(PAST)[None], use_cache=True).past_key_values
    member.read([0], [0], [list(range(PAST))])
    widths = range(1, MOST_PROPOSED + 2)
    ours: tuple[list[float], ...] = tuple([] for _ in widths)
    peer: tuple[list[float], ...] = tuple([] for _ in widths)
    for _ in range(repeat + 1):
        for width in widths:
            tokens = list(range(width))
            ours[width - 1].append(
                _milliseconds(lambda tokens=tokens: member.read([0], [PAST], [tokens]).result(), clock)
            )
            if width in SHOWN:
                peer[width - 1].append(
                    _milliseconds(lambda tokens=tokens: _transformers(loaded.model, past, tokens), clock)
                )
    return StepCosts(name, tuple(times[1:] for times in ours), tuple(times[1:] for times in peer))


def _transformers(model: Any, past: Any, tokens: list[int]) -> None:
    model(input_ids=torch.tensor([tokens]), past_key_values=past, use_cache=True).logits.float()
    past.crop(-len(tokens))


def _milliseconds(call: Callable[[], object], clock: str) -> float:
    taken = []
    for _ in range(CALLS):
        began = Seconds.now()
        call()
        taken.append(1e3 * float(getattr(Seconds.now() - began, clock)))
    return median(taken)
