"""A member of a running batch in this process: a loaded model, read by the fastest pass that is true to it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from earnest.decoding.blocks import fits
from earnest.decoding.captured import CapturedDecoder
from earnest.decoding.compiled import CompiledDecoder, compiles
from earnest.decoding.drafting import Drafter, Readable
from earnest.decoding.fallback import RereadDecoder, StoredDecoder
from earnest.decoding.forward import CausalForward
from earnest.decoding.independence import holds_beyond_windows
from earnest.decoding.lean import LeanDecoder
from earnest.decoding.lean_pass import TOLERANCE
from earnest.decoding.members import Drafted, Wanted
from earnest.models.loading import LoadedModel

T = TypeVar("T")

_PROBE = 16


@dataclass(frozen=True)
class Done(Generic[T]):
    """An answer that is there already."""

    value: T

    def result(self) -> T:
        """The answer."""
        return self.value


class Decoder(Readable, Protocol):
    """A model with rows; what `LeanDecoder` and the fallbacks offer."""

    vocabulary: int

    @property
    def kind(self) -> str:
        """How the model is run."""

    @property
    def row_bytes(self) -> int:
        """What one row's past takes."""

    def copy(self, source: int, target: int, count: int) -> None:
        """As `members.Member.copy`."""


class LocalMember:
    """A model of a running batch that lies in this process; see `members.Member`. For one thread at a time.

    Args:
        name: how requests call it.
        loaded: the model. Its weights may be rearranged in memory; their values and the model's own use stay.
        rows: how many texts it holds at a time.
        slots: how many tokens each of them has room for.
        through: makes of the decoder what is asked in its place, such as one that records its steps.

    Raises:
        ValueError: `rows` or `slots` is not what the model can hold.
    """

    elsewhere = False

    def __init__(
        self,
        name: str,
        loaded: LoadedModel,
        *,
        rows: int,
        slots: int,
        through: Callable[[Decoder], Decoder] | None = None,
    ) -> None:
        if rows < 1:
            raise ValueError(f"member {name}: rows = {rows} holds no text; use at least 1")
        if not 1 <= slots <= loaded.max_length:
            raise ValueError(
                f"member {name}: slots = {slots}, but the model was made for texts of 1 to {loaded.max_length} tokens"
            )
        self.name, self.rows, self.slots = name, rows, slots
        self._decoder = decoder_for(loaded.model, rows, slots)
        if through is not None:
            self._decoder = through(self._decoder)
        self._drafter = Drafter(self._decoder, rows)

    @property
    def vocabulary(self) -> int:
        """How wide its logits are, padding rows of the head included."""
        return self._decoder.vocabulary

    @property
    def row_bytes(self) -> int:
        """What one row's past takes in memory."""
        return self._decoder.row_bytes

    @property
    def kind(self) -> Literal["lean", "transformers"]:
        """Whether the model is run by our own pass or by transformers."""
        return "lean" if self._decoder.kind == "lean" else "transformers"

    def read(
        self, rows: Sequence[int], starts: Sequence[int], tokens: Sequence[Sequence[int]], last: bool = False
    ) -> Done[Tensor]:
        """Read tokens into rows; see `members.Member.read`.

        Raises:
            ValueError: a row is not there or named twice, has nothing to read, or has no room for it.
        """
        self._check(rows, starts, [len(row) for row in tokens])
        for place in zip(rows, starts, tokens, strict=True):
            self._drafter.saw(*place)
        return Done(self._mended(rows, starts, tokens, last, self._decoder.read(rows, starts, tokens, last)))

    def draft(self, rows: Sequence[int], starts: Sequence[int], wanted: Sequence[Wanted]) -> Done[Drafted]:
        """Read each row's last written token, propose, and read the proposals too; see `members.Member.draft`.

        Raises:
            ValueError: a row is not there or named twice, or has no room for what it may propose.
        """
        self._check(rows, starts, [want.count + 1 for want in wanted])
        return Done(self._drafter.draft(rows, starts, wanted))

    def copy(self, source: int, target: int, count: int) -> None:
        """Give row `target` the first `count` tokens of row `source`'s past.

        Raises:
            ValueError: a row is not there, or has no such tokens.
        """
        self._check([source], [0], [count])
        self._check([target], [0], [count])
        if source != target:
            self._decoder.copy(source, target, count)
            self._drafter.copied(source, target, count)

    def _mended(
        self,
        rows: Sequence[int],
        starts: Sequence[int],
        tokens: Sequence[Sequence[int]],
        last: bool,
        logits: Tensor,
    ) -> Tensor:
        """The logits [tokens, vocabulary]; a row is wiped from the first position on whose are not finite.

        Nought times NaN is NaN: what such a row leaves behind would spoil texts that come after it. What it read
        before stays, because a refused proposal is no end of a text.
        """
        if not isfinite(logits.sum().item()):
            lengths = [1 if last else len(row) for row in tokens]
            broken = torch.split(~logits.amax(-1).isfinite(), lengths)
            for row, start, of in zip(rows, starts, broken, strict=True):
                if of.any():
                    self._decoder.clear(row, start + int(of.int().argmax()))
        return logits

    def _check(self, rows: Sequence[int], starts: Sequence[int], lengths: Sequence[int]) -> None:
        if len(set(rows)) != len(rows) or not rows:
            raise ValueError(f"member {self.name}: rows {list(rows)}; name at least one row, and each only once")
        for row, start, length in zip(rows, starts, lengths, strict=True):
            if not 0 <= row < self.rows:
                raise ValueError(f"member {self.name}: row {row} is not there; it has rows 0 to {self.rows - 1}")
            if start < 0 or length < 1 or start + length > self.slots:
                raise ValueError(
                    f"member {self.name}: {length} tokens from position {start} on do not fit row {row}; "
                    f"read at least one, within its {self.slots} slots"
                )


def decoder_for(model: Any, rows: int, slots: int) -> Decoder:
    """The fastest decoder whose logits are the model's own, by a probe."""
    if fits(model):
        lean = LeanDecoder(model, rows, slots)
        for kind in _kinds(lean):
            decoder, anew = kind(lean), partial(_works_anew, kind, model, min(rows, 3))
            if _works(decoder, model, rows, slots) and holds_beyond_windows(model, anew):
                return decoder
    return _by_transformers(CausalForward(model), rows, slots)


def _by_transformers(forward: CausalForward, rows: int, slots: int) -> Decoder:
    return (StoredDecoder if forward.cached else RereadDecoder)(forward, rows, slots)


def _works(decoder: Decoder, model: Any, rows: int, slots: int) -> bool:
    """Whether the probe is passed; what cannot be captured or compiled here does not pass it."""
    try:
        return _agrees(decoder, model, rows, slots)
    except Exception as error:  # drivers and compilers fail in many ways
        if not isinstance(decoder, CapturedDecoder | CompiledDecoder):
            raise
        logging.getLogger(__name__).warning(
            "%s cannot be used, decoding goes on without (%s: %s)", type(decoder).__name__, type(error).__name__, error
        )
        return False


def _works_anew(kind: Callable[[LeanDecoder], Decoder], model: Any, rows: int) -> bool:
    """The same of a decoder that is made for the probe, of the model as it now is."""
    return _works(kind(LeanDecoder(model, rows, _PROBE)), model, rows, _PROBE)


def _kinds(lean: LeanDecoder) -> Iterator[Callable[[LeanDecoder], Decoder]]:
    """What may run the model, the fastest first, each over a lean decoder."""
    if lean.device.type == "cuda":
        yield CapturedDecoder
    if compiles(lean):
        yield CompiledDecoder
    yield lambda plain: plain


@torch.inference_mode()
def _agrees(decoder: Decoder, model: Any, rows: int, slots: int) -> bool:
    """Whether texts read in pieces, in company and alone, get the logits that the model gives them whole."""
    width, company = min(_PROBE, slots), list(range(min(rows, 3)))
    texts = torch.randint(decoder.vocabulary, (len(company), width), generator=torch.Generator().manual_seed(0))
    wanted = model(input_ids=texts.to(model.device), use_cache=False).logits.float()
    found = torch.zeros_like(wanted)
    cuts = [max(1, width // 2 - row) for row in company]
    pieces = decoder.read(
        company, [0] * len(company), [text[:cut].tolist() for text, cut in zip(texts, cuts, strict=True)]
    )
    for row, (cut, piece) in enumerate(zip(cuts, torch.split(pieces, cuts), strict=True)):
        found[row, :cut] = piece
        for start, stop in ((cut, cut + 1), (cut + 1, width)):
            if start < stop <= width:
                found[row, start:stop] = decoder.read([row], [start], [texts[row, start:stop].tolist()])
    for row in company:
        decoder.clear(row, 0)
    known = wanted.isfinite()  # what is no number in the model's own logits cannot be compared
    error, scale = (part.where(known, 0.0).abs().max() for part in (found - wanted, wanted))
    return bool(error <= TOLERANCE[model.dtype] * scale)
