"""From documents to rows of tokens: every document whole in one row, first fit: models see how documents end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import torch
from tokenizers import Tokenizer
from torch import Tensor

from earnest.almanac.corpus import PHASES, document_stream
from earnest.almanac.recipe import Training
from earnest.almanac.tokenizer import BOS, EOS, PAD
from earnest.almanac.world import World

IGNORED = -100
_OPEN_ROWS = 16


def encoded(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[list[int]]:
    """Each text as <s> ... </s>, batch by batch."""
    source = iter(texts)
    while batch := list(islice(source, 256)):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            yield [BOS, *encoding.ids, EOS]


def first_fit(documents: Iterable[list[int]], length: int) -> Iterator[list[list[int]]]:
    """Rows of documents that together hold at most `length` tokens; a longer document is cut to `length`.

    Sixteen rows stay open; when none has room, the fullest is given out.
    """
    rows: list[list[list[int]]] = []
    used: list[int] = []
    for document in (d[:length] for d in documents):
        place = next((i for i, u in enumerate(used) if u + len(document) <= length), None)
        if place is None and len(rows) == _OPEN_ROWS:
            fullest = max(range(len(rows)), key=used.__getitem__)
            used.pop(fullest)
            yield rows.pop(fullest)
        if place is None:
            place = len(rows)
            rows.append([])
            used.append(0)
        rows[place].append(document)
        used[place] += len(document)


def flat(row: Iterable[list[int]]) -> list[int]:
    """The documents of a row as one list of tokens."""
    return list(chain.from_iterable(row))


def padded(rows: Iterable[list[int]], length: int, fill: int) -> Tensor:
    """Rows as one tensor [rows, length] of int64, filled up on the right."""
    return torch.tensor([row + [fill] * (length - len(row)) for row in rows], dtype=torch.int64)


def training_rows(world: World, tokenizer: Tokenizer, training: Training) -> Tensor:
    """All rows of a pretraining in order, [steps * rows, length + 1] of int16: phase after phase."""
    length, shares = training.length + 1, training.curriculum.model_dump()
    ends = _phase_ends(training, list(shares.values()))
    parts: list[Tensor] = []
    for index, name in enumerate(shares):
        count = (ends[index] - (ends[index - 1] if index else 0)) * training.rows
        stream = document_stream(world, PHASES[name], training.seed * 100 + index)
        packed = islice(first_fit(encoded(tokenizer, stream), length), count)
        parts.append(padded((flat(row) for row in packed), length, PAD).to(torch.int16))
    return torch.cat([p for p in parts if len(p)])


def _phase_ends(training: Training, shares: list[float]) -> list[int]:
    """The step at which each phase ends; the last ends with the training."""
    return [round(training.steps * sum(shares[: i + 1])) for i in range(len(shares))]


def rows_digest(rows: Tensor) -> str:
    """sha256 of a tensor's shape and values."""
    content = str(tuple(rows.shape)).encode() + rows.to(torch.int64).numpy().tobytes()
    return hashlib.sha256(content).hexdigest()
