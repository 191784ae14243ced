"""What the members' own forward passes allow: every step that an engine had them make, made again with nothing between.

The steps are repeated in their order, with the same tokens in the same rows at the same positions, so that they find
the caches of the processor and the pasts of the texts as they did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from earnest.decoding.local import LocalMember
from earnest.models.loading import LoadedModel
from runs import SLOTS, Engine, Run, Seconds


class Steps:
    """Steps of some decoders, in order."""

    def __init__(self) -> None:
        self._made: list[Callable[[], Tensor]] = []

    def recorded(self, decoder: Any) -> Any:
        """The decoder, its steps recorded."""
        return _Recorded(decoder, self._made)

    @torch.inference_mode()
    def again(self) -> Seconds:
        """What all of them take back to back; they are forgotten."""
        began = Seconds.before()
        for step in self._made:
            step()
        taken = Seconds.now() - began
        self._made.clear()
        return taken


class _Recorded:
    """A decoder whose steps are kept."""

    def __init__(self, decoder: Any, made: list[Callable[[], Tensor]]) -> None:
        self._decoder, self._made = decoder, made

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], *rest: Any, **named: Any
    ) -> Any:
        """Read as the decoder does."""
        self._made.append(lambda: self._decoder.read(rows, starts, tokens, *rest, **named))
        return self._decoder.read(rows, starts, tokens, *rest, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._decoder, name)


class RecordedEngine(Engine):
    """An engine over models in this process that knows what its steps alone take."""

    def __init__(self, models: Mapping[str, LoadedModel], rows: int, proposals: int | None = None) -> None:
        self._steps = Steps()
        members = [
            LocalMember(name, model, rows=rows, slots=SLOTS, through=self._steps.recorded)
            for name, model in models.items()
        ]
        super().__init__(members, next(iter(models.values())).tokenizer, proposals)

    def measured(self, work: Callable[[Engine], Run]) -> tuple[Run, Seconds]:
        """A run, and the seconds of its steps alone."""
        self._steps.again()
        run = work(self)
        return run, self._steps.again()
