"""Where a model turns its queries and keys by other angles, because the text is longer: longrope and dynamic NTK.

Such a model reads all tokens of a long text otherwise than it would those of a short one that begins alike. What was
read of a text then holds on one side of a switch only, and texts on two sides of one cannot be read at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class RopeSwitches:
    """The lengths, in tokens, beyond which a text is read otherwise.

    Beyond each of `fixed` other angles hold (longrope's short and long factors); beyond `growing` every length has its
    own (dynamic NTK).
    """

    fixed: tuple[int, ...] = ()
    growing: int | None = None

    @property
    def first(self) -> int | None:
        """The longest text that is read as all shorter ones are; None where all are."""
        return min((*self.fixed, *(() if self.growing is None else (self.growing,))), default=None)

    def side(self, length: int) -> tuple[int, int]:
        """Texts of lengths with equal sides are read alike."""
        beyond = 0 if self.growing is None else max(0, length - self.growing)
        return sum(length > switch for switch in self.fixed), beyond

    def runs(self, start: int, count: int) -> Iterator[int]:
        """How many of `count` tokens behind `start` follow one another on the same side, run by run."""
        begin = start
        for end in range(start + 1, start + count + 1):
            if end == start + count or self.side(end) != self.side(end + 1):
                yield end - begin
                begin = end


NO_SWITCHES = RopeSwitches()


def rope_switches(model: Any) -> RopeSwitches:
    """The switches of a model's rotary embeddings."""
    fixed: set[int] = set()
    growing: set[int] = set()
    for module, layer, kind in _rotaries(model):
        if kind == "longrope":
            parameters = module.config.rope_parameters
            fixed.add(int((parameters if layer is None else parameters[layer])["original_max_position_embeddings"]))
        elif "dynamic" in kind:
            growing.add(int(module.original_max_seq_len))
    return RopeSwitches(tuple(sorted(fixed)), min(growing, default=None))


def forget_lengths(model: Any) -> None:
    """Let dynamic rotary embeddings forget the longest text that they saw: they would read the next one by it."""
    for module, layer, kind in _rotaries(model):
        if "dynamic" in kind:
            prefix = "" if layer is None else f"{layer}_"
            current = getattr(module, f"{prefix}inv_freq")
            original = getattr(module, f"{prefix}original_inv_freq").to(current.device)
            module.register_buffer(f"{prefix}inv_freq", original, persistent=False)
            setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)


def _rotaries(model: Any) -> Iterator[tuple[Any, str | None, str]]:
    """Each rotary embedding of a model, for each kind of layer that it has tables of its own for, and its type."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, str):
            yield module, None, kinds
        elif isinstance(kinds, dict):
            yield from ((module, layer, kind) for layer, kind in kinds.items())
