"""Short steps of a lean decoder as CUDA graphs: replayed whole, so that no time goes into launching their kernels.

A graph has fixed shapes and fixed addresses. So a step is padded to a bucket of rows, tokens and slots, its inputs are
written into tensors that stay, and everything else is computed from these. Away from CUDA the same steps run plainly.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from earnest.decoding.lean import LeanDecoder, block_of

MOST_TOKENS = 16
"""Tokens per row up to which a step is captured; more than that keep a GPU busy without it."""
MOST_GRAPHS = 32
LEAST_SPAN = 64
_WARM_UPS = 3


class FixedStep:
    """A step of fixed shape: `rows` rows of `width` tokens that see `span` slots.

    `together` rows are the first ones of the store in order, and are seen in place; others are gathered.
    """

    def __init__(self, decoder: LeanDecoder, rows: int, width: int, span: int, together: bool) -> None:
        self.decoder, self.rows, self.width, self.span = decoder, rows, width, span
        self._block = slice(0, rows) if together else None
        # Row number, then ids, then positions, of each row: one copy brings them all.
        self._inputs = torch.zeros((rows, 1 + 2 * width), dtype=torch.int64, device=decoder.device)
        self._inputs[:, 0] = torch.arange(rows)
        self._inputs[:, 1 + width :] = decoder.slots

    @torch.inference_mode()
    def __call__(self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]]) -> Tensor:
        """Logits [tokens, vocabulary] of these rows; the caller's own."""
        lines = [self._line(*row) for row in zip(rows, starts, tokens, strict=True)]
        # Rows that fill the bucket write to nobody's slot, so whose they are does not matter.
        lines += [self._line(row, 0, ()) for row in range(len(rows), self.rows)]
        self._inputs.copy_(torch.tensor(lines))
        if all(len(row) == self.width for row in tokens):
            return self._run()[: len(rows) * self.width].clone()
        real = [number * self.width + step for number, row in enumerate(tokens) for step in range(len(row))]
        chosen = torch.tensor(real, device=self._inputs.device)  # before the graph is launched: a copy waits for it
        return self._run().index_select(0, chosen)

    def _line(self, row: int, start: int, tokens: Sequence[int]) -> list[int]:
        empty = self.width - len(tokens)
        positions = range(start, start + len(tokens))
        return [row, *tokens, *[0] * empty, *positions, *[self.decoder.slots] * empty]

    def _run(self) -> Tensor:
        """Logits [rows * width, vocabulary] of the inputs, from their values alone."""
        ids, positions = self._inputs[:, 1 : 1 + self.width], self._inputs[:, 1 + self.width :]
        place = self.decoder.fixed(ids.flatten(), self._inputs[:, 0], positions, self.span, self._block)
        return self.decoder.logits(self.decoder.hidden(place))


class CapturedStep(FixedStep):
    """A step of fixed shape that is replayed as one CUDA graph; `pool` is the scratch memory that graphs share."""

    @torch.inference_mode()
    def __init__(self, decoder: LeanDecoder, rows: int, width: int, span: int, together: bool, pool: Any) -> None:
        super().__init__(decoder, rows, width, span, together)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(decoder.device):
            stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream())
            # Libraries set themselves up on first use, which a capture does not allow. All is written to nobody's slot.
            with torch.cuda.stream(stream):
                for _ in range(_WARM_UPS):
                    super()._run()
            with torch.cuda.graph(self._graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                self._logits = super()._run()

    def _run(self) -> Tensor:
        self._graph.replay()
        return self._logits


class CapturedDecoder:
    """A lean decoder whose short steps have fixed shapes; on CUDA they are captured.

    The graphs used last are kept, `MOST_GRAPHS` of them. They share their scratch memory, which is safe because one
    runs at a time and its logits are copied before the next.
    """

    kind = "lean"

    def __init__(self, decoder: LeanDecoder) -> None:
        self.plain = decoder
        self.vocabulary = decoder.vocabulary
        self._steps: OrderedDict[tuple[int, int, int, bool], FixedStep] = OrderedDict()
        self._pool: Any = torch.cuda.graph_pool_handle() if decoder.device.type == "cuda" else None

    @property
    def row_bytes(self) -> int:
        """What one row's keys and values take."""
        return self.plain.row_bytes

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Tensor:
        """Read tokens into rows; see `members.Member.read`."""
        width = max(map(len, tokens))
        if width > MOST_TOKENS or (last and width > 1):  # a prompt: the head is needed at its end alone
            return self.plain.read(rows, starts, tokens, last)
        span = max(start + len(row) for start, row in zip(starts, tokens, strict=True))
        block = block_of(rows)
        together = block is not None and block.start == 0
        return self._step(len(rows), width, span, together)(rows, starts, tokens)

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past."""
        self.plain.copy(source, target, count)

    def clear(self, row: int, start: int) -> None:
        """Wipe a row from position `start` on."""
        self.plain.clear(row, start)

    def _step(self, rows: int, width: int, span: int, together: bool) -> FixedStep:
        plain = self.plain
        key = (
            _bucket(rows, 1, plain.rows),
            _bucket(width, 1, MOST_TOKENS),
            _bucket(span, LEAST_SPAN, plain.slots),
            together,
        )
        if key not in self._steps:
            captured = plain.device.type == "cuda"
            self._steps[key] = CapturedStep(plain, *key, self._pool) if captured else FixedStep(plain, *key)
            if len(self._steps) > MOST_GRAPHS:
                self._steps.popitem(last=False)
        self._steps.move_to_end(key)
        return self._steps[key]


def _bucket(count: int, least: int, most: int) -> int:
    """The next power of two, at least `least` and at most `most`."""
    return min(most, max(least, 1 << (count - 1).bit_length()))
