"""Rows with a past for any causal language model, through transformers: what serves where `lean` does not fit.

Where the model keeps keys and values, its cache's layers write into our own store (`kv_cache`); where it does not
(state spaces), texts are read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from earnest.decoding.forward import CausalForward
from earnest.decoding.rope import RopeSwitches


class StoredDecoder:
    """Any model whose past can be kept, with the pasts of `rows` texts of at most `slots` tokens each."""

    kind = "transformers"

    def __init__(self, forward: CausalForward, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.forward = forward
        self.vocabulary = int(forward.model.get_output_embeddings().weight.shape[0])
        self._cache = forward.reader.cache(rows, slots)
        self.read([0], [0], [[0]])

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        return self._cache.row_bytes

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        return _by_sides(self._read, self.forward.switches, rows, starts, tokens, last)

    def _read(self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool) -> Tensor:
        hidden = self.forward.reader.read(self._cache, rows, starts, tokens)
        return _headed(self.forward, hidden, torch.tensor([*map(len, tokens)], device=hidden.device), last)

    @torch.inference_mode()
    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""
        self._cache.copy(source, target, count)

    @torch.inference_mode()
    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""
        self._cache.clear(row, start)


class RereadDecoder:
    """Any model at all, with the tokens of `rows` texts: every call reads them from the first token on."""

    kind = "transformers"
    row_bytes = 0

    def __init__(self, forward: CausalForward, rows: int, slots: int) -> None:
        self.rows, self.slots = rows, slots
        self.forward = forward
        self.vocabulary = int(forward.model.get_output_embeddings().weight.shape[0])
        self._texts: list[list[int]] = [[] for _ in range(rows)]

    @torch.inference_mode()
    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        return _by_sides(self._read, self.forward.switches, rows, starts, tokens, last)

    def _read(self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool) -> Tensor:
        for row, start, new in zip(rows, starts, tokens, strict=True):
            self._texts[row] = [*self._texts[row][:start], *new]
        hidden, _ = self.forward.extend([self._texts[row] for row in rows], None, keep=False)
        lengths = torch.tensor([len(new) for new in tokens], device=hidden.device)
        begins = torch.tensor(starts, device=hidden.device)[:, None]
        steps = torch.arange(int(lengths.max()), device=hidden.device).minimum(lengths[:, None] - 1)
        behind = hidden.gather(1, (begins + steps)[:, :, None].expand(-1, -1, hidden.shape[-1]))
        return _headed(self.forward, behind, lengths, last)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`."""
        self._texts[target] = self._texts[source][:count]

    def clear(self, row: int, start: int) -> None:
        """Nothing is kept that could be wiped but tokens, which are overwritten."""


Read = Callable[[Sequence[int], Sequence[int], Sequence[Sequence[int]], bool], Tensor]


def _by_sides(
    read: Read,
    switches: RopeSwitches,
    rows: Sequence[int],
    starts: Sequence[int],
    tokens: Sequence[Sequence[int]],
    last: bool,
) -> Tensor:
    """What `read` gives, some tokens at a time where all logits are wanted and a text crosses a switch of the rope.

    The logits after a token are then those of the text up to it, whatever was read along with it.
    """
    runs = [[*switches.runs(start, len(new))] for start, new in zip(starts, tokens, strict=True)]
    if last or max(map(len, runs)) == 1:
        return read(rows, starts, tokens, last)
    found: list[list[Tensor]] = [[] for _ in rows]
    done = [0] * len(rows)
    for turn in range(max(map(len, runs))):
        going = [i for i in range(len(rows)) if turn < len(runs[i])]
        news = [tokens[i][done[i] : done[i] + runs[i][turn]] for i in going]
        logits = read([rows[i] for i in going], [starts[i] + done[i] for i in going], news, False)
        for i, part in zip(going, torch.split(logits, [*map(len, news)]), strict=True):
            found[i].append(part)
            done[i] += len(part)
    return torch.cat([part for parts in found for part in parts])


def _headed(forward: CausalForward, hidden: Tensor, lengths: Tensor, last: bool) -> Tensor:
    """Logits of the hidden states [rows, width, hidden] of rows of `lengths`, or of each row's last one."""
    steps = torch.arange(hidden.shape[1], device=hidden.device)
    return forward.logits(hidden[steps == lengths[:, None] - 1 if last else steps < lengths[:, None]])
