"""Where the tokens of one step lie, row after row without padding, and what each of them sees; for `lean_pass`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """Rows of different lengths side by side: where tokens stand in rows * width, and which token stands where.

    Behind its end a row repeats its last token, so that no row sees anything of another.
    """

    real: Tensor  # [tokens]
    shown: Tensor  # [rows * width]

    def spread(self, tokens: Tensor) -> Tensor:
        """[tokens, ...] as [rows * width, ...]."""
        return tokens.index_select(0, self.shown)

    def joined(self, places: Tensor) -> Tensor:
        """[rows * width, ...] as [tokens, ...]."""
        return places.index_select(0, self.real)


@dataclass(frozen=True)
class Layout:
    """Where new tokens of several rows lie, row after row without padding."""

    ids: Tensor  # [tokens]
    rows: Tensor  # [rows]
    owners: Tensor  # [tokens], the row of each
    slots: Tensor  # [tokens], the position of each in its row
    positions: Tensor  # [rows, width], from the first new token on, also behind a row's end
    padding: Padding | None  # None where all rows are equally long

    @classmethod
    def of(
        cls, tokens: Sequence[Sequence[int]], rows: Sequence[int], starts: Sequence[int], device: torch.device
    ) -> Layout:
        """Of `tokens` of each row, of which there may be none, from position `starts` on."""
        lengths, width = [*map(len, tokens)], max(map(len, tokens))
        uneven = min(lengths) < width
        parts: tuple[list[int], ...] = [], [*rows], [], [], [], [], []
        ids, _, owners, slots, real, shown, positions = parts
        for number, (new, owner, start, length) in enumerate(zip(tokens, rows, starts, lengths, strict=True)):
            begin, end = len(ids), len(ids) + length
            ids += new
            owners += [owner] * length
            slots += range(start, start + length)
            if uneven:
                real += range(number * width, number * width + length)
                last = max(0, end - 1)  # a row without tokens shows another's to nobody
                shown += [*range(begin, end), *[last] * (width - length)]
                positions += range(start, start + width)
        numbers = array("q", [*chain.from_iterable(parts)])  # a list to torch.tensor would take six times as long
        every = torch.split(torch.frombuffer(numbers, dtype=torch.int64).to(device), [*map(len, parts)])
        padding = Padding(every[4], every[5]) if uneven else None
        grid = every[6] if uneven else every[3]
        return cls(every[0], every[1], every[2], every[3], grid.view(len(rows), width), padding)


@dataclass(frozen=True)
class Sight:
    """What a layer's queries see of the keys that it is given, and of the trunk's; all of it where nothing is said.

    `causal` queries stand where their keys do, and see no later ones; where `pieces` are asked, none before the window.
    """

    mask: Tensor | None = None  # [rows or 1, 1, width or groups * width, slots], added to scores
    causal: bool = False
    pieces: bool = False
    trunk: Tensor | None = None  # [1, 1, groups * tokens, slots of the trunk], added to scores


ALL = Sight()


@dataclass(frozen=True)
class Place:
    """Where the tokens of one step go and what they see; one entry per layer in the lists of views.

    `ids` are the tokens, row after row without padding; `turn` is how their positions rotate queries and keys. `rows` x
    `width` is their padded shape, and `padding` how they stand in it, None where all are equally long.

    `written` is what new keys and values are put into, at the `slots` of the rows that own the tokens where it holds
    many; None keeps nothing. `keys` and `values` are what is seen, by the rows `chosen` where that holds more than
    theirs; where they are None, the tokens of a row see each other alone. `trunk` are keys and values that all tokens
    of all rows see beside that, unless `near` hides it; it lies before everything. `sight` is of layers that see all
    that was read, and `near` of those with a window, whose keys and values may begin where that does.
    """

    ids: Tensor  # [tokens]
    turn: tuple[Tensor, Tensor]  # [tokens, 1, width]
    rows: int
    width: int
    padding: Padding | None = None
    written: Sequence[Tensor] | None = None
    owners: Tensor | None = None  # [tokens]
    slots: Tensor | None = None  # [tokens]
    keys: Sequence[Tensor] | None = None
    values: Sequence[Tensor] | None = None
    chosen: Tensor | None = None  # [rows]
    sight: Sight = ALL
    near: Sight = ALL
    trunk: tuple[Sequence[Tensor], Sequence[Tensor]] | None = None  # [1, kv_heads, tokens, width] each
